"""Which ids a stream has had, in 8 bytes each: a million ids take 8 MB. Two ids of a million are mixed up with a
probability of 3e-8.
"""

import hashlib

import numpy as np

RECENT = 1 << 16  # held in a set until they are sorted into the array


class Seen:
    """`seen.add(id)` is True for an id that was there before."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted = np.empty(0, np.uint64)

    def add(self, text: str) -> bool:
        """Remember it. Returns: True if it was known."""
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        if number in self._recent or self._in_sorted(number):
            return True
        self._recent.add(number)
        if len(self._recent) >= RECENT:
            self._sorted = np.sort(np.concatenate([self._sorted, np.fromiter(self._recent, np.uint64)]))
            self._recent.clear()
        return False

    def _in_sorted(self, number: int) -> bool:
        at = int(self._sorted.searchsorted(np.uint64(number)))
        return at < len(self._sorted) and int(self._sorted[at]) == number
