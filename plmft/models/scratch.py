"""Networks on one-hot residues, trained from scratch: what a pretrained model has to beat.

Sequences stay end to end: norms, activations and sums see residues alone. A convolution lays them out with as many
zeros between neighbours as it reaches to one side, so that it computes no other padding and no sequence sees another.
Costs one copy of the vectors into that layout and one back for each convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from plmft.data.packing import PackedBatch


def one_hot(batch: PackedBatch, vocabulary: int, dtype: torch.dtype) -> Tensor:
    """(T, vocabulary), 1 at each residue's letter."""
    return F.one_hot(batch.tokens, vocabulary).to(dtype)


class PackedConv(nn.Conv1d):
    """A convolution without a constant that keeps the length of each sequence; beyond its ends are zeros."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__(inputs, outputs, kernel, dilation=dilation, padding="same", bias=False)
        reach = dilation * (kernel - 1)
        self._gap = reach - reach // 2  # to the side that it reaches farther, where the kernel is even

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """(T, outputs) of (T, inputs)."""
        tokens, width = vectors_TD.shape
        place_T = torch.arange(tokens, device=vectors_TD.device) + self._gap * batch.owner
        row = vectors_TD.new_zeros(tokens + self._gap * (len(batch.lengths) - 1), width)
        row = row.index_copy(0, place_T, vectors_TD)
        return super().forward(row.T[None])[0].T[place_T]


class ResidualBlock(nn.Module):
    """Twice norm, GELU, convolution, added to what came in (He et al. 2016, identity mappings).

    The norm is over the channels of one residue: a batch norm would let a prediction depend on its batch.
    """

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.convolutions = nn.ModuleList(PackedConv(channels, channels, kernel, dilation) for _ in range(2))

    def forward(self, vectors_TD: Tensor, batch: PackedBatch) -> Tensor:
        """(T, D) of (T, D)."""
        hidden = vectors_TD
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            hidden = convolution(F.gelu(norm(hidden)), batch)
        return vectors_TD + hidden


class OneHotResNet(nn.Module):
    """A residual network of 1-D convolutions (the ResNet of Rao et al. 2019 and Xu et al. 2022)."""

    def __init__(self, vocabulary: int, channels: int, kernel: int, layers: int, dilation: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(vocabulary, channels)
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel, dilation) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self._vocabulary, self.width = vocabulary, channels

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all residues."""
        hidden = self.embedding(one_hot(batch, self._vocabulary, self.embedding.weight.dtype))
        for block in self.blocks:
            hidden = block(hidden, batch)
        return self.norm(hidden)


class OneHotBiLstm(nn.Module):
    """LSTM layers in both directions (the LSTM of Rao et al. 2019 and Xu et al. 2022).

    torch's packed sequences: each direction starts at its own end of each sequence, and no padding is read.
    """

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(vocabulary, hidden, layers, bidirectional=True)
        self._vocabulary, self.width = vocabulary, 2 * hidden

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all residues: the forward state beside the backward one."""
        residues = one_hot(batch, self._vocabulary, self.lstm.weight_ih_l0.dtype)
        states, _ = self.lstm(pack_sequence(residues.split(batch.lengths), enforce_sorted=False))
        return torch.cat(unpack_sequence(states))
