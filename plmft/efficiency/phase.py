"""Meter one phase (fit, test, predict): time, memory, energy, FLOPs and money, in one record.

Composes the meters of this folder and adds ratios; costs what they cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from plmft.efficiency.energy import Energy, EnergyMeter
from plmft.efficiency.flops import Peak
from plmft.efficiency.memory import MemoryMeter
from plmft.efficiency.steps import CudaClock, StepMeter, WallClock

_WINDOW = "phase"


@dataclass(frozen=True)
class PhaseCost:
    """What a phase cost.

    Attributes:
        values: by design's names without `cost/`; what isn't known is left out.
        notes: by the same names (or the part they share): why one is left out, or what to know about it.
        energy_source: the counters in `energy_j`, or why there is none.
    """

    values: dict[str, float]
    notes: dict[str, str]
    energy_source: str


class PhaseMeter:
    """Meters one phase: `begin`, steps through `meter.steps`, `end`. A new phase takes a new meter.

    `meter.steps` and `meter.memory` can be read while the phase runs.

    A phase that goes on in another process (`load_state_dict`) reports what both spent up to the checkpoint and since;
    what the first spent after its last checkpoint is lost with it.

    Args:
        device_type: PyTorch's: cuda, cpu, ...
        device_index: of this process's own device.
        usd_per_hour: price of the hardware the run occupies, for one of its processes; None: no money is reported.
        peak: the device's peak at the precision in use (`flops.find_peak`); None: no MFU.
        first_on_machine: this process is the one that counts the machine's CPU packages.
        clock: seconds, monotonic, for the wall time.
        steps, memory, energy: meters to use in place of the device's own.
    """

    def __init__(
        self,
        device_type: str,
        device_index: int = 0,
        *,
        usd_per_hour: float | None = None,
        peak: Peak | None = None,
        first_on_machine: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        steps: StepMeter | None = None,
        memory: MemoryMeter | None = None,
        energy: EnergyMeter | None = None,
    ) -> None:
        on_gpu = device_type == "cuda"
        self.steps = steps or StepMeter(CudaClock(device_index) if on_gpu else WallClock())
        self.memory = memory or MemoryMeter(device_type, device_index)
        self._energy = energy or EnergyMeter([device_index] if on_gpu else [], rapl=first_on_machine)
        self._usd_per_hour, self._peak, self._clock = usd_per_hour, peak, clock
        self._start_s: float | None = None
        self._before: dict[str, Any] | None = None  # spent by earlier processes of a resumed phase

    def begin(self) -> None:
        """Reset peaks and open the energy window, which waits for the device; then the wall time starts."""
        self.memory.reset()
        self._energy.begin(_WINDOW)
        self._start_s = self._clock()

    def end(self) -> PhaseCost:
        """Close the phase. Raises: RuntimeError: it was not begun, or has ended."""
        values = self.steps.summary()  # waits for the device
        del values["steps_measured"]  # the notes tell when they are few
        self._before, self._start_s = self._spent(self._energy.end), None
        energy, wall_s = Energy(**self._before["energy"]), self._before["wall_time_s"]
        notes = self.steps.notes() | self.memory.notes()
        values |= {"wall_time_s": wall_s, **self._before["peaks"]}
        if energy.joules is not None:
            values["energy_j"] = energy.joules
        if energy.reason is not None:
            notes["energy_j"] = energy.reason
        if self._usd_per_hour is not None:
            values["usd"] = wall_s / 3600 * self._usd_per_hour
        else:
            notes["usd"] = "no price per hour is set"
        self._add_ratios(values, notes)
        return PhaseCost(values, notes, energy.source if energy.joules is not None else f"absent: {energy.reason}")

    def _add_ratios(self, values: dict[str, float], notes: dict[str, str]) -> None:
        sequences = self.steps.total_sequences
        if "energy_j" in values and sequences:
            values["energy_j_per_1k_sequences"] = values["energy_j"] / sequences * 1e3
        if "usd" in values and sequences:
            values["usd_per_1m_sequences"] = values["usd"] / sequences * 1e6
        flops_per_s = values.pop("flops_per_s", None)
        if flops_per_s is not None and self._peak is not None:
            values["mfu"] = flops_per_s / self._peak.flops_per_s
            notes["mfu"] = f"over {self._peak.flops_per_s / 1e12:.4g} TFLOP/s: {self._peak.source}"
        elif flops_per_s is not None:
            notes["mfu"] = "no peak is known for this device and precision"
        else:
            notes["mfu"] = "no step was measured, or a step's FLOPs are unknown"

    def _spent(self, read_energy: Callable[[str], Energy]) -> dict[str, Any]:
        """Wall time (s), energy and peaks (GB) of the phase so far, with those of earlier processes."""
        if self._start_s is None:
            raise RuntimeError("PhaseMeter: the phase was not begun, or has ended.")
        energy = read_energy(_WINDOW)
        wall_s, peaks = self._clock() - self._start_s, self.memory.peak()
        if self._before is not None:
            wall_s += self._before["wall_time_s"]
            energy = _join(Energy(**self._before["energy"]), energy)
            peaks = {
                name: max(part[name] for part in (peaks, self._before["peaks"]) if name in part)
                for name in peaks | self._before["peaks"]
            }
        return {"wall_time_s": wall_s, "energy": asdict(energy), "peaks": peaks}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, texts and lists: what the phase spent so far, or in all once it ended. A phase goes on."""
        spent = self._before if self._start_s is None else self._spent(self._energy.read)
        return {"spent": spent, "steps": self.steps.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with a phase of another process; before or after `begin`."""
        self.steps.load_state_dict(state["steps"])
        self._before = state["spent"]


def _join(before: Energy, after: Energy) -> Energy:
    """The energy of a phase in two processes: absent if either's is."""
    reasons = dict.fromkeys(energy.reason for energy in (before, after) if energy.reason is not None)
    sources = dict.fromkeys(energy.source for energy in (before, after))
    known = before.joules is not None and after.joules is not None
    return Energy(
        joules=before.joules + after.joules if known else None,
        source=", then ".join(sources),
        reason="; ".join(reasons) or None,
        window_too_short=before.window_too_short and after.window_too_short,
    )
