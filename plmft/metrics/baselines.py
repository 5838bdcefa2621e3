"""Context-free baselines: what a model must beat before it has learned anything about sequences.

Each costs one pass over the training labels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from plmft import InputError
from plmft.data.records import IGNORE, Kind, Record
from plmft.metrics.contacts import separation_baseline


def baseline_predictions(kind: Kind, train: Sequence[Record], test: Sequence[Record], n_classes: int) -> list | None:
    """What a predictor gives that never looks beyond one residue, in the form of Predictor.predict.

    The mean of the training targets; the frequency of each class or label in training, for residues by amino acid; for
    contacts the frequency by separation. None for a kind without targets.
    """
    targets = [record.target for record in train]
    if kind == "sequence_regression":
        return list(mean_regression(targets, len(test)))
    if kind == "residue_classification":
        return residue_frequencies([r.sequence for r in train], targets, [r.sequence for r in test], n_classes)
    if kind in ("sequence_classification", "pair_classification"):
        return [class_frequencies(targets, n_classes)] * len(test)
    if kind == "sequence_multilabel":
        return [np.mean(targets, axis=0, dtype=np.float32)] * len(test)
    if kind == "contacts":
        return separation_baseline(train, test)
    return None


def residue_frequencies(
    train_sequences: Sequence[str], train_labels: Sequence[np.ndarray], test_sequences: Sequence[str], n_classes: int
) -> list[np.ndarray]:
    """How often each amino-acid letter has each class in the training split.

    A letter without a training label gets the frequencies over all residues.

    Args:
        train_labels: for each training sequence (L,) integer class numbers, IGNORE where there is no label.
    Returns: for each test sequence (L, C) float32.
    Raises: ValueError: labels and sequences differ in length, or a class outside [0, C).
        InputError: no training residue has a label.
    """
    counts = np.zeros((128, n_classes), np.int64)
    for number, (sequence, labels) in enumerate(zip(train_sequences, train_labels, strict=True)):
        labels, letters = np.asarray(labels), _letters(sequence)
        if labels.shape != letters.shape:
            raise ValueError(
                f"training sequence {number} has {len(letters)} residues, but labels of shape {labels.shape}."
            )
        kept = labels != IGNORE
        if ((labels[kept] < 0) | (labels[kept] >= n_classes)).any():
            raise ValueError(f"training sequence {number} has a class outside 0 to {n_classes - 1}.")
        np.add.at(counts, (letters[kept], labels[kept]), 1)
    if not counts.any():
        raise InputError(f"none of {len(train_sequences)} training sequences has a label. Check the labels.")
    counts = np.where(counts.any(1, keepdims=True), counts, counts.sum(0))
    frequencies = (counts / counts.sum(1, keepdims=True)).astype(np.float32)
    return [frequencies[_letters(sequence)] for sequence in test_sequences]


def class_frequencies(train_classes: Sequence[int], n_classes: int) -> np.ndarray:
    """(C,) float32: how often each class occurs among the labelled. Raises: InputError: nothing has a label."""
    labelled = np.asarray(train_classes)
    labelled = labelled[labelled != IGNORE]
    if not len(labelled):
        raise InputError(f"none of {len(train_classes)} training sequences has a label. Check the labels.")
    return (np.bincount(labelled, minlength=n_classes) / len(labelled)).astype(np.float32)


def _letters(sequence: str) -> np.ndarray:
    return np.frombuffer(sequence.encode("ascii"), np.uint8)


def mean_regression(train_targets: ArrayLike, n: int) -> np.ndarray:
    """Predict the mean of the training targets for each of n samples: (n,) float64.

    Raises: ValueError: no targets, or one that is not finite.
    """
    targets = np.asarray(train_targets, np.float64)
    if not targets.size or not np.isfinite(targets).all():
        raise ValueError(
            f"the mean of {targets.size} training targets is not defined: all must be finite, at least one."
        )
    return np.full(n, targets.mean())
