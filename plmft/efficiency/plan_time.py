"""How long training takes and what it costs, before anything is loaded. Costs one measured matrix product, 0.3 s.

step time = model FLOPs of a step (plmft.efficiency.flops) / (rate of the device's matrix products · utilisation),
a third more with gradient checkpointing, which computes each layer's forward pass again. The rate is measured on a CPU,
and the data sheet's on a GPU that is not here. Utilisation is the share of that rate which a whole step reaches; it was
measured on a CPU by benchmarks.memory_grid, for each width, and is an assumption on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# a full step's model FLOP/s over a measured product of 1,024 x 1,024 in bf16, by width; docs/planning.md has the table
CPU_UTILISATION = {64: 0.17, 320: 0.47, 480: 0.61, 640: 0.65}
GPU_UTILISATION = 0.35  # between small and large models on data-centre cards, as published; not measured for plmft
COMPUTED_AGAIN = 4 / 3  # gradient checkpointing: four forward passes' worth for three


@dataclass(frozen=True)
class Speed:
    """FLOP/s that a step is expected to reach, and how that is known."""

    flops_per_s: float
    source: str


def cpu_utilisation(width: int) -> float:
    """Between the measured widths on a logarithmic scale; beyond them, the nearest one's."""
    widths = sorted(CPU_UTILISATION)
    shares = [CPU_UTILISATION[w] for w in widths]
    return float(np.interp(np.log(width), np.log(widths), shares))


@dataclass(frozen=True)
class Duration:
    """Of a whole run; early stopping only shortens it.

    Args:
        step_s: of one optimizer step on average. steps: optimizer steps. passes_s: validation after each epoch, and
            the test. usd: None without a price.
    """

    step_s: float
    steps: int
    passes_s: float
    usd_per_hour: float | None

    @property
    def hours(self) -> float:
        """All together."""
        return (self.step_s * self.steps + self.passes_s) / 3600

    @property
    def usd(self) -> float | None:
        """At the hardware's hourly price."""
        return None if self.usd_per_hour is None else self.hours * self.usd_per_hour
