"""Count a model's FLOPs by formula, and know what the device could do at best.

Model FLOPs, not hardware FLOPs: what the mathematics of a forward and backward pass needs, whatever a kernel or
gradient checkpointing computes besides (Chowdhery et al. 2022, PaLM, appendix B). A multiply-add is 2 FLOPs. Left out,
being a few per mille: norms, softmax, activations, embeddings, biases, rotary angles, the loss, the optimizer.
Costs one sum over the batch's lengths a step; `measure_gemm_flops` costs its `seconds`, once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plmft import InputError

TUNINGS = ("full", "frozen", "last_layers", "bias", "lora", "dora", "qlora")
TERA = 1e12


def transformer_forward_flops(layers: int, width: int, feedforward: int, lengths: Iterable[int]) -> float:
    """FLOPs of one forward pass of an encoder over sequences that attend within themselves.

    layers · Σ over sequences ( 2·L·(4·D² + 2·D·F) + 4·L²·D ): query, key, value and output projections (4·D²), the two
    feed-forward matrices (2·D·F), and the two products of attention (2·L²·D each).

    Args:
        layers: number of transformer layers.
        width: D, the width of the residual stream.
        feedforward: F, the inner width of the feed-forward block.
        lengths: (N,) integers, tokens of each sequence with special tokens and without padding (L).
    Returns: FLOP.
    """
    tokens = float(_as_floats(lengths).sum())
    linear = 2.0 * tokens * (4 * width**2 + 2 * width * feedforward)
    return layers * linear + transformer_attention_flops(layers, width, lengths)


def transformer_attention_flops(layers: int, width: int, lengths: Iterable[int]) -> float:
    """The part of `transformer_forward_flops` that multiplies activations with activations: layers · Σ 4·L²·D."""
    return 4.0 * layers * width * float(np.square(_as_floats(lengths)).sum())


def linear_forward_flops(shapes: Iterable[tuple[int, int]], rows: int) -> float:
    """FLOPs of a chain of linear layers: rows · Σ 2·in·out. For heads, and for a LoRA pair ((D, r), (r, D)).

    Args:
        shapes: (in, out) of each layer.
        rows: vectors it is applied to: tokens, residues or sequences.
    """
    return 2.0 * rows * sum(inputs * outputs for inputs, outputs in shapes)


def conv_forward_flops(layers: Sequence[tuple[int, int, int]], tokens: int) -> float:
    """FLOPs of a stack of 1-D convolutions that keep the length: tokens · Σ 2·kernel·in·out.

    Args:
        layers: (kernel, in channels, out channels) of each; a one-hot input counts as dense channels.
        tokens: positions it is applied to. Positions at the ends, where part of the kernel sees nothing, count in full.
    """
    return 2.0 * tokens * sum(kernel * inputs * outputs for kernel, inputs, outputs in layers)


def step_flops(
    forward: float,
    head_forward: float,
    tuning: str,
    *,
    adapter_forward: float = 0.0,
    attention: float = 0.0,
    share: float = 1.0,
) -> float:
    """FLOPs of one training step, forward and backward.

    A product of an activation with a trained weight costs 3× its forward pass: forward, gradient of the input,
    gradient of the weight. With a frozen weight 2×: no gradient of the weight. Attention's two products have an
    activation on either side, so they cost 3× wherever a gradient passes, frozen weights or not.

    - full:        3·forward + 3·head
    - frozen:      1·forward + 3·head (forward = 0 for embeddings that come from a cache)
    - last_layers: (1 + 2·share)·forward + 3·head: layers below the lowest trained one have no backward pass
    - bias:        forward + share·(forward + attention) + 3·head: a constant's gradient is a sum, which is not counted
    - lora:        the same + 3·adapter; so for dora, whose norms depend on no token, and qlora, whose unpacking is no
      arithmetic of the model

    Gradient checkpointing changes none: what it computes again is no model FLOP. An upper bound by one matrix: the
    lowest trained layer needs no gradient of its input; it is counted.

    Args:
        forward: backbone's forward FLOP for the step, without adapters.
        head_forward: the head's.
        tuning: one of TUNINGS.
        adapter_forward: the LoRA matrices' (`linear_forward_flops`).
        attention: what of `forward` multiplies activations with activations (`transformer_attention_flops`).
        share: of the layers, from the top, how many have a gradient pass through, over all.
    """
    if tuning == "full":
        return 3 * (forward + head_forward)
    if tuning == "frozen":
        return forward + 3 * head_forward
    if tuning == "last_layers":
        return (1 + 2 * share) * forward + 3 * head_forward
    if tuning in TUNINGS:
        return forward + share * (forward + attention) + 3 * (adapter_forward + head_forward)
    raise InputError(f"tuning={tuning}: no FLOP formula for it. It must be one of {', '.join(TUNINGS)}.")


@dataclass(frozen=True)
class Peak:
    """The most a device can do, and how that is known."""

    flops_per_s: float
    source: str


# Published dense peaks in TFLOP/s (vendor data sheets and architecture papers; half of the "with sparsity" figures),
# keyed by what torch.cuda.get_device_name() tells. fp32 is without tensor cores; bf16 and fp16 accumulate in fp32.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"V100-SXM2", {"fp32": 15.7, "fp16": 125}),
    (r"V100-PCIE", {"fp32": 14, "fp16": 112}),
    (r"Tesla T4$", {"fp32": 8.1, "fp16": 65}),
    (r"A100(-SXM4|-PCIE|-PCIe)?[- ](40|80)GB", {"fp32": 19.5, "tf32": 156, "bf16": 312, "fp16": 312}),
    (r"NVIDIA A10$", {"fp32": 31.2, "tf32": 62.5, "bf16": 125, "fp16": 125}),
    (r"NVIDIA L4$", {"fp32": 30.3, "tf32": 60, "bf16": 121, "fp16": 121}),
    (r"NVIDIA L40S$", {"fp32": 91.6, "tf32": 183, "bf16": 362, "fp16": 362}),
    (r"RTX 4090$", {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2}),
    (r"H100 PCIe$", {"fp32": 51, "tf32": 378, "bf16": 756, "fp16": 756}),
    (r"H100 80GB HBM3$", {"fp32": 67, "tf32": 494, "bf16": 989, "fp16": 989}),
    (r"NVIDIA H200$", {"fp32": 67, "tf32": 494, "bf16": 989, "fp16": 989}),
    (r"NVIDIA B200$", {"bf16": 2250, "fp16": 2250}),
)


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet. device_name: as `torch.cuda.get_device_name()` tells it. memory_gb: 10⁹ bytes."""

    device_name: str
    memory_gb: float


# Names that a user may give a card that is not here; a data sheet's GB is a little more than 10⁹ bytes.
CARDS: dict[str, Card] = {
    "V100": Card("Tesla V100-SXM2-32GB", 32),
    "T4": Card("Tesla T4", 15),
    "A10": Card("NVIDIA A10", 24),
    "A100-40": Card("NVIDIA A100-SXM4-40GB", 40),
    "A100-80": Card("NVIDIA A100-SXM4-80GB", 80),
    "L4": Card("NVIDIA L4", 24),
    "L40S": Card("NVIDIA L40S", 48),
    "RTX4090": Card("NVIDIA GeForce RTX 4090", 24),
    "H100-PCIe": Card("NVIDIA H100 PCIe", 80),
    "H100": Card("NVIDIA H100 80GB HBM3", 80),
    "H200": Card("NVIDIA H200", 141),
    "B200": Card("NVIDIA B200", 180),
}


def peak_flops(device_name: str | None, precision: str) -> Peak | None:
    """The published dense peak of a GPU.

    Args:
        device_name: as `torch.cuda.get_device_name()` tells it; None for a CPU.
        precision: fp32, tf32, bf16 or fp16: the type of the matrix products.
    Returns: None for a device, a slice of a device (MIG), or a precision that the table lacks.
    """
    if device_name is None or "MIG" in device_name:
        return None
    for pattern, peaks in _PEAKS:
        if re.search(pattern, device_name) and precision in peaks:
            return Peak(peaks[precision] * TERA, f"data sheet, dense {precision}: {device_name}")
    return None


def measure_gemm_flops(precision: str, seconds: float = 0.3, size: int = 1024, device: str = "cpu") -> Peak:
    """The best rate among repeated square matrix products: a stand-in for a peak where none is published.

    The best, not the mean: another process can only slow a product down. What a model reaches is told against this
    rate, so a model of larger matrices than `size` can exceed it.

    Args:
        precision: fp32, tf32 (as PyTorch's matmul setting has it), bf16 or fp16.
        seconds: how long to repeat, at least once.
        size: rows and columns; a GPU needs some 8192 to come near its peak.
        device: PyTorch's name of the device.
    """
    import torch

    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in dtypes:
        raise InputError(f"precision={precision}: can't measure it. It must be one of {', '.join(dtypes)}.")
    a, b = (torch.full((size, size), 0.5, dtype=dtypes[precision], device=device) for _ in range(2))
    wait = torch.cuda.synchronize if a.is_cuda else lambda: None
    times_s: list[float] = []
    with torch.inference_mode():
        torch.mm(a, b)  # the first pays for loading kernels
        wait()
        while not times_s or sum(times_s) < seconds:
            start = time.perf_counter()
            torch.mm(a, b)
            wait()
            times_s.append(time.perf_counter() - start)
    return Peak(2.0 * size**3 / min(times_s), f"measured GEMM {size} {precision}")


def find_peak(device_type: str, device_index: int, precision: str) -> Peak:
    """The table's peak for a GPU in it, else a measured one: a fraction of a second, once a run."""
    if device_type != "cuda":
        return measure_gemm_flops(precision)
    import torch

    published = peak_flops(torch.cuda.get_device_name(device_index), precision)
    return published or measure_gemm_flops(precision, size=8192, device=f"cuda:{device_index}")


def _as_floats(lengths: Iterable[int]) -> np.ndarray:
    """float64: sums of squares stay exact to 2**53."""
    return np.asarray(lengths if hasattr(lengths, "__array__") else list(lengths), dtype=np.float64)
