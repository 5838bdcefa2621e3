"""How much two models differ on the same samples: the difference of a metric, and its paired bootstrap interval.

Both models are scored on the same resamples, so what makes a sample hard for both drops out, and the interval is
narrower than two intervals side by side would suggest. The unit that is resampled is the sequence, as everywhere.
Accuracy, F1, MCC, Spearman and contact precision cost what their own intervals cost, twice; metrics of ranks of
classes and labels are computed anew for each resample, some milliseconds each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from plmft.data.records import IGNORE, Kind
from plmft.metrics.classification import CLASS, confusion, f1_macro, mcc, protein_confusions
from plmft.metrics.contacts import CONTACT_NAMES, precisions
from plmft.metrics.evaluate import SCORERS, Values
from plmft.metrics.intervals import Statistic, resampled_indices, spearman_statistic
from plmft.metrics.probabilities import in_top5
from plmft.metrics.regression import REGRESSION, paired


@dataclass(frozen=True)
class Difference:
    """`value` is the one's metric less the other's, from `low` to `high` with 95 % confidence.

    low and high are None where they are not defined: fewer than 2 samples, or resamples without a value.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def is_significant(self) -> bool | None:
        """Whether the interval leaves 0 out; None: there is no interval."""
        return None if self.low is None or self.high is None else not self.low <= 0 <= self.high


def paired_difference(
    kind: Kind,
    primary: str,
    one: Values,
    other: Values,
    measured: Values,
    *,
    classes: Sequence[str] = (),
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Difference | None:
    """The difference of a metric of two models on the same records.

    Args: one, other: what Predictor.predict gives, in the order of the records. Others: as evaluate.
    Returns: None: the metric is not defined for one of them.
    """
    (first, n), (second, _) = (_statistic(kind, primary, values, measured, classes) for values in (one, other))
    whole = np.arange(n)
    ends = first(whole), second(whole)
    if ends[0] is None or ends[1] is None:
        return None
    found = [(first(i), second(i)) for i in resampled_indices(n, seed, resamples)] if n > 1 else []
    values = [a - b for a, b in found if a is not None and b is not None]
    tail = (1 - level) / 2
    if not found or len(found) - len(values) > tail * len(found):
        return Difference(ends[0] - ends[1], None, None)
    low, high = np.quantile(values, [tail, 1 - tail])
    return Difference(ends[0] - ends[1], float(low), float(high))


def _statistic(
    kind: Kind, primary: str, predicted: Values, measured: Values, classes: Sequence[str]
) -> tuple[Statistic, int]:
    """What takes indices of samples and gives their metric; and the number of samples."""
    make = BY_KIND.get(kind)
    found = None if make is None else make(primary, predicted, measured, classes)
    return found or _computed_anew(kind, primary, predicted, measured, classes)


def _regression(
    primary: str, predicted: Values, measured: Values, classes: Sequence[str]
) -> tuple[Statistic, int] | None:
    values, targets = paired(predicted, measured)
    if primary == "spearman":
        return spearman_statistic(values, targets), len(values)
    metric = REGRESSION[primary]
    return lambda i: metric(values[i], targets[i]), len(values)


def _sequences(
    primary: str, predicted: Values, measured: Values, classes: Sequence[str]
) -> tuple[Statistic, int] | None:
    probabilities, labels = np.asarray(predicted), np.asarray(measured)
    probabilities, labels = probabilities[labels != IGNORE], labels[labels != IGNORE]
    if primary in ("accuracy", "top5_accuracy"):
        right = in_top5(probabilities, labels) if primary != "accuracy" else probabilities.argmax(1) == labels
        return lambda i: float(right[i].mean()), len(labels)
    if primary not in CLASS:
        return None
    chosen, metric = probabilities.argmax(1), CLASS[primary]
    return lambda i: metric(confusion(chosen[i], labels[i], len(classes))), len(labels)


def _residues(
    primary: str, predicted: Values, measured: Values, classes: Sequence[str]
) -> tuple[Statistic, int] | None:
    labelled = [i for i, labels in enumerate(measured) if (labels != IGNORE).any()]
    chosen = [np.argmax(predicted[i], axis=1) for i in labelled]
    counts = protein_confusions(chosen, [measured[i] for i in labelled], len(classes))
    correct, total = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
    ways: dict[str, Statistic] = {
        "accuracy": lambda i: float(correct[i].sum() / total[i].sum()),
        "accuracy_per_protein": lambda i: float((correct[i] / total[i]).mean()),
        "mcc": lambda i: mcc(counts[i].sum(0)),
        "f1_macro": lambda i: f1_macro(counts[i].sum(0)),
    }
    return (ways[primary], len(labelled)) if primary in ways else None


def _contacts(primary: str, predicted: Values, measured: Values, classes: Sequence[str]) -> tuple[Statistic, int]:
    column = precisions(predicted, measured)[:, CONTACT_NAMES.index(primary)]
    column = column[~np.isnan(column)]  # which proteins define it depends on the measured ones alone
    return (lambda i: float(column[i].mean()) if len(column) else None), len(column)


def _computed_anew(
    kind: Kind, primary: str, predicted: Values, measured: Values, classes: Sequence[str]
) -> tuple[Statistic, int]:
    metrics = SCORERS[kind].metrics

    def statistic(indices: np.ndarray) -> float | None:
        found = metrics([predicted[i] for i in indices], [measured[i] for i in indices], classes)
        return found.get(primary)

    return statistic, len(measured)


BY_KIND: dict[Kind, Callable[[str, Values, Values, Sequence[str]], tuple[Statistic, int] | None]] = {
    "sequence_regression": _regression,
    "sequence_classification": _sequences,
    "pair_classification": _sequences,
    "residue_classification": _residues,
    "contacts": _contacts,
}
