"""A task's metrics, each computed once over all samples, and the interval of its primary one.

The interval costs 1,000 evaluations of the primary metric (about 0.3 s for Spearman of 27,000 samples); metrics alone
are cheap enough for every validation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from plmft.data.records import Kind
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
Values = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """How the predictions of a kind of task are scored.

    Args:
        names: what may be a primary metric.
        metrics: takes predicted, measured and the names of the classes; gives all that is defined, by name.
        interval: takes the primary metric's name, predicted, measured, class names and a seed; gives its bootstrap
            95 % interval, or None where that is not defined.
    """

    names: tuple[str, ...]
    metrics: Callable[[Values, Values, Sequence[str]], dict[str, float]]
    interval: Callable[[str, Values, Values, Sequence[str], int], Interval]


def evaluate(
    kind: Kind,
    predicted: Values,
    measured: Values,
    *,
    classes: Sequence[str] = (),
    seed: int,
    with_intervals: bool = True,
    primary: str,
) -> dict[str, float]:
    """All metrics of a kind, and `<primary>_ci_low` and `_ci_high`, the primary metric's bootstrap 95 % interval.

    Args:
        kind: a key of SCORERS.
        predicted: what Predictor.predict gives. measured: the records' targets. IGNORE: no label.
        classes: names in the order of the class numbers.
        seed: of the bootstrap.
        primary: one of SCORERS[kind].names.
    Returns: by name; what is not defined is left out (see regression_metrics, class_metrics, bootstrap_interval).
    Raises: ValueError: unknown kind or primary metric, and as the metrics of the kind.
    """
    _check("kind", kind, tuple(SCORERS))
    scorer = SCORERS[kind]
    _check(f"metric of {kind}", primary, scorer.names)
    metrics = scorer.metrics(predicted, measured, classes)
    if with_intervals and primary in metrics:
        ends = scorer.interval(primary, predicted, measured, classes, seed)
        if ends is not None:
            metrics[f"{primary}_ci_low"], metrics[f"{primary}_ci_high"] = ends
    return metrics


def regression_interval(
    primary: str, predicted: Values, measured: Values, classes: Sequence[str], seed: int
) -> Interval:
    """The interval of a metric of `REGRESSION`; samples are resampled."""
    if primary == "spearman":
        return spearman_interval(predicted, measured, seed=seed)
    predicted, measured = paired(predicted, measured)
    metric = REGRESSION[primary]
    return bootstrap_interval(lambda i: metric(predicted[i], measured[i]), len(measured), seed=seed)


def _classes_of(probabilities: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.argmax(p, axis=-1) for p in probabilities]


def _residue_metrics(predicted: Values, measured: Values, classes: Sequence[str]) -> dict[str, float]:
    return residue_metrics(_classes_of(predicted), measured, classes)


def residue_interval(primary: str, predicted: Values, measured: Values, classes: Sequence[str], seed: int) -> Interval:
    """The interval of a metric of `RESIDUE`; proteins that have a label are resampled."""
    n_classes = len(classes)
    counts = protein_confusions(_classes_of(predicted), measured, n_classes)
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


def _class_metrics(predicted: Values, measured: Values, classes: Sequence[str]) -> dict[str, float]:
    return class_metrics(np.argmax(np.asarray(predicted), axis=-1), np.asarray(measured), classes)


def class_interval(primary: str, predicted: Values, measured: Values, classes: Sequence[str], seed: int) -> Interval:
    """The interval of a metric of `CLASS`; labelled sequences are resampled."""
    n_classes = len(classes)
    codes = pair_codes(np.argmax(np.asarray(predicted), axis=-1), np.asarray(measured), n_classes, "sequences")
    metric = CLASS[primary]

    def statistic(indices: np.ndarray) -> float | None:
        return metric(np.bincount(codes[indices], minlength=n_classes**2).reshape(n_classes, n_classes))

    return bootstrap_interval(statistic, len(codes), seed=seed)


def _regression_metrics(predicted: Values, measured: Values, classes: Sequence[str]) -> dict[str, float]:
    return regression_metrics(predicted, measured)


def _check(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        near = get_close_matches(value, allowed, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{value!r} is no known {what}.{hint} Known: {', '.join(allowed)}.")


SCORERS: dict[Kind, Scorer] = {
    "sequence_regression": Scorer(tuple(REGRESSION), _regression_metrics, regression_interval),
    "residue_classification": Scorer(tuple(RESIDUE), _residue_metrics, residue_interval),
    "sequence_classification": Scorer(tuple(CLASS), _class_metrics, class_interval),
    "pair_classification": Scorer(tuple(CLASS), _class_metrics, class_interval),
}
