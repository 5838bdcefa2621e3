"""python -m benchmarks.attention: the compiled attention kernel against the PyTorch path, at ESM-2's shapes.

One layer's attention, rotation included, over 4,096 tokens of random lengths (20-1,022, mean about 255, as in the
secondary-structure set); the two alternate, medians of several rounds. Build first: python -m plmft.models.kernels.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from plmft.models import attention, kernels

SHAPES = {"8M": (20, 16), "35M": (20, 24), "650M": (20, 64)}  # heads and their width
TOKENS = 4096


def main(arguments: list[str] | None = None) -> int:
    """Prints a table. Returns: the exit code, 2 where the kernel isn't built."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if kernels.load() is None:
        print("The kernel isn't built or is turned off. Run python -m plmft.models.kernels first.", file=sys.stderr)
        return 2
    lengths = random_lengths(TOKENS)
    print(f"{len(lengths)} sequences, {TOKENS} tokens, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    print("| model | type | pass | PyTorch ms | kernel ms | ratio |\n|---|---|---|---|---|---|")
    for model, (heads, width) in SHAPES.items():
        for dtype in (torch.bfloat16, torch.float32):
            for training in (False, True):
                plain, compiled = compare(lengths, heads, width, dtype, training, options.rounds)
                name = "forward + backward" if training else "forward"
                row = f"{plain * 1e3:.2f} | {compiled * 1e3:.2f} | {plain / compiled:.2f}"
                print(f"| {model} | {str(dtype).removeprefix('torch.')} | {name} | {row} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")
    return 0


def random_lengths(tokens: int, seed: int = 8) -> tuple[int, ...]:
    """Log-normal lengths that add up to `tokens`, each 20-1,022 but the last."""
    generator, lengths = torch.Generator().manual_seed(seed), []
    while sum(lengths) < tokens:
        length = int(torch.empty(1).log_normal_(5.35, 0.62, generator=generator).clamp(20, 1022))
        lengths.append(min(length, tokens - sum(lengths)))
    return tuple(lengths)


def compare(
    lengths: tuple[int, ...], heads: int, width: int, dtype: torch.dtype, training: bool, rounds: int
) -> tuple[float, float]:
    """Median seconds of the PyTorch path and of the kernel, taken in turns."""
    tokens = sum(lengths)
    qkv = torch.randn(tokens, 3 * heads * width).to(dtype).requires_grad_(training)
    wanted = torch.randn(tokens, heads * width).to(dtype)
    angles = torch.cat([torch.arange(length) for length in lengths])[:, None] * torch.rand(width // 2)
    tables, settings = (angles.cos(), angles.sin()), (heads, width**-0.5)
    runs = (
        lambda: attention.PackedAttention.apply(qkv, lengths, tables, *settings),
        lambda: kernels.rotary_attention(qkv, lengths, tables, heads=heads, scale=width**-0.5),
    )
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 2):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(time_once(run, qkv, wanted))
    return statistics.median(times[0][2:]), statistics.median(times[1][2:])


def time_once(run: Callable[[], Tensor], qkv: Tensor, wanted: Tensor) -> float:
    """Seconds of one forward, and of its backward where qkv needs a gradient."""
    start = time.perf_counter()
    out = run()
    if qkv.requires_grad:
        torch.autograd.grad(out, qkv, wanted)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
