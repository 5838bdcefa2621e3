"""Records as flat columns: all token ids end to end, with offsets and targets, a thousand records at a time.

Letters of many records are looked up at once: 2 µs a record of 250 residues.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from plmft import InputError
from plmft.data.contacts import count_pairs
from plmft.data.records import IGNORE, Kind, Record
from plmft.data.store import Chunk, Shapes

FORMAT = 1  # part of the key: raise it when columns change
ROWS = 1024  # records of a chunk


class Encoder(Protocol):
    """What packing needs of a tokenizer: one id a letter, whatever stands beside it, between special tokens.

    `digest` tells tokenizers apart that give different ids.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    @property
    def digest(self) -> str: ...

    def encode(self, sequence: str) -> np.ndarray: ...


# what the loss of a record is divided by, when it is added up over an optimizer step
COUNTS: dict[Kind, Callable[[Any], int]] = {
    "sequence_regression": lambda target: 1,
    "sequence_classification": lambda target: int(target != IGNORE),
    "sequence_multilabel": len,
    "residue_classification": lambda target: int((target != IGNORE).sum()),
    "contacts": count_pairs,
    "pair_classification": lambda target: int(target != IGNORE),
    "variant_scoring": lambda target: 1,
    "masked_lm": lambda target: 1,
}
BY_TOKEN = ("residue_classification", "contacts")
# (as they are kept, as a batch holds them)
DTYPES: dict[Kind, tuple[type, type]] = {
    "sequence_regression": (np.float32, np.float32),
    "sequence_classification": (np.int64, np.int64),
    "sequence_multilabel": (np.int8, np.float32),
    "residue_classification": (np.int16, np.int64),
    "contacts": (np.float32, np.float32),
    "pair_classification": (np.int64, np.int64),
    "variant_scoring": (np.float32, np.float32),
    "masked_lm": (np.float32, np.float32),
}


class Columns:
    """The columns of a split.

    tokens: (T,) int16. lengths: (R,) int64 tokens of each record, special ones counted. starts: (R+1,) int64.
    parts: (R, 1) int64, or (R, 2) of pairs: tokens of each sequence. counts: (R,) int64, see COUNTS.
    targets: a row for each record, or for each token of a kind that has them by residue (special ones without one).
    Raises: ValueError: some records are pairs and some are not.
    """

    def __init__(self, records: Sequence[Record], tokenizer: Encoder, kind: Kind) -> None:
        self._records, self._tokenizer, self._kind = records, tokenizer, kind
        self._before, self._after = len(tokenizer.prefix), len(tokenizer.suffix)
        digest = hashlib.sha256(json.dumps([FORMAT, kind, tokenizer.digest]).encode())
        parts = []
        for chunk in self._read():
            sizes = np.array([[len(s) for s in record.sequences] for record in chunk], np.int64)
            letters = "".join(s for record in chunk for s in record.sequences)
            for part in (sizes, letters.encode(), np.ascontiguousarray(self._targets(chunk))):
                digest.update(part)
            parts.append(sizes + self._before + self._after)
        self._parts = np.concatenate(parts) if parts else np.zeros((0, 1), np.int64)
        self.key = digest.hexdigest()
        """SHA-256 over all that the columns are made of."""

    @property
    def shapes(self) -> Shapes:
        """Of each column."""
        n, total = len(self._parts), int(self._parts.sum())
        width = {"contacts": (3,), "sequence_multilabel": np.shape(self._records[0].target) if n else (0,)}
        targets = (total if self._kind in BY_TOKEN else n, *width.get(self._kind, ()))
        integers = np.dtype(np.int64)
        return {
            "tokens": (np.dtype(np.int16), (total,)),
            "lengths": (integers, (n,)),
            "starts": (integers, (n + 1,)),
            "parts": (integers, self._parts.shape),
            "counts": (integers, (n,)),
            "targets": (np.dtype(DTYPES[self._kind][0]), targets),
        }

    def chunks(self) -> Iterator[Chunk]:
        """The rows of all columns, a chunk of records at a time."""
        lengths = self._parts.sum(1)
        yield {"lengths": lengths, "parts": self._parts, "starts": np.concatenate([[0], np.cumsum(lengths)])}
        for number, chunk in enumerate(self._read()):
            parts = self._parts[number * ROWS : (number + 1) * ROWS].reshape(-1)
            inside = residue_mask(parts, self._before, self._after)
            yield {
                "tokens": self._tokens(chunk, parts, inside),
                "targets": self._spread(self._targets(chunk), inside)
                if self._kind in BY_TOKEN
                else self._targets(chunk),
                "counts": np.array([COUNTS[self._kind](record.target) for record in chunk], np.int64),
            }

    def _read(self) -> Iterator[Sequence[Record]]:
        return (self._records[start : start + ROWS] for start in range(0, len(self._records), ROWS))

    def _tokens(self, chunk: Sequence[Record], parts: np.ndarray, inside: np.ndarray) -> np.ndarray:
        sequences = [sequence for record in chunk for sequence in record.sequences]
        try:
            ids = self._tokenizer.encode("".join(sequences))
        except InputError:
            for sequence in sequences:  # the one at fault tells its own place
                self._tokenizer.encode(sequence)
            raise
        tokens = np.empty(len(inside), np.int16)
        tokens[inside] = ids[self._before : len(ids) - self._after]
        ends = np.cumsum(parts)
        for place, token in enumerate(self._tokenizer.prefix):
            tokens[ends - parts + place] = token
        for place, token in enumerate(self._tokenizer.suffix):
            tokens[ends - self._after + place] = token
        return tokens

    def _targets(self, chunk: Sequence[Record]) -> np.ndarray:
        dtype = DTYPES[self._kind][0]
        if self._kind == "masked_lm":
            return np.zeros(len(chunk), dtype)
        targets = [record.target for record in chunk]
        return np.concatenate(targets).astype(dtype) if self._kind in BY_TOKEN else np.array(targets, dtype)

    def _spread(self, targets: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """A row for each token from one for each residue."""
        none = np.nan if self._kind == "contacts" else IGNORE
        spread = np.full((len(inside), *targets.shape[1:]), none, targets.dtype)
        spread[inside] = targets
        return spread


def residue_mask(lengths: np.ndarray, before: int, after: int) -> np.ndarray:
    """(T,) bool, False at special tokens, for sequences of these lengths that have so many before and after."""
    ends = np.cumsum(lengths)
    mask = np.ones(int(ends[-1]) if len(ends) else 0, dtype=bool)
    for place in range(before):
        mask[ends - lengths + place] = False
    for place in range(after):
        mask[ends - 1 - place] = False
    return mask
