"""Attention within each sequence of a packed batch, rotary positions included.

On a CPU: matmul, softmax, matmul for one sequence at a time with a backward pass of its own, which builds no graph and
keeps the weights in the type of the inputs; about 2.8 times faster than training through PyTorch's
`scaled_dot_product_attention` there. Memory grows with the sum of squared lengths. Where the compiled kernel is built
(`python -m plmft.models.kernels`) it takes over; on a GPU FlashAttention for sequences of varying length does.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from plmft.models import kernels

Tables = tuple[Tensor, Tensor]
HALF = (torch.bfloat16, torch.float16)


def rotary_tables(positions: Tensor, frequencies: Tensor) -> Tables:
    """Cosine and sine of the rotary angles (Su et al. 2021), always in float32: bfloat16 loses the position.

    Args:
        positions: (T,) int64.
        frequencies: (D/2,) float32, the checkpoint's own: published ESM-2 was trained with rounded ones.
    Returns: two (T, D/2) float32 tables.
    """
    with torch.autocast(positions.device.type, enabled=False):
        angles = positions.float()[:, None] * frequencies.float()[None, :]
        return angles.cos(), angles.sin()


def rotary_attention(
    qkv: Tensor,
    lengths: Sequence[int],
    tables: Tables | None,
    *,
    heads: int,
    scale: float,
    dropout: float = 0.0,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """softmax(query keyᵀ · scale) value, for each sequence by itself, after query and key were rotated.

    Args:
        qkv: (T, 3·H·D) float; queries of all heads, then keys, then values; all sequences end to end.
        lengths: N lengths that add up to T.
        tables: see rotary_tables; None: no rotation. Pairs (x_i, x_{i+D/2}) turn by their position's angle.
        scale: usually D^-0.5. dropout: on the attention weights; 0 outside training.
        cu_seqlens: (N+1,) int32 on the device; needed on a GPU only.
    Returns: (T, H·D), in the type of the inputs.
    """
    if dropout:
        return _with_dropout(qkv, lengths, tables, heads, scale, dropout)
    if qkv.is_cuda:
        return _on_gpu(qkv, lengths, tables, heads, scale, cu_seqlens)
    with torch.autocast("cpu", enabled=False):
        if kernels.load() is not None and kernels.takes(qkv, heads):
            return kernels.rotary_attention(qkv, tuple(lengths), tables, heads=heads, scale=scale)
        return PackedAttention.apply(qkv, tuple(lengths), tables, heads, scale)


def implementation(device_type: str, arithmetic: str) -> str:
    """Which one computes on "cpu" or "cuda" in "bf16", "fp16", "fp32" or "tf32": for the record of a run."""
    if device_type == "cuda":
        half = arithmetic in ("bf16", "fp16")
        return "varlen flash" if half and _has_flash("cuda") else "sdpa by sequence"
    return "compiled" if kernels.load() is not None else "matmul by sequence"


class PackedAttention(torch.autograd.Function):
    """The plain CPU path: exact, with its own backward pass."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, lengths: tuple[int, ...], tables: Tables | None, heads: int, scale: float
    ) -> Tensor:
        query, key, value = _heads_first(qkv, tables, heads, scale)
        keep = ctx.needs_input_grad[0]
        mixed = qkv.new_empty(len(qkv), heads, qkv.shape[1] // (3 * heads))
        weights, start = [], 0
        for length in lengths:
            part = slice(start, start + length)
            share = torch.softmax(torch.bmm(query[:, part], key[:, part].transpose(1, 2)), dim=-1)
            mixed[part] = torch.bmm(share, value[:, part]).transpose(0, 1)
            weights += [share] if keep else []
            start += length
        if keep:
            ctx.lengths, ctx.tables, ctx.scale = lengths, tables, scale
            ctx.save_for_backward(query, key, value, *weights)
        return mixed.flatten(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        heads, tokens, width = query.shape
        wanted = gradient.view(tokens, heads, width).transpose(0, 1).contiguous()
        found = torch.empty(3, heads, tokens, width, dtype=query.dtype)
        start = 0
        for length, share in zip(ctx.lengths, weights, strict=True):
            part = slice(start, start + length)
            inner = torch.bmm(wanted[:, part], value[:, part].transpose(1, 2))
            inner = torch._softmax_backward_data(inner, share, -1, share.dtype)
            found[0, :, part] = torch.bmm(inner, key[:, part])
            found[1, :, part] = torch.bmm(inner.transpose(1, 2), query[:, part])
            found[2, :, part] = torch.bmm(share.transpose(1, 2), wanted[:, part])
            start += length
        return _tokens_first(found, ctx.tables, ctx.scale), None, None, None, None


def _heads_first(qkv: Tensor, tables: Tables | None, heads: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """(T, 3·H·D) -> three (H, T, D): the query scaled, query and key rotated."""
    query, key, value = qkv.view(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
    if tables is None:
        return (query * scale).contiguous(), key.contiguous(), value.contiguous()
    cosine, sine = tables
    return _rotated(query, cosine * scale, sine * scale), _rotated(key, cosine, sine), value.contiguous()


def _tokens_first(found: Tensor, tables: Tables | None, scale: float) -> Tensor:
    """The way back for gradients: (3, H, T, D) -> (T, 3·H·D)."""
    if tables is None:
        found[0] *= scale
    else:
        cosine, sine = tables
        found[0] = _rotated(found[0], cosine * scale, -sine * scale)
        found[1] = _rotated(found[1], cosine, -sine)
    return found.permute(2, 0, 1, 3).flatten(1)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) by its position's angle. x: (H, T, D); computed in float32, type kept."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    half = first.shape[-1]
    turned[..., :half] = first * cosine - second * sine
    turned[..., half:] = second * cosine + first * sine
    return turned


def _with_dropout(
    qkv: Tensor, lengths: Sequence[int], tables: Tables | None, heads: int, scale: float, dropout: float
) -> Tensor:
    """The same by autograd, sequence by sequence, for models whose attention drops weights in training."""
    parts = zip(*(x.split(list(lengths), dim=1) for x in _heads_first_graph(qkv, tables, heads, scale)), strict=True)
    mixed = []
    for query, key, value in parts:
        weights = F.dropout(torch.softmax(torch.matmul(query, key.transpose(1, 2)), dim=-1), dropout)
        mixed.append(torch.matmul(weights.to(value.dtype), value).transpose(0, 1))
    return torch.cat(mixed).flatten(1)


def _heads_first_graph(qkv: Tensor, tables: Tables | None, heads: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.view(len(qkv), 3, heads, -1).permute(1, 2, 0, 3)
    if tables is None:
        return query * scale, key, value
    cosine, sine = tables
    return rotate(query, cosine, sine) * scale, rotate(key, cosine, sine), value


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """As `_rotated`, differentiable; tables broadcast against x (..., T, D)."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(x.dtype)


def _has_flash(device: torch.device | str) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 8


def _on_gpu(
    qkv: Tensor, lengths: Sequence[int], tables: Tables | None, heads: int, scale: float, cu_seqlens: Tensor
) -> Tensor:
    """FlashAttention takes half precision, and GPUs from Ampere on; else SDPA takes sequence by sequence."""
    query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
    if tables is not None:
        cosine, sine = (table[:, None, :] for table in tables)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
    if qkv.dtype in HALF and _has_flash(qkv.device):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(lengths)
        return varlen_attn(query, key, value, cu_seqlens, cu_seqlens, longest, longest, scale=scale).flatten(1)
    parts = zip(*(x.transpose(0, 1).split(list(lengths), dim=1) for x in (query, key, value)), strict=True)
    mixed = [F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1) for q, k, v in parts]
    return torch.cat(mixed).flatten(1)
