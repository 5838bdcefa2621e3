"""Backbones: a PackedBatch in, residue vectors (T, D) out, with no padding computed.

The weights live in the Hugging Face modules, so that PEFT, checkpoints and converters work as everywhere;
the forward pass is ours, over the same modules, because theirs takes rectangles. Tests hold the two equal.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft.data.packing import PackedBatch
from plmft.models.attention import packed_attention, rotary_tables, rotate

MASK_RATIO_IN_PRETRAINING = 0.15 * 0.8  # ESM's token dropout compensates for it (Rives 2021), at inference too


class TransformerBackbone(nn.Module):
    """What the families share: a transformers network, which holds the weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def width(self) -> int:
        """D."""
        return self.network.config.hidden_size


class EsmBackbone(TransformerBackbone):
    """ESM-2 and ESM-1b (Lin et al. 2023, Rives et al. 2021) over a transformers `EsmModel`."""

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all tokens, special ones included."""
        *_, last = self.states(batch)
        return self.network.encoder.emb_layer_norm_after(last)

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """(T, D) after the embedding and after each layer, before the last norm."""
        rotary = self.network.config.position_embedding_type == "rotary"
        tables = rotary_tables(batch.positions, self.network.rotary_embeddings.inv_freq) if rotary else None
        hidden = self._embed(batch, rotary)
        yield hidden
        for layer in self.network.encoder.layer:
            hidden = hidden + self._attention(layer.attention, hidden, batch.lengths, tables)
            inner = F.gelu(layer.intermediate.dense(layer.LayerNorm(hidden)))
            hidden = hidden + layer.output.dropout(layer.output.dense(inner))
            yield hidden

    def _embed(self, batch: PackedBatch, rotary: bool) -> Tensor:
        embeddings = self.network.embeddings
        hidden = embeddings.word_embeddings(batch.tokens)
        if embeddings.token_dropout:
            masked = batch.tokens == embeddings.mask_token_id
            share = torch.zeros(len(batch.lengths), device=hidden.device).index_add(0, batch.owner, masked.float())
            share = share / batch.cu_seqlens.diff()
            scale = (1 - MASK_RATIO_IN_PRETRAINING) / (1 - share)
            hidden = hidden.masked_fill(masked[:, None], 0.0) * scale[batch.owner][:, None].to(hidden.dtype)
        if not rotary:
            hidden = hidden + embeddings.position_embeddings(batch.positions + embeddings.padding_idx + 1)
        return hidden if embeddings.layer_norm is None else embeddings.layer_norm(hidden)

    def _attention(
        self, attention: nn.Module, hidden: Tensor, lengths: tuple[int, ...], tables: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        normed, own = attention.LayerNorm(hidden), attention.self
        shape = (len(hidden), own.num_attention_heads, own.attention_head_size)
        query = own.query(normed).view(shape) * own.attention_head_size**-0.5
        key, value = own.key(normed).view(shape), own.value(normed).view(shape)
        if tables is not None:
            query, key = rotate(query, *tables), rotate(key, *tables)
        dropout = own.dropout if self.training else 0.0
        mixed = packed_attention(query, key, value, lengths, scale=1.0, dropout=dropout)
        return attention.output.dropout(attention.output.dense(mixed))


class BertBackbone(TransformerBackbone):
    """ProtBERT and ProtBERT-BFD (Elnaggar et al. 2022) over a transformers `BertModel`."""

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, D) vectors of all tokens, special ones included."""
        *_, last = self.states(batch)
        return last

    def states(self, batch: PackedBatch) -> Iterator[Tensor]:
        """(T, D) after the embedding and after each layer."""
        hidden = self._embed(batch)
        yield hidden
        for layer in self.network.encoder.layer:
            mixed = self._attention(layer.attention.self, hidden, batch.lengths)
            hidden = layer.attention.output(mixed, hidden)
            hidden = layer.output(layer.intermediate(hidden), hidden)
            yield hidden

    def _embed(self, batch: PackedBatch) -> Tensor:
        embeddings = self.network.embeddings
        hidden = embeddings.word_embeddings(batch.tokens) + embeddings.position_embeddings(batch.positions)
        hidden = hidden + embeddings.token_type_embeddings.weight[0]
        return embeddings.dropout(embeddings.LayerNorm(hidden))

    def _attention(self, own: nn.Module, hidden: Tensor, lengths: tuple[int, ...]) -> Tensor:
        shape = (len(hidden), own.num_attention_heads, own.attention_head_size)
        query, key, value = (linear(hidden).view(shape) for linear in (own.query, own.key, own.value))
        dropout = own.dropout.p if self.training else 0.0
        return packed_attention(query, key, value, lengths, scale=own.scaling, dropout=dropout)


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
