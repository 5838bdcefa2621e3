"""Contacts between residues: which pairs count, and where Cβ coordinates are read from.

Two residues are in contact if their Cβ atoms (Cα of glycine) are less than 8 Å apart. Pairs fewer than 6 positions
apart say nothing of the fold and are left out, and so are pairs of which one is unresolved.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.data.records import SPLITS, Record, Split
from plmft.data.source import column, read_rows, read_text
from plmft.data.structure import read_structure

CONTACT_A = 8.0
MIN_SEPARATION = 6


def known_pairs(cb: np.ndarray, least: int = MIN_SEPARATION) -> tuple[np.ndarray, np.ndarray]:
    """Positions i < j of the pairs that are at least `least` apart and both resolved; cb: (L, 3) Å, NaN unresolved."""
    resolved = ~np.isnan(cb).any(1)
    first, second = np.triu_indices(len(cb), k=least)
    kept = resolved[first] & resolved[second]
    return first[kept], second[kept]


def count_pairs(cb: np.ndarray) -> int:
    """How many known pairs there are; see known_pairs."""
    resolved = ~np.isnan(cb).any(1)
    before = np.cumsum(resolved)[: max(0, len(cb) - MIN_SEPARATION)]
    return int(before[resolved[MIN_SEPARATION:]].sum())


def in_contact(cb: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(pairs,) bool, for positions as known_pairs gives them."""
    return np.linalg.norm(cb[first] - cb[second], axis=1) < CONTACT_A


def read_contacts(path: Path, split: Split) -> Iterator[Record]:
    """Records of a JSON-lines file with `id`, `sequence` and `cb`: [x, y, z] in Å for each residue, or null.

    Raises: InputError: a line that is no such object.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
            cb = np.array([[np.nan] * 3 if point is None else point for point in row["cb"]], np.float32)
            if np.isinf(cb).any():
                raise ValueError("a coordinate is infinite")
            yield Record(str(row["id"]), row["sequence"], cb.reshape(-1, 3), split, where)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: an object with id, sequence and cb is expected ({type(error).__name__}: {error})."
            ) from None


def read_structure_list(path: Path) -> Iterator[Record]:
    """Records of the structures that a CSV lists: columns `file` (beside the CSV, PDB or mmCIF), `chain` (empty: the
    only one) and `split`, which may also be `test_<name>` for a further test set.

    Raises: InputError: a column or file that is missing, an unknown split, and as read_structure.
    """
    for where, _, row in read_rows(path):
        file, chain, split = (row[column(row, (name,), where)].strip(" ") for name in ("file", "chain", "split"))
        if split not in SPLITS and not split.startswith("test_"):
            raise InputError(f"{where}: column 'split': {split!r} is not one of {', '.join(SPLITS)}, test_<name>.")
        try:
            sequence, cb = read_structure(path.parent / file, chain or None)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        yield Record(f"{file}:{chain}" if chain else file, sequence, cb, split, where)
