"""A task's metrics, each computed once over all samples, and the interval of its primary one.

The interval costs 1,000 evaluations of the primary metric (about 0.3 s for Spearman of 27,000 samples); metrics alone
are cheap enough for every validation.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np

from plmft.metrics.classification import (
    CLASS,
    RESIDUE,
    class_metrics,
    f1_macro,
    pair_codes,
    protein_confusions,
    residue_metrics,
)
from plmft.metrics.intervals import accuracy_interval, bootstrap_interval, spearman_interval
from plmft.metrics.regression import REGRESSION, paired, regression_metrics

Interval = tuple[float, float] | None

# what a task of a kind may name as its primary metric
METRICS: dict[str, tuple[str, ...]] = {
    "sequence_regression": tuple(REGRESSION),
    "residue_classification": tuple(RESIDUE),
    "sequence_classification": tuple(CLASS),
}


def evaluate(
    kind: str,
    predicted: np.ndarray | Sequence[np.ndarray],
    measured: np.ndarray | Sequence[np.ndarray],
    *,
    classes: Sequence[str] = (),
    seed: int,
    with_intervals: bool = True,
    primary: str,
) -> dict[str, float]:
    """All metrics of a kind, and `<primary>_ci_low` and `_ci_high`, the primary metric's bootstrap 95 % interval.

    Args:
        kind: a key of METRICS.
        predicted, measured: sequence_regression: (n,) float64. sequence_classification: (n,) int64 class numbers.
            residue_classification: for each protein (L,) int64 class numbers. IGNORE in measured: no label.
        classes: names in the order of the class numbers.
        seed: of the bootstrap.
        primary: one of METRICS[kind].
    Returns: by name; what is not defined is left out (see regression_metrics, class_metrics, bootstrap_interval).
    Raises: ValueError: unknown kind or primary metric, and as the metrics of the kind.
    """
    _check(kind, primary)
    if kind == "sequence_regression":
        metrics, interval = regression_metrics(predicted, measured), regression_interval
    elif kind == "residue_classification":
        metrics, interval = residue_metrics(predicted, measured, classes), residue_interval
    else:
        metrics, interval = class_metrics(predicted, measured, classes), class_interval
    ends = interval(primary, predicted, measured, len(classes), seed) if with_intervals and primary in metrics else None
    if ends is not None:
        metrics[f"{primary}_ci_low"], metrics[f"{primary}_ci_high"] = ends
    return metrics


def regression_interval(
    primary: str, predicted: np.ndarray, measured: np.ndarray, n_classes: int, seed: int
) -> Interval:
    """The interval of a metric of `REGRESSION`; samples are resampled."""
    if primary == "spearman":
        return spearman_interval(predicted, measured, seed=seed)
    predicted, measured = paired(predicted, measured)
    metric = REGRESSION[primary]
    return bootstrap_interval(lambda i: metric(predicted[i], measured[i]), len(measured), seed=seed)


def residue_interval(
    primary: str, predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], n_classes: int, seed: int
) -> Interval:
    """The interval of a metric of `RESIDUE`; proteins that have a label are resampled."""
    counts = protein_confusions(predicted, measured, n_classes)
    correct, labelled = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
    if primary == "accuracy":
        return accuracy_interval(correct, labelled, seed=seed)
    kept = labelled > 0
    if primary == "accuracy_per_protein":
        shares = correct[kept] / labelled[kept]
        return bootstrap_interval(lambda i: float(shares[i].mean()), len(shares), seed=seed)
    flat = counts[kept].reshape(kept.sum(), n_classes**2)

    def statistic(indices: np.ndarray) -> float:
        return f1_macro((np.bincount(indices, minlength=len(flat)) @ flat).reshape(n_classes, n_classes))

    return bootstrap_interval(statistic, len(flat), seed=seed)


def class_interval(primary: str, predicted: np.ndarray, measured: np.ndarray, n_classes: int, seed: int) -> Interval:
    """The interval of a metric of `CLASS`; labelled sequences are resampled."""
    codes = pair_codes(predicted, measured, n_classes, "sequences")
    metric = CLASS[primary]

    def statistic(indices: np.ndarray) -> float | None:
        return metric(np.bincount(codes[indices], minlength=n_classes**2).reshape(n_classes, n_classes))

    return bootstrap_interval(statistic, len(codes), seed=seed)


def _check(kind: str, primary: str) -> None:
    for what, value, allowed in (("kind", kind, tuple(METRICS)), (f"metric of {kind}", primary, METRICS.get(kind, ()))):
        if value not in allowed:
            near = get_close_matches(value, allowed, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{value!r} is no known {what}.{hint} Known: {', '.join(allowed)}.")
