"""Heads: residue vectors in, numbers for a sequence or for each residue out. Special tokens are never pooled."""

import torch
from torch import Tensor, nn

from plmft.data.packing import PackedBatch


def mean_pool(vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
    """(N, D) float32: mean over the residues of each sequence."""
    weights_T = batch.is_residue.float()
    return _weighted_sum(vectors_TD, weights_T, batch) / _sum(weights_T, batch)[:, None]


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


class SequenceMlp(nn.Module):
    """Pool, then dropout, linear, GELU, dropout, linear. Returns (N, outputs)."""

    def __init__(self, width: int, outputs: int, *, pooling: str, hidden: int, dropout: float) -> None:
        super().__init__()
        self.pooling = pooling
        self.score = nn.Linear(width, 1) if pooling == "attention" else None
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """vectors: (T, D)."""
        if self.score is not None:
            pooled_ND = attention_pool(vectors_TD, self.score(vectors_TD)[:, 0], batch)
        elif self.pooling == "cls":
            pooled_ND = vectors_TD[batch.cu_seqlens[:-1].long()]
        else:
            pooled_ND = mean_pool(vectors_TD, batch)
        return self.layers(pooled_ND)


class ResidueLinear(nn.Module):
    """Dropout and one linear layer. Returns (T, outputs), special tokens included."""

    def __init__(self, width: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, outputs)

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """vectors: (T, D)."""
        return self.linear(self.dropout(vectors_TD))
