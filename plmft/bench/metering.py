"""The meters that training carries, for a protocol's passes; and their figures as a row."""

from functools import lru_cache
from typing import TYPE_CHECKING

from plmft.bench.protocol import Bench, Row

if TYPE_CHECKING:
    from plmft.efficiency.flops import Peak
    from plmft.efficiency.phase import PhaseCost, PhaseMeter


def phase_meter(bench: Bench, precision: str) -> "PhaseMeter":
    """A meter for one phase, none of whose steps is left out as warm-up: the protocol has warmed up before."""
    from plmft.efficiency.phase import PhaseMeter
    from plmft.efficiency.steps import CudaClock, StepMeter, WallClock

    device = bench.device
    clock = CudaClock(device.index) if device.kind == "gpu" else WallClock()
    return PhaseMeter(
        device.torch_type,
        device.index,
        usd_per_hour=bench.usd_per_hour,
        peak=peak_of(device.torch_type, device.index, precision),
        steps=StepMeter(clock, warmup_steps=0),
    )


@lru_cache
def peak_of(device_type: str, index: int, precision: str) -> "Peak":
    """The device's peak; a CPU's is measured, once a process: 0.3 s."""
    from plmft.efficiency.flops import find_peak

    return find_peak(device_type, index, "bf16" if precision == "bf16_weights" else precision)


def costs_of(cost: "PhaseCost") -> Row:
    """A phase's figures by their names without `cost/`, and a note with the reason for each that a user would miss."""
    values: Row = {name: float(value) for name, value in cost.values.items()}
    notes = [f"{name}: {cost.notes[name]}" for name in ("energy_j", "peak_memory", "mfu") if absent(cost, name)]
    if values.get("mfu", 0.0) > 1:
        notes.append(f"faster than the device's peak ({cost.notes['mfu']}): doubt the peak or this figure")
    return values | ({"note": "; ".join(notes)} if notes else {})


def absent(cost: "PhaseCost", name: str) -> bool:
    """Whether a figure is not there, with a reason."""
    return name in cost.notes and name not in cost.values
