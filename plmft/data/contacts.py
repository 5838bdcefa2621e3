"""Contacts between residues: which pairs count, and where Cβ coordinates are read from.

Two residues are in contact if their Cβ atoms (Cα of glycine) are less than 8 Å apart. Pairs fewer than 6 positions
apart say nothing of the fold and are left out, and so are pairs of which one is unresolved.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.data.records import SPLITS, Record, Split
from plmft.data.source import read_text
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
            yield Record(row["id"], row["sequence"], cb.reshape(-1, 3), split, where)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: an object with id, sequence and cb is expected ({type(error).__name__}: {error})."
            ) from None


def read_structure_list(path: Path) -> Iterator[Record]:
    """Records of the structures that a CSV lists: columns `file` (beside the CSV, PDB or mmCIF), `chain` and `split`.

    Raises: InputError: a column or file that is missing, an unknown split, and as read_structure.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = [name for name in ("file", "chain", "split") if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; the columns are {', '.join(reader.fieldnames or ['none'])}. "
            "A list of structures needs file, chain (may be empty) and split."
        )
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if row["split"] not in SPLITS:
            raise InputError(f"{where}: split {row['split']!r} is not one of {', '.join(SPLITS)}.")
        chain = row["chain"] or None
        sequence, cb = read_structure(path.parent / row["file"], chain)
        yield Record(f"{row['file']}:{chain or ''}", sequence, cb, row["split"], where)
