"""Transformer layers that take packed sequences: the layers of transformers with a second way to call them.

Called with `packed`, a layer computes what it was published to compute on (T, D) vectors of sequences end to end;
called as in transformers, it does as it did. A layer stays one module with the same weights under the same names, so
hooks of FSDP and DeepSpeed, checkpointing and compilation work on it whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.esm.modeling_esm import EsmLayer

from plmft.models.attention import Tables, rotary_attention
from plmft.models.projections import project


@dataclass(frozen=True)
class Packed:
    """What a layer must know of a batch: N lengths, where sequences start, and the rotary tables, if any.

    Compiled layers call `attend` as it is and never look at the lengths: each batch would compile anew.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor
    tables: Tables | None
    attend: "Attend"


Attend = Callable[[Tensor, Packed, int, float, float], Tensor]


def attend_packed(qkv: Tensor, packed: Packed, heads: int, scale: float, dropout: float) -> Tensor:
    """(T, 3·H·D) -> (T, H·D): attention within each sequence."""
    return rotary_attention(
        qkv,
        packed.lengths,
        packed.tables,
        heads=heads,
        scale=scale,
        dropout=dropout,
        cu_seqlens=packed.cu_seqlens,
    )


class PackedEsmLayer(EsmLayer):
    """Norms before attention and feed-forward part (ESM-2, ESM-1b)."""

    def forward(self, hidden: Tensor, *args: Any, packed: Packed | None = None, **options: Any) -> Tensor:
        """hidden: (T, D) with `packed`, else as in transformers."""
        if packed is None:
            return super().forward(hidden, *args, **options)
        own = self.attention.self
        mixed = _attend(own, self.attention.LayerNorm(hidden), packed, own.dropout)
        hidden = hidden + self.attention.output.dropout(project([self.attention.output.dense], mixed))
        inner = F.gelu(project([self.intermediate.dense], self.LayerNorm(hidden)))
        return hidden + self.output.dropout(project([self.output.dense], inner))


class PackedBertLayer(BertLayer):
    """Norms after attention and feed-forward part (ProtBERT)."""

    def forward(self, hidden: Tensor, *args: Any, packed: Packed | None = None, **options: Any) -> Tensor:
        """hidden: (T, D) with `packed`, else as in transformers."""
        if packed is None:
            return super().forward(hidden, *args, **options)
        own, first, last = self.attention.self, self.attention.output, self.output
        mixed = _attend(own, hidden, packed, own.dropout.p)
        hidden = first.LayerNorm(first.dropout(project([first.dense], mixed)) + hidden)
        inner = F.gelu(project([self.intermediate.dense], hidden))
        return last.LayerNorm(last.dropout(project([last.dense], inner)) + hidden)


def _attend(own: nn.Module, x: Tensor, packed: Packed, dropout: float) -> Tensor:
    """(T, H·D). Scaling the query before it is rotated, as ESM does, or after is the same."""
    qkv = project([own.query, own.key, own.value], x)
    scale = own.attention_head_size**-0.5
    return packed.attend(qkv, packed, own.num_attention_heads, scale, dropout if own.training else 0.0)
