"""What to believe of a prediction: conformal intervals and sets, and calibrated probabilities, from validation records.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): of n validation errors, the one of rank ⌈(n + 1)·level⌉
bounds a new record's error with a probability of at least `level`, whatever the model. For classes the error is one
minus the measured class's probability (Sadinle et al. 2019). The promise holds if validation and new records are
exchangeable, as two draws from one pool are. Splits by mutation count, family or time are not (TAPE's fluorescence:
validation has up to 3 mutations, test 4 and more), and a validation split that chose the checkpoint flatters a little:
coverage of a test split is therefore reported, not promised.

Kinds without a conformal answer: the residues of a protein depend on one another, so that a count of residues is not a
count of independent errors; and labels of a sequence have no one error. Both get calibrated probabilities alone. The
sets are cut from raw probabilities: the temperature has seen the same labels, and would spoil the promise.
Costs one sort, and the fit of a temperature (plmft.metrics.calibration).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from plmft.data.records import IGNORE, Kind
from plmft.metrics.calibration import (
    Reliability,
    fit_temperature,
    label_reliability,
    labels_with_temperature,
    reliability,
    two_classes,
    with_temperature,
)
from plmft.metrics.regression import paired

Values = np.ndarray | Sequence[Any]
CONFORMAL_CLASSES: tuple[Kind, ...] = ("sequence_classification", "pair_classification")
LEVEL = 0.9
LEAST_RECORDS = 9  # labelled validation records that an interval at LEVEL needs; a test holds it to `rank`
KINDS: tuple[Kind, ...] = (
    "sequence_regression",
    *CONFORMAL_CLASSES,
    "sequence_multilabel",
    "residue_classification",
)


@dataclass(frozen=True)
class Confidence:
    """What the validation split says of a model's errors; saved beside the model.

    Args:
        level: the share of records that intervals and sets are to cover.
        records: labelled validation records that it rests on.
        bound: the conformal bound of the error: in the unit of the values, or of 1 - p; None for kinds without.
        temperature: of the probabilities; None for regression.
    """

    kind: Kind
    level: float
    records: int
    bound: float | None = None
    temperature: float | None = None

    def metrics(self, predicted: Values, measured: Values) -> dict[str, float]:
        """Coverage and size of intervals or sets, and calibration error before and after, on other labelled records.

        Args: predicted, measured: as plmft.metrics.evaluate takes them.
        Returns: conformal_coverage_90 (at the level 0.9), conformal_width_90 in the unit of the values or
            conformal_set_size_90 in classes, temperature, ece, ece_calibrated; those of the kind. Nothing where no
            record has a label.
        """
        percent, found = f"{100 * self.level:g}", {}
        if self.kind == "sequence_regression":
            predicted, measured = paired(predicted, measured)
            found[f"conformal_coverage_{percent}"] = float((np.abs(predicted - measured) <= self.bound).mean())
            found[f"conformal_width_{percent}"] = 2 * self.bound
            return found
        probabilities, labels, records = FLAT[self.kind](predicted, measured)
        if not records:
            return {}
        if self.bound is not None:
            inside = self.classes(probabilities)
            found[f"conformal_coverage_{percent}"] = float(inside[np.arange(records), labels].mean())
            found[f"conformal_set_size_{percent}"] = float(inside.sum(1).mean())
        before, after = self.reliability(predicted, measured), self.reliability(predicted, measured, calibrated=True)
        return found | {"temperature": self.temperature, "ece": before.error, "ece_calibrated": after.error}

    def apply(self, prediction: float | np.ndarray) -> tuple[float, float] | np.ndarray:
        """The conformal interval (low, high) of a number; or the calibrated form of (C,) or (L, C) probabilities."""
        if self.kind == "sequence_regression":
            return float(prediction) - self.bound, float(prediction) + self.bound
        scaled = labels_with_temperature if self.kind == "sequence_multilabel" else with_temperature
        return scaled(np.asarray(prediction), self.temperature)

    def classes(self, probabilities: np.ndarray) -> np.ndarray:
        """(..., C) bool: the conformal set of raw (not calibrated) probabilities (..., C).

        A set may be empty: then no class is as likely as the measured ones mostly were.
        Raises: ValueError: a kind without conformal sets.
        """
        if self.kind not in CONFORMAL_CLASSES:
            raise ValueError(f"{self.kind} has no conformal sets. Kinds that have: {', '.join(CONFORMAL_CLASSES)}.")
        return _errors(probabilities) <= self.bound

    def reliability(self, predicted: Values, measured: Values, calibrated: bool = False) -> Reliability:
        """The data of a reliability diagram: over records, over labelled residues, or over (sequence, label) pairs.

        Raises: ValueError: regression; nothing has a label; a probability outside [0, 1].
        """
        if self.kind == "sequence_multilabel":
            probabilities = self.apply(np.asarray(predicted)) if calibrated else np.asarray(predicted)
            return label_reliability(probabilities, np.asarray(measured))
        if self.kind not in FLAT:
            raise ValueError(f"{self.kind} has no probabilities.")
        probabilities, labels, _ = FLAT[self.kind](predicted, measured)
        return reliability(self.apply(probabilities) if calibrated else probabilities, labels)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; numbers come back to the last bit."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Confidence":
        """Raises: ValueError: keys that are missing or unknown, or an unknown kind."""
        names = {field.name for field in fields(cls)}
        if set(values) != names or values["kind"] not in KINDS:
            raise ValueError(f"{dict(values)} is no confidence. It has {', '.join(sorted(names))}, of a known kind.")
        return cls(**values)


def fit_confidence(kind: Kind, predicted: Values, measured: Values, level: float = LEVEL) -> Confidence | None:
    """Learn from validation records how far to trust predictions of the same model.

    Args:
        predicted, measured: of the validation split, as plmft.metrics.evaluate takes them.
        level: in (0, 1).
    Returns: None for a kind without (contacts and what is not trained), and for fewer labelled records than an
        interval of that level needs: 9 at 0.9.
    Raises: ValueError: a level outside (0, 1), values that are not finite, unequal lengths.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: it must lie between 0 and 1.")
    if kind not in KINDS:
        return None
    if kind == "sequence_regression":
        predicted, measured = paired(predicted, measured) if len(measured) else (np.empty(0), np.empty(0))
        bound = conformal_bound(np.abs(predicted - measured), level)
        return None if bound is None else Confidence(kind, level, len(measured), bound)
    probabilities, labels, records = FLAT[kind](predicted, measured)
    if rank(records, level) > records:
        return None
    temperature = fit_temperature(probabilities, labels)
    if kind not in CONFORMAL_CLASSES:
        return Confidence(kind, level, records, temperature=temperature)
    bound = conformal_bound(_errors(probabilities)[np.arange(records), labels], level)
    return Confidence(kind, level, records, bound, temperature)


def conformal_bound(errors: np.ndarray, level: float) -> float | None:
    """The error of rank ⌈(n + 1)·level⌉ among n, float; None where n is too small to have it."""
    wanted = rank(len(errors), level)
    return None if wanted > len(errors) else float(np.partition(errors, wanted - 1)[wanted - 1])


def rank(n: int, level: float) -> int:
    """⌈(n + 1)·level⌉; more than n where n validation errors cannot bound another at that level."""
    return math.ceil((n + 1) * level - 1e-9)  # 0.9 of 10 is 9, whatever the last bit of 0.9 says


def _errors(probabilities: np.ndarray) -> np.ndarray:
    return 1 - np.asarray(probabilities, np.float64)


def _of_sequences(predicted: Values, measured: Values) -> tuple[np.ndarray, np.ndarray, int]:
    probabilities, labels = np.asarray(predicted), np.asarray(measured)
    kept = labels != IGNORE
    return probabilities[kept], labels[kept], int(kept.sum())


def _of_residues(predicted: Values, measured: Values) -> tuple[np.ndarray, np.ndarray, int]:
    if not len(measured):
        return np.empty((0, 1)), np.empty(0, np.int64), 0
    labels = np.concatenate(measured)
    kept = labels != IGNORE
    return np.concatenate(predicted)[kept], labels[kept], sum(bool((m != IGNORE).any()) for m in measured)


def _of_labels(predicted: Values, measured: Values) -> tuple[np.ndarray, np.ndarray, int]:
    return *two_classes(np.asarray(predicted), np.asarray(measured)), len(measured)


FLAT: dict[Kind, Callable[[Values, Values], tuple[np.ndarray, np.ndarray, int]]] = {
    "sequence_classification": _of_sequences,
    "pair_classification": _of_sequences,
    "sequence_multilabel": _of_labels,
    "residue_classification": _of_residues,
}  # probabilities and classes of all that is labelled, and the number of records that they come from
