"""LSTM layers in both directions over rectangles: the backward one reads each sequence turned round within its length.

Padding stands last in both, where a state no longer matters. Costs two gathers a layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft.models.scratch import OneHotBiLstm


class BothWays(nn.Module):
    """`OneHotBiLstm` over (N, L, D)."""

    def __init__(self, backbone: OneHotBiLstm) -> None:
        super().__init__()
        self.vocabulary = backbone._vocabulary
        whole = backbone.lstm
        self.onward = nn.ModuleList(_layer(whole, number, "") for number in range(whole.num_layers))
        self.back = nn.ModuleList(_layer(whole, number, "_reverse") for number in range(whole.num_layers))

    def forward(self, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """(N, L, D) vectors: the forward state beside the backward one."""
        hidden = F.one_hot(tokens_NL, self.vocabulary).float()
        places = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)[None, :]
        turned = torch.where(mask_NL, mask_NL.sum(1, keepdim=True) - 1 - places, places)[:, :, None]
        for onward, back in zip(self.onward, self.back, strict=True):
            backward = back(hidden.gather(1, turned.expand(-1, -1, hidden.shape[2])))[0]
            backward = backward.gather(1, turned.expand(-1, -1, backward.shape[2]))
            hidden = torch.cat([onward(hidden)[0], backward], dim=2)
        return hidden


def _layer(whole: nn.LSTM, number: int, direction: str) -> nn.LSTM:
    """One layer in one direction, with the weights of the whole."""
    inputs = getattr(whole, f"weight_ih_l{number}").shape[1]
    layer = nn.LSTM(inputs, whole.hidden_size, batch_first=True)
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(layer, f"{part}_l0", getattr(whole, f"{part}_l{number}{direction}"))
    return layer
