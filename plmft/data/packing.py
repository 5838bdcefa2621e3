"""Pack sequences end to end and cut an optimizer batch into micro-steps by a token budget.

Costs one `cu_seqlens` a micro-step; saves all padding and leaves the random order alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from plmft.data.contacts import count_pairs
from plmft.data.records import IGNORE, Kind, Record


class Encoder(Protocol):
    """What packing needs of a tokenizer: ids with special tokens, and how many stand before and after."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def encode(self, sequence: str) -> np.ndarray: ...


@dataclass(frozen=True)
class PackedBatch:
    """N sequences end to end: the one batch form."""

    tokens: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64, from 0 in each sequence, special tokens counted
    cu_seqlens: Tensor  # (N+1,) int32, where each starts; last is T
    is_residue: Tensor  # (T,) bool, False at special tokens
    index: Tensor  # (R,) int64, record numbers; R is N, or N/2 where a record is a pair of sequences
    targets: Tensor  # by record: (R,) float32, (R,) int64, (R, C) float32; by token: (T,) int64, (T, 3) float32
    lengths: tuple[int, ...]  # N, on the host
    specials: int  # special tokens among the T

    @property
    def residues(self) -> int:
        """Real residues, without special tokens; host arithmetic, no device synchronisation."""
        return self.tokens.shape[0] - self.specials

    @cached_property
    def owner(self) -> Tensor:
        """(T,) int64: the sequence that each token belongs to."""
        lengths = self.cu_seqlens.diff().long()
        return torch.repeat_interleave(lengths, output_size=self.tokens.shape[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PackedBatch":
        """The same batch on another device."""
        names = ("tokens", "positions", "cu_seqlens", "is_residue", "index", "targets")
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in names}
        return replace(self, **moved)

    def padded(self, padding: int = 0) -> tuple[Tensor, Tensor]:
        """(N, L) tokens and (N, L) bool mask, for a model that needs a rectangle."""
        columns = torch.arange(max(self.lengths), device=self.tokens.device)
        mask = columns[None, :] < self.cu_seqlens.diff()[:, None]
        tokens = self.tokens.new_full(mask.shape, padding)
        tokens[mask] = self.tokens
        return tokens, mask


@dataclass(frozen=True)
class StepBatch:
    """What one optimizer step sees: packed micro-steps, and the number of targets that its loss is divided by."""

    micro: tuple[PackedBatch, ...]
    targets: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StepBatch":
        """The same step on another device."""
        return replace(self, micro=tuple(batch.to(device, non_blocking) for batch in self.micro))


class EncodedSplit:
    """A split, tokenised once: flat ids with offsets, so that packing is slicing.

    Args:
        records: in the order of their record numbers.
        tokenizer: see Encoder.
        kind: of the task; see Record for its targets. IGNORE and NaN mark tokens without one.
    """

    def __init__(self, records: Sequence[Record], tokenizer: Encoder, kind: Kind) -> None:
        self.kind = kind
        encoded = [[tokenizer.encode(sequence) for sequence in record.sequences] for record in records]
        self._parts = np.array([[len(ids) for ids in pair] for pair in encoded], dtype=np.int64)
        self.lengths = self._parts.sum(1)
        self._before, self._after = len(tokenizer.prefix), len(tokenizer.suffix)
        self._tokens = np.concatenate([ids for pair in encoded for ids in pair]).astype(np.int16)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._by_token = kind in ("residue_classification", "contacts")
        self._targets = self._targets_by_token(records) if self._by_token else _targets_by_record(records, kind)
        self.target_counts = np.array([COUNTS[kind](record.target) for record in records], dtype=np.int64)

    def _targets_by_token(self, records: Sequence[Record]) -> np.ndarray:
        if self.kind == "contacts":
            targets = np.full((len(self._tokens), 3), np.nan, dtype=np.float32)
        else:
            targets = np.full(len(self._tokens), IGNORE, dtype=np.int64)
        for record, start, length in zip(records, self._starts, self.lengths, strict=False):
            targets[start + self._before : start + length - self._after] = record.target
        return targets

    def __len__(self) -> int:
        return len(self.lengths)

    def pack(self, index: np.ndarray) -> PackedBatch:
        """The records with these numbers, in this order, as one batch. index: (R,) int64."""
        spans = [(self._starts[i], self._starts[i + 1]) for i in index]
        lengths = self._parts[index].reshape(-1)
        within = np.concatenate([np.arange(n) for n in lengths])
        ends = np.repeat(lengths, lengths)
        targets = np.concatenate([self._targets[a:b] for a, b in spans]) if self._by_token else self._targets[index]
        return PackedBatch(
            tokens=torch.from_numpy(np.concatenate([self._tokens[a:b] for a, b in spans]).astype(np.int64)),
            positions=torch.from_numpy(within),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
            is_residue=torch.from_numpy((within >= self._before) & (within < ends - self._after)),
            index=torch.from_numpy(np.asarray(index, dtype=np.int64)),
            targets=torch.from_numpy(targets),
            lengths=tuple(int(n) for n in lengths),
            specials=len(lengths) * (self._before + self._after),
        )

    def step(self, index: np.ndarray, tokens_per_batch: int) -> StepBatch:
        """The records of one optimizer step, cut into micro-steps of at most `tokens_per_batch` tokens."""
        micro = tuple(self.pack(index[part]) for part in cut(self.lengths[index], tokens_per_batch))
        return StepBatch(micro, int(self.target_counts[index].sum()))


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

RECORD_DTYPES = {"sequence_classification": np.int64, "pair_classification": np.int64}


def _targets_by_record(records: Sequence[Record], kind: Kind) -> np.ndarray:
    if kind == "masked_lm":
        return np.zeros(len(records), np.float32)
    return np.array([record.target for record in records], dtype=RECORD_DTYPES.get(kind, np.float32))


def cut(lengths: np.ndarray, budget: int) -> Iterator[slice]:
    """Slices of consecutive sequences that hold at most `budget` tokens each; a longer sequence stands alone."""
    start, held = 0, 0
    for i, length in enumerate(lengths):
        if held and held + length > budget:
            yield slice(start, i)
            start, held = i, 0
        held += int(length)
    if held:
        yield slice(start, len(lengths))
