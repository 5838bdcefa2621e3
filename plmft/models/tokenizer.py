"""Sequences to token ids, one id a residue, built without a hub: the vocabularies are small and published.

A table of 256 entries looks up all letters at once, a few nanoseconds a residue. Letters without an id become the
unknown token one by one, so that tokens = residues + special tokens always holds.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from plmft import InputError


@dataclass(frozen=True)
class Tokenizer:
    """One model's own way from letters to ids.

    Args:
        vocabulary: the tokens in the order of their ids; those of one character are letters of sequences.
        prefix: ids that stand before the residues.
        suffix: ids that stand after the residues.
        unknown: id of a letter that is not in the vocabulary.
        mask: id of the mask token; None: the model has none.
        pad: id of the padding token; None: the model has none.
        substitutions: (letter, letter) pairs, replaced before the look-up.
    """

    name: str
    vocabulary: tuple[str, ...]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    unknown: int
    mask: int | None = None
    pad: int | None = None
    substitutions: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, self.unknown, dtype=np.int64)
        for id_, token in enumerate(self.vocabulary):
            if len(token) == 1:
                table[ord(token)] = id_
        for letter, replacement in self.substitutions:
            table[ord(letter)] = table[ord(replacement)]
        return table

    def encode(self, sequence: str) -> np.ndarray:
        """(L + special tokens,) int64 ids of a sequence of L upper-case letters.

        Raises: InputError: a character outside ASCII.
        """
        try:
            letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
        except UnicodeEncodeError as error:
            raise InputError(
                f"{sequence[error.start]!r} at position {error.start + 1} of {sequence[:20]}... is no amino acid. "
                "Sequences are upper-case letters A to Z."
            ) from None
        start, end = len(self.prefix), len(self.prefix) + len(letters)
        ids = np.empty(end + len(self.suffix), dtype=np.int64)
        ids[:start], ids[start:end], ids[end:] = self.prefix, self._table[letters], self.suffix
        return ids

    @property
    def digest(self) -> str:
        """SHA-256 over everything that changes the ids."""
        parts = [self.vocabulary, self.prefix, self.suffix, self.unknown, self.substitutions]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ESM-1b and ESM-2 share one alphabet (Rives et al. 2021, Lin et al. 2023).
ESM = Tokenizer(
    name="esm",
    vocabulary=("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"),
    prefix=(0,),
    suffix=(2,),
    unknown=3,
    mask=32,
    pad=1,
)

# ProtBERT (Elnaggar et al. 2022) was trained with U, Z, O and B replaced by X, though they have ids.
PROTBERT = Tokenizer(
    name="protbert",
    vocabulary=("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"),
    prefix=(2,),
    suffix=(3,),
    unknown=1,
    mask=4,
    pad=0,
    substitutions=(("U", "X"), ("Z", "X"), ("O", "X"), ("B", "X")),
)

# The 20 amino acids in alphabetical order, and X for all others.
ONEHOT = Tokenizer(name="onehot", vocabulary=tuple("ACDEFGHIKLMNPQRSTVWYX"), prefix=(), suffix=(), unknown=20)
