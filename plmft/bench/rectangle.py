"""A network of transformers as it comes, on padded rectangles: what plmft's packed layers are measured against."""

import torch
from torch import Tensor, nn

from plmft.data.packing import PackedBatch


class Rectangles(nn.Module):
    """A PackedBatch in, residue vectors (T, D) out, as plmft's backbones; padding is computed in between.

    Args: attention: eager or sdpa, transformers' own.
    """

    def __init__(self, network: nn.Module, attention: str) -> None:
        super().__init__()
        network.set_attn_implementation(attention)
        self.network = network

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.hidden_size

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all tokens, special ones included."""
        padding = self.network.config.pad_token_id or 0
        tokens, mask = batch.padded(padding)
        return self.network(tokens, attention_mask=mask.to(torch.long)).last_hidden_state[mask]
