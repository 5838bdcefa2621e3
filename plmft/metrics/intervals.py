"""Percentile bootstrap intervals (Efron & Tibshirani 1993): resample the samples, compute the statistic again.

The unit that is resampled is what is independent: the sequence, never the residue. A resample is drawn as indices, but
only how often each sample occurs matters, so Spearman needs one sort for all resamples: the dense ranks are kept, and a
count of each gives the exact average ranks in O(n). 27,217 samples x 1,000 resamples cost about 0.3 s on one core.
"""

from collections.abc import Callable, Iterator

import numpy as np

from plmft.metrics.regression import paired

Statistic = Callable[[np.ndarray], float | None]


def bootstrap_interval(
    statistic: Statistic, n: int, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float] | None:
    """Lower and upper end of the interval that holds `level` of the resampled statistics.

    Args:
        statistic: takes (n,) int64 indices of a resample; gives its value, or None where that is not defined.
        n: samples.
    Returns: None if n is less than 2, or if more than (1 - level) / 2 of the resamples have no value: the ends would
        then hang on what was left out.
    """
    if n < 2:
        return None
    found = [statistic(indices) for indices in resampled_indices(n, seed, resamples)]
    values = [value for value in found if value is not None]
    tail = (1 - level) / 2
    if len(found) - len(values) > tail * len(found):
        return None
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def resampled_indices(n: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """(n,) int64 indices drawn with replacement, one array a resample; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(0, n, n)


def spearman_interval(
    predicted: np.ndarray, measured: np.ndarray, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of Spearman's correlation, ranked again in each resample; predicted, measured (n,) float64.

    Returns, Raises: as bootstrap_interval and regression_metrics.
    """
    statistic = spearman_statistic(*paired(predicted, measured))
    return bootstrap_interval(statistic, len(predicted), seed=seed, resamples=resamples, level=level)


def spearman_statistic(predicted: np.ndarray, measured: np.ndarray) -> Statistic:
    """Spearman's correlation of a resample in O(n), exact with ties; predicted, measured (n,) float64."""
    dense_p, dense_m = (np.unique(values, return_inverse=True)[1] for values in (predicted, measured))

    def statistic(indices: np.ndarray) -> float | None:
        times = np.bincount(indices, minlength=len(dense_p)).astype(np.float64)
        ranks_p, squares_p = _centred_ranks(dense_p, times)
        ranks_m, squares_m = _centred_ranks(dense_m, times)
        if squares_p == 0 or squares_m == 0:
            return None
        return float(np.clip((times * ranks_p) @ ranks_m / np.sqrt(squares_p * squares_m), -1, 1))

    return statistic


def _centred_ranks(dense: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Average ranks less their mean, for samples that occur `times` times; and the sum of their squares.

    All are multiples of 1/2 and so exact: a constant resample has a sum of exactly 0.
    """
    counts = np.bincount(dense, weights=times)
    ends = counts.cumsum()
    ranks = ends - (counts - 1) / 2 - (ends[-1] + 1) / 2
    return ranks[dense], float(counts @ ranks**2)


def accuracy_interval(
    correct: np.ndarray, labelled: np.ndarray, *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval of the accuracy over residues when proteins are resampled.

    Args:
        correct, labelled: (P,) int64 counts of residues in each protein; proteins without a label are left out.
    Returns: as bootstrap_interval.
    """
    correct, labelled = correct[labelled > 0], labelled[labelled > 0]

    def statistic(indices: np.ndarray) -> float:
        return float(correct[indices].sum() / labelled[indices].sum())

    return bootstrap_interval(statistic, len(labelled), seed=seed, resamples=resamples, level=level)
