"""A symmetric head on pairs of residues, added up in blocks of rows so that long proteins fit into memory.

Pairs of 1,000 residues are half a million. Each block's scores are computed, its loss added, and its scores computed
again for its gradients (non-reentrant checkpointing): memory holds one block, time is 1.5 times that of one pass.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plmft.data.contacts import CONTACT_A, MIN_SEPARATION
from plmft.data.packing import PackedBatch

PAIRS_PER_BLOCK = 32_768
SEPARATIONS = 64  # separations from here on share one bias


class PairMlp(nn.Module):
    """Scores of contact from residue vectors.

    Each residue is projected to `rank` features. A pair is the product and the distance of both projections, feature by
    feature, which is the same either way round; a two-layer network and a bias by separation make a score of it.
    """

    def __init__(self, width: int, *, rank: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout), nn.Linear(width, rank))
        self.layers = nn.Sequential(nn.Linear(2 * rank, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.separation = nn.Embedding(SEPARATIONS, 1)
        nn.init.zeros_(self.separation.weight)

    def loss_sum(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """Cross-entropies summed over the known pairs of all sequences.

        Args: vectors: (T, D) float32. batch: its targets are (T, 3) Cβ coordinates in Å, NaN where unresolved.
        """
        total = vectors_TD.new_zeros(())
        for features_LR, cb in self._sequences(vectors_TD, batch):
            for begin, end in row_blocks(len(cb)):
                total = total + checkpoint(self._block_loss, features_LR, cb, begin, end, use_reentrant=False)
        return total

    @torch.no_grad()
    def predict(self, vectors_TD: Tensor, batch: PackedBatch) -> list[np.ndarray]:
        """(L, L) float32 probabilities of each sequence; 0 for pairs fewer than 6 apart."""
        return [self._map(features).cpu().numpy() for features, _ in self._sequences(vectors_TD, batch)]

    def _map(self, features_LR: Tensor) -> Tensor:
        length = len(features_LR)
        found = features_LR.new_zeros(length, length)
        for begin, end in row_blocks(length):
            found[begin:end, begin + MIN_SEPARATION :] = torch.sigmoid(self._scores(features_LR, begin, end))
        found = found.triu(MIN_SEPARATION)
        return found + found.T

    def _sequences(self, vectors_TD: Tensor, batch: PackedBatch) -> list[tuple[Tensor, Tensor]]:
        features_TR = self.project(vectors_TD)
        residue = batch.is_residue.split(batch.lengths)
        parts = zip(features_TR.split(batch.lengths), batch.targets.split(batch.lengths), residue, strict=True)
        return [(features[inside], cb[inside]) for features, cb, inside in parts]

    def _scores(self, features_LR: Tensor, begin: int, end: int) -> Tensor:
        """(rows, columns) of rows begin to end against columns from begin + 6 on."""
        rows, columns = features_LR[begin:end, None], features_LR[None, begin + MIN_SEPARATION :]
        pairs = torch.cat([rows * columns, (rows - columns).abs()], dim=2)
        return self.layers(pairs)[..., 0] + self.separation(self._apart(features_LR, begin, end))[..., 0]

    def _apart(self, features_LR: Tensor, begin: int, end: int) -> Tensor:
        at = torch.arange(len(features_LR), device=features_LR.device)
        apart = at[None, begin + MIN_SEPARATION :] - at[begin:end, None]
        return apart.clamp(0, SEPARATIONS - 1)

    def _block_loss(self, features_LR: Tensor, cb: Tensor, begin: int, end: int) -> Tensor:
        scores = self._scores(features_LR, begin, end)
        distances = torch.linalg.vector_norm(cb[begin:end, None] - cb[None, begin + MIN_SEPARATION :], dim=2)
        known = (self._apart(features_LR, begin, end) >= MIN_SEPARATION) & ~distances.isnan()
        return F.binary_cross_entropy_with_logits(
            scores[known], (distances < CONTACT_A)[known].float(), reduction="sum"
        )


def row_blocks(length: int) -> list[tuple[int, int]]:
    """Ranges of rows whose pairs fill a block; rows without a pair 6 apart are left out."""
    rows = max(1, PAIRS_PER_BLOCK // max(1, length))
    last = length - MIN_SEPARATION
    return [(begin, min(begin + rows, last)) for begin in range(0, last, rows)]
