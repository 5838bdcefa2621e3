"""Backbones: a PackedBatch in, residue vectors (T, D) out, with no padding computed.

The weights live in the Hugging Face modules, so that PEFT, checkpoints and converters work as everywhere;
the forward pass is ours, over the same modules, because theirs takes rectangles. Tests hold the two equal.
"""

import itertools
from collections.abc import Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plmft.data.packing import PackedBatch
from plmft.models.attention import Tables, rotary_tables
from plmft.models.packed_layers import Packed, PackedBertLayer, PackedEsmLayer, attend_packed

MASK_RATIO_IN_PRETRAINING = 0.15 * 0.8  # ESM's token dropout compensates for it (Rives 2021), at inference too


class TransformerBackbone(nn.Module):
    """What the families share: a transformers network, which holds the weights.

    Args:
        checkpointing: compute each layer anew in the backward pass instead of keeping its activations.
    """

    packed_layer: type[nn.Module]

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.checkpointing = False
        self._attend = attend_packed
        for layer in network.encoder.layer:
            layer.__class__ = self.packed_layer  # the same module, which takes packed sequences as well

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.hidden_size

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all tokens, special ones included."""
        for last in self.states(batch):  # noqa: B007 (only the last is wanted, and none other is kept)
            pass
        return self._norm(last)

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """(T, D) after the embedding and after each layer, before the last norm."""
        packed = Packed(batch.lengths, batch.cu_seqlens, self._tables(batch), self._attend)
        hidden = self._embed(batch)
        yield hidden
        for layer in self.network.encoder.layer:
            if self.checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, packed=packed, use_reentrant=False)
            else:
                hidden = layer(hidden, packed=packed)
            yield hidden

    def at_layers(self, batch: PackedBatch, layers: Collection[int]) -> list[Tensor]:
        """(T, D) after each of these layers, ascending: 0 is the embedding, the last is what `forward` gives.

        Deeper layers than asked for are not computed.
        """
        last = len(self.network.encoder.layer)
        states = zip(range(max(layers) + 1), self.states(batch), strict=False)
        return [self._norm(state) if number == last else state for number, state in states if number in layers]

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compile each layer around its attention, which is one kernel already and depends on the lengths.

        Token counts are symbols, so that the next batch does not compile anew.
        """
        self._attend = torch.compiler.disable(attend_packed)
        for layer in self.network.encoder.layer:
            layer.compile(dynamic=True, backend=backend)

    def _tables(self, batch: PackedBatch) -> Tables | None:
        return None

    def _norm(self, last: Tensor) -> Tensor:
        return last


class EsmBackbone(TransformerBackbone):
    """ESM-2 and ESM-1b (Lin et al. 2023, Rives et al. 2021) over a transformers `EsmModel`."""

    packed_layer = PackedEsmLayer

    @property
    def _rotary(self) -> bool:
        return self.network.config.position_embedding_type == "rotary"

    def _tables(self, batch: PackedBatch) -> Tables | None:
        return rotary_tables(batch.positions, self.network.rotary_embeddings.inv_freq) if self._rotary else None

    def _norm(self, last: Tensor) -> Tensor:
        return self.network.encoder.emb_layer_norm_after(last)

    def _embed(self, batch: PackedBatch) -> Tensor:
        embeddings = self.network.embeddings
        hidden = embeddings.word_embeddings(batch.tokens)
        if embeddings.token_dropout:
            masked = batch.tokens == embeddings.mask_token_id
            share = torch.zeros(len(batch.lengths), device=hidden.device).index_add(0, batch.owner, masked.float())
            share = share / batch.cu_seqlens.diff()
            scale = (1 - MASK_RATIO_IN_PRETRAINING) / (1 - share)
            hidden = hidden.masked_fill(masked[:, None], 0.0) * scale[batch.owner][:, None].to(hidden.dtype)
        if not self._rotary:
            hidden = hidden + embeddings.position_embeddings(batch.positions + embeddings.padding_idx + 1)
        return hidden if embeddings.layer_norm is None else embeddings.layer_norm(hidden)


class BertBackbone(TransformerBackbone):
    """ProtBERT and ProtBERT-BFD (Elnaggar et al. 2022) over a transformers `BertModel`."""

    packed_layer = PackedBertLayer

    def _embed(self, batch: PackedBatch) -> Tensor:
        embeddings = self.network.embeddings
        hidden = embeddings.word_embeddings(batch.tokens) + embeddings.position_embeddings(batch.positions)
        hidden = hidden + embeddings.token_type_embeddings(batch.tokens.new_zeros(1))  # ZeRO-3 wants its call
        return embeddings.dropout(embeddings.LayerNorm(hidden))


class OneHotCnn(nn.Module):
    """Convolutions over one-hot residues, trained from scratch (Shanehsazzadeh et al. 2020; the CNN of PEER).

    Each layer is a convolution with ReLU over a rectangle whose padding is zeroed before each layer.
    """

    def __init__(self, vocabulary: int, channels: int, kernel: int, layers: int) -> None:
        super().__init__()
        widths = [vocabulary] + [channels] * layers
        self.layers = nn.ModuleList(
            nn.Conv1d(narrow, wide, kernel, padding="same") for narrow, wide in itertools.pairwise(widths)
        )
        self._vocabulary, self._channels = vocabulary, channels

    @property
    def width(self) -> int:
        """D."""
        return self._channels

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all residues."""
        tokens, mask = batch.padded()
        hidden = F.one_hot(tokens, self._vocabulary).to(self.layers[0].weight.dtype).transpose(1, 2)
        for layer in self.layers:
            hidden = F.relu(layer(hidden * mask[:, None, :]))
        return hidden.transpose(1, 2)[mask]
