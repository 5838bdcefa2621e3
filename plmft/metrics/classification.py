"""Metrics of classes, all derived from confusion counts: the mask is applied once, where the counts are made.

Residues are counted for each protein (P, C, C), whole sequences in one (C, C). Costs one pass over the labels and
8·P·C² bytes. A metric that is not defined is left out, never 0.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from plmft import InputError
from plmft.data.records import IGNORE


def residue_metrics(
    predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], classes: Sequence[str]
) -> dict[str, float]:
    """Accuracy and F1 over labelled residues.

    Args:
        predicted: for each protein (L,) integer class numbers; what stands at unlabelled residues doesn't matter.
        measured: the same, with IGNORE where there is no label.
        classes: names in the order of the class numbers.
    Returns: accuracy (over residues), accuracy_per_protein (mean over proteins that have a label), f1_macro (over the
        classes that occur in measured or predicted), and f1_<class> for each of these.
    Raises: ValueError: unequal lengths, or a class number outside [0, C). InputError: no residue has a label.
    """
    confusions = protein_confusions(predicted, measured, len(classes))
    scores = f1_scores(confusions.sum(0))
    named = zip(f1_names(classes), scores, strict=True)
    by_class = {name: float(f1) for name, f1 in named if np.isfinite(f1)}
    return {name: metric(confusions) for name, metric in RESIDUE.items()} | by_class


def class_metrics(predicted: np.ndarray, measured: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy, F1 (mean over the classes that occur in measured or predicted) and MCC of whole sequences.

    Args:
        predicted, measured: (n,) integer class numbers; measured has IGNORE where there is no label.
    Returns: by name; mcc is left out if all predictions, or all labels, are of one class.
    Raises: ValueError: unequal lengths, or a class number outside [0, C). InputError: nothing has a label.
    """
    counts = confusion(predicted, measured, len(classes))
    found = {name: metric(counts) for name, metric in CLASS.items()}
    return {name: value for name, value in found.items() if value is not None}


def confusion(predicted: np.ndarray, measured: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) int64 counts of labelled samples; rows are measured classes, columns predicted ones.

    Args, Raises: as class_metrics.
    """
    return protein_confusions([predicted], [measured], n_classes)[0]


def protein_confusions(predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], n_classes: int) -> np.ndarray:
    """(P, C, C) int64 counts of labelled residues in each protein. Args, Raises: as residue_metrics."""
    if len(predicted) != len(measured):
        raise ValueError(f"{len(predicted)} predicted proteins, but {len(measured)} measured ones.")
    counts = np.zeros((len(measured), n_classes, n_classes), np.int64)
    for number, (guess, truth) in enumerate(zip(predicted, measured, strict=True)):
        codes = pair_codes(guess, truth, n_classes, f"protein {number}")
        counts[number] = np.bincount(codes, minlength=n_classes**2).reshape(n_classes, n_classes)
    if not counts.any():
        n = sum(map(len, measured))
        raise InputError(
            f"all {n} measured classes are {IGNORE} (no label): nothing to score. Check the labels of the split."
        )
    return counts


def pair_codes(predicted: np.ndarray, measured: np.ndarray, n_classes: int, name: str) -> np.ndarray:
    """measured · C + predicted of each labelled element, (labelled,) int64: the one place where the mask is applied.

    Raises: ValueError: not two (n,) integer arrays of one length, or a class number outside [0, C); `name` names them.
    """
    predicted, measured = np.asarray(predicted), np.asarray(measured)
    if measured.ndim != 1 or predicted.shape != measured.shape:
        raise ValueError(
            f"{name}: predicted has shape {predicted.shape} and measured {measured.shape}; both must be (n,)."
        )
    for side, values in (("predicted", predicted), ("measured", measured)):
        if values.dtype.kind not in "iu":
            raise ValueError(f"{name}: {side} is {values.dtype}, not integer class numbers.")
    places = np.flatnonzero(measured != IGNORE)
    predicted, measured = predicted[places].astype(np.int64), measured[places].astype(np.int64)
    for side, values in (("predicted", predicted), ("measured", measured)):
        wrong = np.flatnonzero((values < 0) | (values >= n_classes))
        if len(wrong):
            raise ValueError(
                f"{name}: {side} class {values[wrong[0]]} at position {places[wrong[0]]} (from 0); "
                f"classes are 0 to {n_classes - 1}."
            )
    return measured * n_classes + predicted


def accuracy(counts: np.ndarray) -> float:
    """Share of labelled elements whose class is right; counts (..., C, C), all added up."""
    return float(np.trace(counts, axis1=-2, axis2=-1).sum() / counts.sum())


def accuracy_per_protein(counts: np.ndarray) -> float:
    """Mean of the accuracies of the proteins that have a label; counts (P, C, C)."""
    correct, labelled = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
    return float((correct[labelled > 0] / labelled[labelled > 0]).mean())


def f1_scores(counts: np.ndarray) -> np.ndarray:
    """(C,) float64 F1 of each class, NaN for one that occurs in neither measured nor predicted; counts (C, C)."""
    occurrences = counts.sum(0) + counts.sum(1)
    return np.divide(2 * np.diag(counts), occurrences, out=np.full(len(counts), np.nan), where=occurrences > 0)


def f1_names(classes: Sequence[str]) -> list[str]:
    """f1_<class> of each class, in characters that metric names may have; all others become `_`.

    Where that is the name of another metric or of an earlier class, the class number is added.
    """
    names = ["f1_macro", "f1_max"]
    for number, name in enumerate(classes):
        safe = f"f1_{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
        names.append(f"{safe}_{number}" if safe in names else safe)
    return names[2:]


def f1_macro(counts: np.ndarray) -> float:
    """Mean F1 over the classes that occur in measured or predicted; counts (C, C)."""
    return float(np.nanmean(f1_scores(counts)))


def mcc(counts: np.ndarray) -> float | None:
    """Matthews' correlation for C classes (Gorodkin 2004, R_K), in [-1, 1]; counts (C, C).

    None if all predictions, or all labels, are of one class: like any correlation with a constant, it is not defined.
    """
    measured, predicted = counts.sum(1).astype(float), counts.sum(0).astype(float)
    total = measured.sum()
    spread = (total**2 - measured @ measured) * (total**2 - predicted @ predicted)
    if spread == 0:
        return None
    return float(np.clip((np.trace(counts) * total - measured @ predicted) / np.sqrt(spread), -1, 1))


RESIDUE: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": accuracy,
    "accuracy_per_protein": accuracy_per_protein,
    "f1_macro": lambda counts: f1_macro(counts.sum(0)),
}
CLASS: dict[str, Callable[[np.ndarray], float | None]] = {"accuracy": accuracy, "f1_macro": f1_macro, "mcc": mcc}
