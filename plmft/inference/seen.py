"""Which ids a stream has had, in 8 bytes each: a million ids take 8 MB, and as much again while they are merged. Two
ids of a million are mixed up with a probability of 3e-8.
"""

import hashlib

import numpy as np

RECENT = 1 << 16  # held in a set until they are sorted into an array
LIKE = 8  # arrays are merged unless one is so many times as long as the next: few to look in, and few merges


class Seen:
    """`seen.add(id)` is True for an id that was there before."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[np.ndarray] = []  # the longest first

    def add(self, text: str) -> bool:
        """Remember it. Returns: True if it was known."""
        digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        if number in self._recent or self._in_sorted(number):
            return True
        self._recent.add(number)
        if len(self._recent) >= RECENT:
            self._sort_in(np.sort(np.fromiter(self._recent, np.uint64)))
            self._recent.clear()
        return False

    def _sort_in(self, numbers: np.ndarray) -> None:
        while self._sorted and len(self._sorted[-1]) < LIKE * len(numbers):
            numbers = np.concatenate([self._sorted.pop(), numbers])
            numbers.sort(kind="stable")  # which merges what is sorted
        self._sorted.append(numbers)

    def _in_sorted(self, number: int) -> bool:
        wanted = np.uint64(number)
        for numbers in self._sorted:
            at = numbers.searchsorted(wanted)
            if at < len(numbers) and int(numbers[at]) == number:
                return True
        return False
