"""P-NRG: energy of predictions by the devices' own counters, with the idle power measured apart; or why there is none.

Nothing is estimated: without a counter the row has the speed and the reason. A mean power of the card alone above
its limit is no measurement, and its energy is left out.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, MinLen

from plmft.bench.predicting import WARMUP_PASSES, meter_passes, packed_batches
from plmft.bench.protocol import Bench, Row
from plmft.bench.table import one_reason
from plmft.efficiency.energy import EnergyMeter
from plmft.efficiency.phase import PhaseCost

J_PER_KWH = 3.6e6
IDLE = "idle"
SPEED = ("sequences_per_s", "residues_per_s", "wall_time_s", "mfu")


@dataclass(frozen=True)
class EnergyOfPredictions:
    """Options of the protocol.

    Args:
        precisions: None: the one of hardware.precision.
        sequences: proteins of real lengths that a pass goes over; passes are repeated for `seconds`.
        idle_s: of each of two idle windows, before and after; the device is ready and nothing runs.
        tokens: of a batch; None: hardware.tokens_per_batch, 16,384 where that is auto.
    """

    precisions: Annotated[tuple[Literal["fp32", "tf32", "bf16", "fp16", "bf16_weights"], ...], MinLen(1)] | None
    sequences: Annotated[int, Gt(0)]
    seconds: Annotated[float, Gt(0)]
    idle_s: Annotated[float, Gt(0)]
    tokens: Annotated[int, Gt(0)] | None

    uses: ClassVar[tuple[str, ...]] = ("data",)

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "meter": "NVML energy counters of this run's GPUs, RAPL of the machine's packages; by Zeus",
            "idle": "mean power of a window before and one after, over the time of the passes",
            "batching": "sorted by length, packed, no padding",
            "warmup_passes": WARMUP_PASSES,
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each precision. Raises: InputError: a precision that the device lacks."""
        precisions = self.precisions or (bench.device.precision,)
        for precision in precisions:
            bench.at(precision)  # a mistake is told before anything is measured
        sequences = bench.sequences(self.sequences)
        batches = packed_batches(bench, sequences, tokens_per_batch(bench, self.tokens))
        for precision in precisions:
            place = bench.at(precision)  # again: it tells PyTorch whether fp32 products may be TF32
            row = place.conditions(sequences=self.sequences, lengths=bench.source_of_sequences)
            yield row | self._figures(place, batches)

    def _figures(self, bench: Bench, batches: list) -> Row:
        meter = make_meter(bench)
        idle = [idle_power_w(meter, self.idle_s)]
        cost = meter_passes(bench, batches, self.seconds, energy=make_meter(bench))
        idle.append(idle_power_w(meter, self.idle_s))
        known = [power for power in idle if power is not None]
        return energy_row(cost, sum(known) / len(known) if known else None, power_limit_w(bench))


def tokens_per_batch(bench: Bench, tokens: int | None) -> int:
    """The protocol's, else the hardware's; 16,384 where that is chosen by the run."""
    held = bench.parts["hardware"].tokens_per_batch
    return tokens or (held if isinstance(held, int) else 16_384)


def make_meter(bench: Bench) -> EnergyMeter:
    """Of this run's GPU and the machine's packages."""
    return EnergyMeter([bench.device.index] if bench.device.kind == "gpu" else [])


def idle_power_w(
    meter: EnergyMeter,
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """Mean power while nothing runs; None, at once, where nothing measures it."""
    meter.begin(IDLE)
    probe = meter.end(IDLE)
    if probe.joules is None and not probe.window_too_short:
        return None
    meter.begin(IDLE)
    start = clock()
    sleep(seconds)
    energy, passed = meter.end(IDLE), clock() - start
    return None if energy.joules is None or passed <= 0 else energy.joules / passed


def energy_row(cost: PhaseCost, idle_w: float | None, limit_w: float | None) -> Row:
    """Figures and notes from what the passes cost.

    Args:
        idle_w: mean idle power; None: not measured.
        limit_w: the card's power limit; None: not known. Energy that holds the host's, too, is not held against it.
    """
    values = cost.values
    row: Row = {name: values[name] for name in SPEED if name in values}
    if "energy_j" not in values:
        return row | {"note": one_reason(f"energy: {cost.energy_source}")}
    joules, wall_s = values["energy_j"], values["wall_time_s"]
    power = joules / wall_s
    if "RAPL" in cost.energy_source:
        limit_w = None
    if limit_w is not None and power > limit_w:
        return row | {"note": f"energy: a mean of {power:.0f} W is above the limit of {limit_w:.0f} W: not used"}
    row["energy_source"] = cost.energy_source
    sequences = joules / values["energy_j_per_1k_sequences"] * 1e3
    residues = sequences * values["residues_per_s"] / values["sequences_per_s"]
    row |= {"energy_j": joules, "mean_power_w": power}
    if limit_w is not None:
        row["power_limit_w"] = limit_w
    row |= _per(joules, sequences, residues, "")
    notes = [cost.notes[name] for name in ("energy_j",) if name in cost.notes]
    if idle_w is None:
        notes.append("idle power: not measured")
    elif power < idle_w:
        row["idle_power_w"] = idle_w
        notes.append("the passes took less power than idling before and after: another process must have worked then")
    else:
        row |= {"idle_power_w": idle_w, "net_energy_j": joules - idle_w * wall_s}
        row |= _per(joules - idle_w * wall_s, sequences, residues, "net_")
    return row | ({"note": "; ".join(notes)} if notes else {})


def _per(joules: float, sequences: float, residues: float, prefix: str) -> Row:
    per_1k = joules / sequences * 1e3
    return {
        f"{prefix}energy_j_per_1k_sequences": per_1k,
        f"{prefix}energy_kwh_per_1k_sequences": per_1k / J_PER_KWH,
        f"{prefix}energy_j_per_residue": joules / residues,
    }


def power_limit_w(bench: Bench) -> float | None:
    """The enforced limit of the GPU that computes; None for a CPU, and where the driver tells none."""
    if bench.device.kind == "cpu":
        return None
    from plmft.efficiency.counters import Absent, find_gpu

    try:
        handle = find_gpu(bench.device.index).handle
        import pynvml

        return pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
    except (Absent, ImportError):
        return None
    except Exception as error:  # pynvml.NVMLError: the card has no such reading
        if type(error).__name__.startswith("NVMLError"):
            return None
        raise
