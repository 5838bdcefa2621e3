"""A task's metrics, each computed once over all samples, and the interval of its primary one.

The interval costs 1,000 evaluations of the primary metric (about 0.3 s for Spearman of 27,000 samples); metrics alone
are cheap enough for every validation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from plmft.data.records import Kind
from plmft.metrics.contacts import CONTACT_NAMES, contact_interval, contact_metrics
from plmft.metrics.intervals import bootstrap_interval, spearman_interval
from plmft.metrics.multilabel import MULTILABEL_NAMES, multilabel_interval, multilabel_metrics
from plmft.metrics.perplexity import PERPLEXITY_NAMES, perplexity_interval, perplexity_metrics
from plmft.metrics.probabilities import (
    RESIDUE_NAMES,
    SEQUENCE_NAMES,
    per_residue_interval,
    per_residue_metrics,
    sequence_interval,
    sequence_metrics,
)
from plmft.metrics.regression import REGRESSION, paired, regression_metrics
from plmft.metrics.variants import VARIANT_NAMES, variant_interval, variant_metrics

LOWER_IS_BETTER = ("mae", "mse", "rmse", "perplexity", "perplexity_per_protein")
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


def _regression_metrics(predicted: Values, measured: Values, classes: Sequence[str]) -> dict[str, float]:
    return regression_metrics(predicted, measured)


def _check(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        near = get_close_matches(value, allowed, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{value!r} is no known {what}.{hint} Known: {', '.join(allowed)}.")


SEQUENCES = Scorer(SEQUENCE_NAMES, sequence_metrics, sequence_interval)
SCORERS: dict[Kind, Scorer] = {
    "sequence_regression": Scorer(tuple(REGRESSION), _regression_metrics, regression_interval),
    "sequence_classification": SEQUENCES,
    "pair_classification": SEQUENCES,
    "sequence_multilabel": Scorer(MULTILABEL_NAMES, multilabel_metrics, multilabel_interval),
    "contacts": Scorer(CONTACT_NAMES, contact_metrics, contact_interval),
    "variant_scoring": Scorer(VARIANT_NAMES, variant_metrics, variant_interval),
    "masked_lm": Scorer(PERPLEXITY_NAMES, perplexity_metrics, perplexity_interval),
    "residue_classification": Scorer(RESIDUE_NAMES, per_residue_metrics, per_residue_interval),
}
