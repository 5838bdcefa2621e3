"""Records as rows of numbers for a linear model: one-hot positions, composition, or a window around each residue.

Which one is decided by the sequences' lengths alone and told to the user. Letters beyond the 20 amino acids have no
feature. Costs some 50 ns a residue.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.sparse as sparse

from plmft.data.records import IGNORE, Record
from plmft.models.tokenizer import ONEHOT

AMINO_ACIDS = 20
NO_LETTER = AMINO_ACIDS  # as ONEHOT numbers all letters but the 20
ALIGNED_WITHIN = 0.05
CHUNK_RESIDUES = 1 << 18
FITTED_RESIDUES = 500_000
Matrix = np.ndarray | sparse.csr_array


class Features(Protocol):
    """How records become rows.

    Args:
        columns: numbers in a row. told: what the user must know of them.
    """

    columns: int
    told: str

    def rows(self, records: Sequence[Record]) -> Matrix:
        """(n, columns), a row a record; for a window a row a residue, all records end to end."""
        ...


def sequence_features(records: Sequence[Record], train: Sequence[Record]) -> Features:
    """Positions side by side, if the longest of all `records` is at most 5 % longer than the shortest; else, and for
    pairs of sequences, the composition."""
    lengths = [len(sequence) for record in records for sequence in record.sequences]
    if not train[0].partner and max(lengths) <= (1 + ALIGNED_WITHIN) * min(lengths):
        return Aligned(max(lengths), equal=min(lengths) == max(lengths))
    return Composition.of(train)


class Aligned:
    """One-hot letters of all positions, counted from the first residue."""

    def __init__(self, length: int, equal: bool) -> None:
        self.length, self.columns = length, length * AMINO_ACIDS
        shorter = "" if equal else "; shorter sequences are filled up on the right with nothing"
        self.told = f"Features: {length} positions x {AMINO_ACIDS} amino acids, one-hot{shorter}."

    def rows(self, records: Sequence[Record]) -> sparse.csr_array:
        """(n, 20 x length) of 0 and 1."""
        letters = np.full((len(records), self.length), NO_LETTER)
        for row, record in zip(letters, records, strict=True):
            ids = ONEHOT.encode(record.sequence)[: self.length]
            row[: len(ids)] = ids
        return _one_hot(letters)


@dataclass(frozen=True)
class Composition:
    """Frequencies of the 20 amino acids and of the 400 pairs of neighbours, and the logarithm of the length; centred
    and scaled by mean and deviation of the training split. Of two sequences sum and distance, by feature, so that
    their order does not matter."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, train: Sequence[Record]) -> "Composition":
        """Scaled by the training split; a feature that does not vary there is 0."""
        raw = _compositions(train)
        deviation = raw.std(0)
        return cls(raw.mean(0), np.where(deviation > 1e-9, deviation, np.inf))

    @property
    def columns(self) -> int:
        """421, or twice that for pairs."""
        return len(self.mean)

    @property
    def told(self) -> str:
        """For the user."""
        why = "pairs" if self.columns > 421 else f"lengths differ by more than {ALIGNED_WITHIN:.0%}"
        return f"Features: frequencies of amino acids and of neighbouring pairs, and log length ({why})."

    def rows(self, records: Sequence[Record]) -> np.ndarray:
        """(n, columns) float32."""
        return ((_compositions(records) - self.mean) / self.deviation).astype(np.float32)


class Window:
    """One-hot letters of the residues around each, nothing beyond the sequence's ends."""

    def __init__(self, width: int) -> None:
        self.width, self.columns = width, width * AMINO_ACIDS
        self.told = f"Features: a window of {width} residues x {AMINO_ACIDS} amino acids, one-hot."

    def rows(self, records: Sequence[Record]) -> sparse.csr_array:
        """(residues, 20 x width) of 0 and 1."""
        half = self.width // 2
        margin = np.full(half, NO_LETTER)
        padded, inside = [margin], []
        for record in records:
            ids = ONEHOT.encode(record.sequence)
            padded += [ids, margin]
            inside += [np.ones(len(ids), bool), np.zeros(half, bool)]
        windows = np.lib.stride_tricks.sliding_window_view(np.concatenate(padded), self.width)
        return _one_hot(windows[np.concatenate(inside)[: len(windows)]])

    def labelled(self, records: Sequence[Record]) -> tuple[sparse.csr_array, np.ndarray]:
        """Rows and classes of the residues with a label."""
        classes = np.concatenate([record.target for record in records])
        kept = np.flatnonzero(classes != IGNORE)
        return self.rows(records)[kept], classes[kept]

    def sample(self, train: Sequence[Record]) -> Sequence[Record]:
        """All of them, or every k-th, so that some 500,000 residues are fitted to: plenty for so few coefficients."""
        residues = sum(len(record.sequence) for record in train)
        return train[:: max(1, -(-residues // FITTED_RESIDUES))]


def chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Consecutive records of some 260,000 residues."""
    ends = np.cumsum([len(record.sequence) for record in records])
    number = ends // CHUNK_RESIDUES
    borders = [0, *(np.flatnonzero(np.diff(number)) + 1), len(records)]
    for start, end in itertools.pairwise(borders):
        yield records[start:end]


def _one_hot(letters: np.ndarray) -> sparse.csr_array:
    """(n, 20 x width) of an (n, width) table of letter numbers."""
    rows, width = letters.shape
    known = letters != NO_LETTER
    columns = (letters + AMINO_ACIDS * np.arange(width))[known].astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(known.sum(1))]).astype(np.int32)
    ones = np.ones(len(columns))
    return sparse.csr_array((ones, columns, starts), shape=(rows, AMINO_ACIDS * width))


def _compositions(records: Sequence[Record]) -> np.ndarray:
    first = np.stack([_composition(record.sequence) for record in records])
    if not records[0].partner:
        return first
    second = np.stack([_composition(record.partner) for record in records])
    return np.hstack([first + second, np.abs(first - second)])


def _composition(sequence: str) -> np.ndarray:
    ids = ONEHOT.encode(sequence)
    single = np.bincount(ids, minlength=AMINO_ACIDS + 1)[:AMINO_ACIDS] / len(ids)
    known = (ids[:-1] != NO_LETTER) & (ids[1:] != NO_LETTER)
    pairs = np.bincount((ids[:-1] * AMINO_ACIDS + ids[1:])[known], minlength=AMINO_ACIDS**2)
    return np.concatenate([single, pairs / max(1, len(ids) - 1), [np.log(len(ids))]])
