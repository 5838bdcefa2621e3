"""Pack sequences end to end and cut an optimizer batch into micro-steps by a token budget.

Costs one `cu_seqlens` a micro-step; saves all padding and leaves the random order alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plmft.data.encoding import BY_TOKEN, DTYPES, Columns, Encoder, residue_mask
from plmft.data.records import Kind, Record
from plmft.data.store import HeldArrays, StoredArrays, cached_arrays, collect_arrays


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
    vectors: Tensor | None = None  # of a frozen backbone, from the cache: (T, D), or (N, D) where they are pooled

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
        if torch.device(device) == self.tokens.device:
            return self
        names = ("tokens", "positions", "cu_seqlens", "is_residue", "index", "targets")
        names += ("vectors",) if self.vectors is not None else ()
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
        folder: where the columns are kept in a file, named by a digest of all that they are made of, for later runs as
            well, and read from there; None: in memory. Files there may be removed at any time.
    Raises: InputError: a character outside ASCII, or a folder that can't be written.
    """

    def __init__(self, records: Sequence[Record], tokenizer: Encoder, kind: Kind, folder: Path | None = None) -> None:
        self.kind = kind
        self._before, self._after = len(tokenizer.prefix), len(tokenizer.suffix)
        columns = Columns(records, tokenizer, kind)
        if folder is None:
            self._columns: HeldArrays | StoredArrays = collect_arrays(columns.shapes, columns.chunks())
        else:
            self._columns = cached_arrays(folder, columns.key, columns.shapes, columns.chunks())

    @property
    def lengths(self) -> np.ndarray:
        """(R,) int64: tokens of each record, special ones counted."""
        return self._columns["lengths"]

    @property
    def target_counts(self) -> np.ndarray:
        """(R,) int64: what the loss of each record is divided by."""
        return self._columns["counts"]

    def __len__(self) -> int:
        return len(self.lengths)

    def pack(self, index: np.ndarray) -> PackedBatch:
        """The records with these numbers, in this order, as one batch. index: (R,) int64."""
        index = np.asarray(index, dtype=np.int64)
        starts, lengths = self._columns["starts"][index], self._columns["parts"][index].reshape(-1)
        stops = starts + self._columns["lengths"][index]
        rows = (starts, stops) if self.kind in BY_TOKEN else (index, index + 1)
        bounds = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=bounds[1:])
        return PackedBatch(
            tokens=torch.from_numpy(self._columns.take("tokens", starts, stops).astype(np.int64)),
            positions=torch.from_numpy(np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)),
            cu_seqlens=torch.from_numpy(bounds.astype(np.int32)),
            is_residue=torch.from_numpy(residue_mask(lengths, self._before, self._after)),
            index=torch.from_numpy(index),
            targets=torch.from_numpy(self._columns.take("targets", *rows).astype(DTYPES[self.kind][1])),
            lengths=tuple(lengths.tolist()),
            specials=len(lengths) * (self._before + self._after),
        )

    def step(self, index: np.ndarray, tokens_per_batch: int) -> StepBatch:
        """The records of one optimizer step, cut into micro-steps of at most `tokens_per_batch` tokens."""
        micro = tuple(self.pack(index[part]) for part in cut(self.lengths[index], tokens_per_batch))
        return StepBatch(micro, int(self.target_counts[index].sum()))


def cut(lengths: np.ndarray, budget: int) -> Iterator[slice]:
    """Slices of consecutive sequences that hold at most `budget` tokens each; a longer sequence stands alone."""
    start, held = 0, 0
    for i, length in enumerate(lengths.tolist()):
        if held and held + length > budget:
            yield slice(start, i)
            start, held = i, 0
        held += length
    if held:
        yield slice(start, len(lengths))
