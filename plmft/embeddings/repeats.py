"""Sequences that come again in a later part, so that their vectors are computed once.

A first pass over the input keeps 8 bytes a sequence and finds which digests stand in several parts; only vectors of
those are held, the earliest first, until they fill `BUDGET` bytes. What is held follows from the input alone, so a
job that goes on after a kill computes the same. Standard input can't be read twice: there, only a part's own repeats
are found.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

BUDGET = 256_000_000


def digest(sequence: str) -> int:
    """64 bits: two of 10⁶ sequences share one with a probability of 3e-8, and then both are computed."""
    return int.from_bytes(hashlib.blake2b(sequence.encode(), digest_size=8).digest(), "little")


def find_repeated(parts: Iterable[Sequence[str]]) -> np.ndarray:
    """Ascending uint64 digests of the sequences that stand in several parts. parts: the sequences of each."""
    every = [np.unique(np.array([digest(sequence) for sequence in part], np.uint64)) for part in parts]
    found, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *every]), return_counts=True)
    return found[counts > 1]


class Remembered:
    """Vectors of sequences that come again, by sequence; the earliest first, until they fill the budget."""

    def __init__(self, repeated: np.ndarray, budget: int = BUDGET) -> None:
        self._repeated, self._left = repeated, budget
        self._vectors: dict[str, np.ndarray] = {}

    def get(self, sequence: str) -> np.ndarray | None:
        """Its vectors, if they are held."""
        return self._vectors.get(sequence)

    def wants(self, sequences: Iterable[str]) -> bool:
        """True if one of these is to be held and is not yet."""
        return self._left > 0 and any(self._comes_again(s) and s not in self._vectors for s in sequences)

    def keep(self, vectors: Mapping[str, np.ndarray]) -> None:
        """Hold those that come again, in this order, while there is room."""
        for sequence, rows in vectors.items():
            if sequence in self._vectors or not self._comes_again(sequence):
                continue
            if rows.nbytes > self._left:
                self._left = 0  # so that what is held is the beginning, whatever follows
                return
            self._left -= rows.nbytes
            self._vectors[sequence] = rows.copy()

    def _comes_again(self, sequence: str) -> bool:
        if not len(self._repeated):
            return False
        number = np.uint64(digest(sequence))
        at = int(self._repeated.searchsorted(number))
        return at < len(self._repeated) and self._repeated[at] == number
