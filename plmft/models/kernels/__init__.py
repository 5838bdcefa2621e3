"""Rotary attention within each sequence in one compiled pass, for CPUs; optional, `python -m plmft.models.kernels`.

Scores and weights stay in registers and the nearest cache: memory grows with the tokens, not with the longest
sequence squared. The price is a compiler, once. Results are those of the PyTorch path within rounding.
"""

import ctypes
import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plmft.models.kernels.library import cpu_level, library_path

WIDEST_HEAD = 256


def load() -> ctypes.CDLL | None:
    """The built kernel if it is there and fits this machine and PyTorch, unless PLMFT_KERNEL=0. Never builds."""
    return None if os.environ.get("PLMFT_KERNEL") == "0" else find()


@functools.cache
def find() -> ctypes.CDLL | None:
    """The built kernel, if any; looked for once a process, unless `find.cache_clear()`."""
    level = cpu_level()
    if level is None:
        return None
    try:
        return open_library(library_path(level))
    except (OSError, AttributeError, RuntimeError):  # absent, another system's, no home folder
        return None


def notes(device: str) -> tuple[str, ...]:
    """What a transformer's user is told where it is absent, wanted, and could be built. device: cpu or cuda."""
    wanted = device == "cpu" and os.environ.get("PLMFT_KERNEL") != "0" and find() is None
    if not wanted or cpu_level() is None or shutil.which("g++") is None:
        return ()
    return ("A kernel for this CPU, which makes this about 1.5 times faster: python -m plmft.models.kernels",)


def open_library(path: Path) -> ctypes.CDLL:
    """The library with its functions' types. Raises: OSError."""
    library = ctypes.CDLL(str(path))
    address, integer = ctypes.c_void_p, ctypes.c_int
    tail = [address, address, address, ctypes.c_int64, ctypes.c_int64, integer, integer, ctypes.c_float, integer]
    library.plmft_attention_forward.argtypes = [address] * 3 + tail + [integer]
    library.plmft_attention_backward.argtypes = [address] * 5 + tail + [integer]
    return library


def takes(qkv: Tensor, heads: int) -> bool:
    """Whether the kernel can compute this: (T, 3·H·D) on the CPU, float32 or bfloat16, D even and at most 256."""
    width = qkv.shape[-1] // (3 * heads)
    return (
        qkv.device.type == "cpu"
        and qkv.dtype in (torch.float32, torch.bfloat16)
        and width % 2 == 0
        and 0 < width <= WIDEST_HEAD
    )


def rotary_attention(
    qkv: Tensor,
    lengths: Sequence[int],
    tables: tuple[Tensor, Tensor] | None,
    *,
    heads: int,
    scale: float,
    library: ctypes.CDLL | None = None,
) -> Tensor:
    """softmax(q kᵀ · scale) v within each sequence, q and k rotated first (Su et al. 2021; Dao et al. 2022).

    Args:
        qkv: (T, 3·H·D) float32 or bfloat16 on the CPU: q of all heads, then k, then v.
        lengths: N lengths that add up to T.
        tables: cosines and sines, each (T, D/2) float32; rotate pairs (x_i, x_{i+D/2}). None: no rotation.
        library: what load() gave; looked up if None.
    Returns: (T, H·D) in qkv's dtype. Softmax and sums in float32, weights rounded to qkv's dtype.
    Raises: ValueError: shapes, types or lengths that don't fit. RuntimeError: the kernel isn't built.
    """
    library = library or load()
    if library is None:
        raise RuntimeError("The attention kernel isn't built or is turned off: ask load() first.")
    _check(qkv, lengths, tables, heads)
    cosine, sine = (None, None) if tables is None else (table.contiguous() for table in tables)
    differentiate = qkv.requires_grad and torch.is_grad_enabled()
    return RotaryAttention.apply(qkv.contiguous(), cosine, sine, tuple(lengths), heads, scale, library, differentiate)


def _check(qkv: Tensor, lengths: Sequence[int], tables: tuple[Tensor, Tensor] | None, heads: int) -> None:
    """The library trusts its numbers: a wrong one would read foreign memory."""
    if qkv.dim() != 2 or qkv.shape[1] % (3 * heads) or not takes(qkv, heads):
        raise ValueError(f"qkv is {tuple(qkv.shape)} {qkv.dtype} {qkv.device} for {heads} heads; see takes().")
    if sum(lengths) != len(qkv) or min(lengths, default=0) < 0:
        raise ValueError(f"lengths add up to {sum(lengths)}, but qkv has {len(qkv)} tokens.")
    shape = (len(qkv), qkv.shape[1] // (6 * heads))
    for table in tables or ():
        if table.shape != shape or table.dtype != torch.float32 or table.device != qkv.device:
            raise ValueError(f"A rotary table is {tuple(table.shape)} {table.dtype}, not {shape} float32 on the CPU.")


class RotaryAttention(torch.autograd.Function):
    """The compiled forward and backward. Keeps qkv, the output and one float32 a head and token."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cosine: Tensor | None,
        sine: Tensor | None,
        lengths: tuple[int, ...],
        heads: int,
        scale: float,
        library: ctypes.CDLL,
        differentiate: bool,
    ) -> Tensor:
        """(T, 3·H·D) -> (T, H·D)."""
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        lse = qkv.new_empty(heads, len(qkv), dtype=torch.float32) if differentiate else None
        tail = _tail(qkv, cosine, sine, lengths, heads, scale)
        _succeed(library.plmft_attention_forward(qkv.data_ptr(), out.data_ptr(), _address(lse), *tail))
        if differentiate:
            ctx.save_for_backward(qkv, out, lse, cosine, sine)
            ctx.settings = (lengths, heads, scale)
            ctx.library = library
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """(T, H·D) -> (T, 3·H·D) and nothing for the rest."""
        qkv, out, lse, cosine, sine = ctx.saved_tensors
        grad, result = grad.contiguous(), torch.empty_like(qkv)
        addresses = (qkv.data_ptr(), out.data_ptr(), grad.data_ptr(), result.data_ptr(), lse.data_ptr())
        _succeed(ctx.library.plmft_attention_backward(*addresses, *_tail(qkv, cosine, sine, *ctx.settings)))
        return result, None, None, None, None, None, None, None


def _tail(
    qkv: Tensor, cosine: Tensor | None, sine: Tensor | None, lengths: tuple[int, ...], heads: int, scale: float
) -> tuple[Any, ...]:
    """What both functions of the library take last."""
    width, sizes = qkv.shape[1] // (3 * heads), (ctypes.c_int64 * len(lengths))(*lengths)
    counts = (len(lengths), len(qkv), heads, width, scale, qkv.dtype == torch.bfloat16, torch.get_num_threads())
    return _address(cosine), _address(sine), sizes, *counts


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _succeed(code: int) -> None:
    if code:
        raise MemoryError("The attention kernel found no memory for its scratch.")
