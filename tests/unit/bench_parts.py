"""A bench with a small model, as a protocol is given it."""

from pathlib import Path

from plmft.bench.protocol import Bench
from plmft.config.compose import compose_config, parts_of
from plmft.sweeps.jobs import plain


def small_bench(folder: Path, *overrides: str, weights: str = "random (seed 0)") -> Bench:
    """esm2_tiny with random weights on the CPU in fp32, unless overrides say otherwise; no data folder."""
    given = ["model=esm2_tiny", "model.init=random", "hardware=cpu", "hardware.precision=fp32", *overrides]
    config = plain(compose_config(given, "benchmark"))
    parts = parts_of(config)
    hardware = parts["hardware"]
    return Bench(
        parts=parts,
        config=config,
        spec=parts["model"],
        device=hardware.resolve(),
        runs=folder / "runs",
        folder=folder,
        seed=parts["seed"],
        usd_per_hour=hardware.usd_per_hour,
        weights=weights,
    )
