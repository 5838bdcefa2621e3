"""Vectors of chosen layers in one forward pass, side by side.

Costs the deepest layer that is asked for, and D numbers a token for each.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from plmft.data.packing import PackedBatch
from plmft.models.backbone import TransformerBackbone


class ChosenLayers(nn.Module):
    """A backbone that gives (T, K·D) of a packed batch: K layers, ascending, side by side.

    Windows and pooling treat each column by itself, so they work on it as on one layer.

    Args:
        layers: from 0, the embedding, to the number of layers.
    """

    def __init__(self, backbone: TransformerBackbone, layers: Collection[int]) -> None:
        super().__init__()
        self.backbone, self.layers = backbone, frozenset(layers)

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, K·D)."""
        states = self.backbone.at_layers(batch, self.layers)
        return states[0] if len(states) == 1 else torch.cat([state.float() for state in states], 1)


def cls_pool(vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
    """(N, D) float32: the vector of each sequence's first special token, which the model's tokenizer must have."""
    return vectors_TD[batch.cu_seqlens[:-1].long()].float()
