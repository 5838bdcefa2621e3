"""A class number for each residue, from a string of letters and a mask; every length and letter is checked."""

from collections.abc import Mapping, Sequence

import numpy as np

from plmft import InputError
from plmft.data.records import IGNORE

OFF, ON = ("0", "0.0"), ("1", "1.0")


def residue_targets(
    labels: str, residues: int, classes: Mapping[str, int], where: str, masks: Sequence[tuple[Sequence[str], str]] = ()
) -> np.ndarray:
    """(L,) int64 class numbers, IGNORE where a mask is 0.

    Args:
        labels: a letter a residue. residues: length of the sequence. classes: class number of each letter.
        where: file, line and id, for messages.
        masks: each a word a residue, 1 where it has a label and 0 where not, and its own place for messages.
    Raises: InputError: labels or masks of another length, an unknown letter, a mask's word that is not 0 or 1.
    """
    for found, what, place in ((labels, "labels", where), *((mask, "mask values", place) for mask, place in masks)):
        if len(found) != residues:
            raise InputError(f"{place} has {residues} residues but {len(found)} {what}. Give each residue one.")
    unknown = next((letter for letter in sorted(set(labels)) if letter not in classes), None)
    if unknown is not None:
        at = labels.index(unknown) + 1
        raise InputError(f"{where}: label {unknown!r} at position {at}; known are {', '.join(classes)}.")
    target = np.array([classes[letter] for letter in labels], dtype=np.int64)
    for mask, place in masks:
        wrong = set(mask).difference(OFF, ON)
        if wrong:
            at, word = next((i, word) for i, word in enumerate(mask, 1) if word in wrong)
            raise InputError(f"{place} has the mask value {word!r} at position {at}. Write 1 (has a label) or 0.")
        target[np.array([word in OFF for word in mask])] = IGNORE
    return target
