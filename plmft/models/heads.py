"""Heads: residue vectors in, numbers for a sequence or for each residue out. Special tokens are never pooled."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from plmft.data.packing import PackedBatch


def mean_pool(vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
    """(N, D) float32: mean over the residues of each sequence."""
    weights_T = batch.is_residue.float()
    return _weighted_sum(vectors_TD, weights_T, batch) / _sum(weights_T, batch)[:, None]


def max_pool(vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
    """(N, D) float32: the highest value of each feature over the residues of each sequence."""
    residues_TD = vectors_TD.float().masked_fill(~batch.is_residue[:, None], float("-inf"))
    owner_TD = batch.owner[:, None].expand_as(residues_TD)
    lowest_ND = residues_TD.new_full((len(batch.lengths), vectors_TD.shape[1]), float("-inf"))
    return lowest_ND.scatter_reduce(0, owner_TD, residues_TD, "amax")


def attention_pool(vectors_TD: Tensor, scores_T: Tensor, batch: PackedBatch) -> Tensor:
    """(N, D) float32: mean over residues weighted by the softmax of their scores within each sequence."""
    scores_T = scores_T.float().masked_fill(~batch.is_residue, float("-inf"))
    highest_N = scores_T.new_full((len(batch.lengths),), float("-inf"))
    highest_N = highest_N.scatter_reduce(0, batch.owner, scores_T.detach(), "amax")
    weights_T = torch.exp(scores_T - highest_N[batch.owner])
    return _weighted_sum(vectors_TD, weights_T, batch) / _sum(weights_T, batch)[:, None]


def _weighted_sum(vectors_TD: Tensor, weights_T: Tensor, batch: PackedBatch) -> Tensor:
    weighted_TD = vectors_TD.float() * weights_T[:, None]
    sums_ND = weighted_TD.new_zeros(len(batch.lengths), vectors_TD.shape[1])
    return sums_ND.index_add(0, batch.owner, weighted_TD)


def _sum(weights_T: Tensor, batch: PackedBatch) -> Tensor:
    return weights_T.new_zeros(len(batch.lengths)).index_add(0, batch.owner, weights_T)


def at_positions(vectors_TD: Tensor, batch: PackedBatch, positions: Sequence[int]) -> tuple[Tensor, PackedBatch]:
    """(N x P, D) vectors of the residues at P positions, counted from 1, and a batch that holds these alone.

    Raises: ValueError: a sequence ends before a position; what stands there is a neighbour's.
    """
    shortest = min(batch.lengths) - batch.specials // len(batch.lengths)
    if shortest < max(positions):
        raise ValueError(f"a sequence has {shortest} residues, but residue {max(positions)} is asked for.")
    first_N = batch.cu_seqlens[:-1].long()
    before = (~batch.is_residue[: batch.lengths[0]]).int().argmin()  # special tokens before the first residue
    offsets_P = torch.tensor(positions, device=vectors_TD.device) - 1 + before
    kept = (first_N[:, None] + offsets_P[None, :]).reshape(-1)
    count = len(positions)
    part = replace(
        batch,
        tokens=batch.tokens[kept],
        positions=batch.positions[kept],
        cu_seqlens=torch.arange(0, len(kept) + 1, count, dtype=torch.int32, device=vectors_TD.device),
        is_residue=batch.is_residue[kept],
        lengths=(count,) * len(batch.lengths),
        specials=0,
    )
    return vectors_TD[kept], part


class StepNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe & Szegedy 2015) over the sequences of an optimizer step; running values at inference.

    Pooled vectors of variants of one protein are almost equal. What they share drowns the gradient of what sets them
    apart, until it is subtracted. A step of one sequence, which has no spread, is normalised by the running values.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input: (N, D)."""
        if self.training and len(input) == 1:
            values = self.running_mean, self.running_var, self.weight, self.bias
            return nn.functional.batch_norm(input, *values, eps=self.eps)
        return super().forward(input)


class SequenceMlp(nn.Module):
    """Pool, normalise if asked for, then dropout, linear, GELU, dropout, linear. Returns (R, outputs).

    With `pairs`, sequences 2i and 2i + 1 make one record: sum, product and distance of their vectors, by feature, so
    that their order does not matter.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        pooling: str,
        normalize: bool,
        hidden: int,
        dropout: float,
        pairs: bool = False,
        positions: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.pooling, self.normalize, self.pairs, self.positions = pooling, normalize, pairs, positions
        self.score = nn.Linear(width, 1) if pooling == "attention" else None
        width *= len(positions or ()) if pooling == "concat" else 1
        width *= 3 if pairs else 1
        self.layers = nn.Sequential(
            StepNorm(width) if normalize else nn.Identity(),
            nn.Dropout(dropout),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """vectors: (T, D)."""
        return self.from_pooled(self.pool(vectors_TD, batch))

    def from_pooled(self, pooled_ND: Tensor) -> Tensor:
        """(R, outputs) of (N, D) pooled vectors."""
        if self.pairs:
            first, second = pooled_ND[::2], pooled_ND[1::2]
            pooled_ND = torch.cat([first + second, first * second, (first - second).abs()], dim=1)
        return self.layers(pooled_ND)

    def pool(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """(N, D), before normalisation; (N, positions x D) where they stand side by side."""
        if self.positions is not None:
            vectors_TD, batch = at_positions(vectors_TD, batch, self.positions)
            if self.pooling == "concat":
                return vectors_TD.reshape(len(batch.lengths), -1)
        if self.score is not None:
            return attention_pool(vectors_TD, self.score(vectors_TD)[:, 0], batch)
        if self.pooling == "cls":
            return vectors_TD[batch.cu_seqlens[:-1].long()]
        return max_pool(vectors_TD, batch) if self.pooling == "max" else mean_pool(vectors_TD, batch)


class ResidueLinear(nn.Module):
    """Dropout and one linear layer. Returns (T, outputs), special tokens included."""

    def __init__(self, width: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """vectors: (T, D)."""
        return self.linear(self.dropout(vectors_TD))
