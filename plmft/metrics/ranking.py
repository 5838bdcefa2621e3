"""How well scores rank positives above negatives: area under the ROC curve, and average precision.

Exact with ties. Costs one sort; a resample then costs one pass, for only how often each sample occurs matters.
"""

from collections.abc import Callable

import numpy as np

Statistic = Callable[[np.ndarray], float | None]
OfCounts = Callable[[np.ndarray, np.ndarray], float | None]


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Share of (positive, negative) pairs that are in the right order, ties counted half (Mann & Whitney 1947).

    Args: scores: (n,) float, higher is likelier. positive: (n,) bool.
    Returns: in [0, 1]; None unless there are both.
    """
    return _ranked(auroc_of_counts, scores, positive)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Mean of the precision at each positive, in order of falling score; equal scores are one step.

    Args, Returns: as auroc.
    """
    return _ranked(average_precision_of_counts, scores, positive)


def _ranked(metric: OfCounts, scores: np.ndarray, positive: np.ndarray) -> float | None:
    levels, at = np.unique(scores, return_inverse=True)
    return metric(*(np.bincount(at[chosen], minlength=len(levels)) for chosen in (positive, ~positive)))


def auroc_of_counts(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """positives, negatives: (levels,) how many have each score, from the lowest score up."""
    total = float(positives.sum()) * float(negatives.sum())
    if total == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float(positives @ (below + negatives / 2)) / total


def average_precision_of_counts(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """positives, negatives: (levels,) how many have each score, from the lowest score up."""
    if positives.sum() == 0 or negatives.sum() == 0:
        return None
    found, called = np.cumsum(positives[::-1]), np.cumsum((positives + negatives)[::-1])
    precision = np.divide(found, called, out=np.zeros(len(found)), where=called > 0)
    return float(precision @ positives[::-1]) / float(positives.sum())


def grouped_statistic(
    metric: OfCounts,
    scores: np.ndarray,
    positive: np.ndarray,
    group: np.ndarray,
    groups: int,
) -> Statistic:
    """A metric of counts on resampled groups (proteins), for bootstrap_interval.

    Args: scores: (n,) float. positive: (n,) bool. group: (n,) int64, the group of each, below `groups`.
    """
    order = np.argsort(scores, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    positive, group = positive[order], group[order]

    def statistic(indices: np.ndarray) -> float | None:
        weights = np.bincount(indices, minlength=groups)[group]
        positives = np.add.reduceat(np.where(positive, weights, 0), begins)
        return metric(positives, np.add.reduceat(np.where(positive, 0, weights), begins))

    return statistic
