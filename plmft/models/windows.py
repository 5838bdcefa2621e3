"""Read sequences beyond a model's context in overlapping windows, and give one vector for each residue.

A window is a sequence of its own to the backbone, with special tokens of its own. Where windows overlap, a residue
takes its vector from the window in which it stands farthest from an edge, so each counts once whatever a head does with
it. Costs the overlap: half a context for each window after the first.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from plmft.data.packing import Encoder, PackedBatch


@dataclass(frozen=True)
class Windows:
    """How long sequences are read.

    Args:
        context: residues of a window.
        before, after: special tokens that stand before and after the residues of a sequence.
    """

    context: int
    before: int
    after: int

    @classmethod
    def of(cls, context: int, tokenizer: Encoder) -> "Windows":
        """Windows of a model with this context and tokenizer."""
        return cls(context, len(tokenizer.prefix), len(tokenizer.suffix))

    def read(self, backbone: nn.Module, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all tokens; those of a sequence that fits are the backbone's own.

        Special tokens of a long sequence are those of its first and its last window.
        """
        if max(batch.lengths) <= self.context + self.before + self.after:
            return backbone(batch)
        taken, lengths, kept = self._plan(batch)
        device = batch.tokens.device
        source = torch.from_numpy(taken).to(device)
        ends = np.cumsum(lengths)
        windows = replace(
            batch,
            tokens=batch.tokens[source],
            positions=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])).to(device),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)).to(device),
            is_residue=batch.is_residue[source],
            lengths=tuple(lengths),
            specials=len(lengths) * (self.before + self.after),
        )
        return backbone(windows)[torch.from_numpy(kept).to(device)]

    def _plan(self, batch: PackedBatch) -> tuple[np.ndarray, list[int], np.ndarray]:
        """Token numbers that the windows hold end to end, tokens by window, and each token's place among the first."""
        taken, lengths, kept = [], [], []
        start = held = 0
        for length in batch.lengths:
            tokens = np.arange(start, start + length)
            residues = length - self.before - self.after
            begins = window_starts(residues, self.context)
            ends = [begin + min(self.context, residues) for begin in begins]
            place = np.empty(length, dtype=np.int64)
            borders = [0, *((end + begin) // 2 for end, begin in zip(ends, begins[1:], strict=False)), residues]
            for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
                inner = tokens[self.before + begin : self.before + end]
                taken += [tokens[: self.before], inner, tokens[length - self.after :]]
                first = borders[number] if number else -self.before
                last = borders[number + 1] if number + 1 < len(begins) else residues + self.after
                place[self.before + first : self.before + last] = held + self.before + np.arange(first, last) - begin
                lengths.append(self.before + end - begin + self.after)
                held += lengths[-1]
            kept.append(place)
            start += length
        return np.concatenate(taken), lengths, np.concatenate(kept)


def window_starts(residues: int, context: int) -> list[int]:
    """Where windows of `context` residues begin, evenly, so that neighbours overlap by at least half of it."""
    if residues <= context:
        return [0]
    count = 1 + -(-(residues - context) // max(1, context // 2))
    return [round(i * (residues - context) / (count - 1)) for i in range(count)]
