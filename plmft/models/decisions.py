"""From probabilities to a decision, and from a decision to the names that a user reads."""

from collections.abc import Sequence

import numpy as np

from plmft.data.records import IGNORE, Kind

LABEL_THRESHOLD = 0.5
NO_LABEL = "."
MIN_SEPARATION = 6


def decided(kind: Kind, probabilities: np.ndarray) -> np.ndarray:
    """The likeliest class of (C,) or (L, C) probabilities; for several labels, (C,) int8 of those that are likely."""
    if kind == "sequence_multilabel":
        return (probabilities >= LABEL_THRESHOLD).astype(np.int8)
    return probabilities.argmax(-1)


def named(kind: Kind, classes: Sequence[str], decision: np.ndarray | int) -> str:
    """The name of a class, names of labels joined by `;`, or a string of one-letter residue classes."""
    if kind == "sequence_multilabel":
        return ";".join(classes[c] for c in np.flatnonzero(decision))
    if kind == "residue_classification":
        letters = dict(enumerate(classes)) | {IGNORE: NO_LABEL}
        return "".join(letters[c] for c in np.asarray(decision).tolist())
    return NO_LABEL if decision == IGNORE else classes[int(decision)]


def likeliest_contacts(probabilities: np.ndarray) -> str:
    """The L likeliest pairs of an (L, L) map that are 6 or more apart, positions from 1: `3-41:0.912;5-39:0.874`."""
    first, second = np.triu_indices(len(probabilities), k=MIN_SEPARATION)
    order = np.argsort(-probabilities[first, second], kind="stable")[: len(probabilities)]
    pairs = zip(first[order], second[order], strict=True)
    return ";".join(f"{i + 1}-{j + 1}:{probabilities[i, j]:.3f}" for i, j in pairs)
