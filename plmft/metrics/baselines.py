"""Context-free baselines: what a model must beat before it has learned anything about sequences.

Each costs one pass over the training labels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from plmft import InputError
from plmft.data.records import IGNORE


def residue_majority(
    train_sequences: Sequence[str], train_labels: Sequence[np.ndarray], test_sequences: Sequence[str], n_classes: int
) -> list[np.ndarray]:
    """Predict for each amino-acid letter the class it most often has in the training split.

    Ties go to the lower class number. A letter without a training label gets the most frequent class of all residues.

    Args:
        train_labels: for each training sequence (L,) integer class numbers, IGNORE where there is no label.
    Returns: for each test sequence (L,) int64 class numbers.
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
    likeliest = np.where(counts.any(1), counts.argmax(1), counts.sum(0).argmax())
    return [likeliest[_letters(sequence)] for sequence in test_sequences]


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
