"""P-SCALE: the same fine-tuning on 1..n devices of one machine, strong and weak.

Efficiency is throughput over (devices times the throughput of one device of the same kind), both measured here, in
turn. On a CPU a device is a process with a fixed number of threads, the same in every row: cores over the most devices.
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, MinLen

from plmft import InputError
from plmft.bench.protocol import Bench, Row
from plmft.bench.train_command import WARMUP_STEPS, Cell, Trained, check_tunings, train_apart
from plmft.bench.training import attention_of, check_lengths, longest_step, material, tokens_of

Mode = Literal["strong", "weak"]
Point = tuple[int, int]  # devices, and sequences that a step sees on all of them


@dataclass(frozen=True)
class Scaling:
    """Options of the protocol.

    Args:
        devices: how many share a step; one is always measured, too.
        modes: strong: `batch` sequences a step on all devices together; weak: on each.
        strategy: of several devices. tuning: a name of conf/tuning.
        length: in residues, or "real". steps: of each run, the first five of which are not timed.
        rounds: runs of each point, in turn; the median is told, and the lowest and highest efficiency.
    """

    devices: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]
    modes: Annotated[tuple[Mode, ...], MinLen(1)]
    strategy: Literal["ddp", "fsdp", "zero1", "zero2", "zero3"]
    tuning: str
    batch: Annotated[int, Gt(0)]
    length: Annotated[int, Gt(0)] | Literal["real"]
    steps: Annotated[int, Gt(WARMUP_STEPS)]
    rounds: Annotated[int, Gt(0)]

    uses: ClassVar[tuple[str, ...]] = ("tuning", "optim", "data")
    shows: ClassVar[tuple[str, ...]] = (
        "residues_per_s",
        "sequences_per_s",
        "step_time_ms_p50",
        "speedup",
        "efficiency",
        "peak_memory_gb",
        "peak_host_memory_gb",
    )

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "nodes": 1,
            "efficiency": "throughput / (devices x throughput of one device of this machine)",
            "device_of_a_cpu": "a process with cores // most devices threads",
            "micro_steps": "one a step on each device",
            "warmup_steps": WARMUP_STEPS,
            "command": "plmft.train",
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each mode and number of devices.

        Raises: InputError: an unknown tuning, sequences that the model can't take, more devices than sequences.
        """
        several = {"devices": max(self.devices), "strategy": self.strategy} if max(self.devices) > 1 else {}
        check_tunings(bench, [self.tuning], "protocol.tuning", **several)
        check_lengths([self.length], bench)
        if "strong" in self.modes and max(self.devices) > self.batch:
            raise InputError(f"protocol.batch={self.batch}: fewer than {max(self.devices)} devices. Set it higher.")
        there = device_count(bench)
        threads = max(1, there // min(there, max(self.devices))) if bench.device.kind == "cpu" else None
        asked = {mode: [(n, self.batch * (n if mode == "weak" else 1)) for n in self.devices] for mode in self.modes}
        alone: Point = (1, self.batch)
        others = dict.fromkeys(point for points in asked.values() for point in points if point != alone)
        tried = [point for point in others if point[0] <= there]
        runs: dict[Point, list[Trained]] = {point: [] for point in (alone, *others)}
        for number in range(self.rounds):
            for point in (alone, *(tried if (self.rounds - number) % 2 else reversed(tried))):
                runs[point].append(self._run(bench, point, threads))
                if number == self.rounds - 1:
                    yield from self._rows(bench, asked, point, threads, runs, there)
        for point in others:
            if point not in tried:
                yield from self._rows(bench, asked, point, threads, runs, there)

    def _rows(
        self,
        bench: Bench,
        asked: Mapping[Mode, Sequence[Point]],
        point: Point,
        threads: int | None,
        runs: Mapping[Point, Sequence[Trained]],
        there: int,
    ) -> Iterator[Row]:
        """The rows that a point belongs to."""
        for mode, points in asked.items():
            if point in points:
                yield self._row(bench, mode, point, threads, runs, there)

    def _run(self, bench: Bench, point: Point, threads: int | None) -> Trained:
        devices, batch = point
        sequences = material(bench, self.length, batch * self.steps)
        longest = longest_step(sequences, batch)
        cell = Cell(
            sequences,
            batch,
            tokens_of(bench, longest),
            self.tuning,
            bench.device.precision,
            devices=devices,
            strategy=self.strategy if devices > 1 else "single",
            threads=threads,
        )
        return train_apart(bench, cell)

    def _row(
        self,
        bench: Bench,
        mode: Mode,
        point: Point,
        threads: int | None,
        runs: Mapping[Point, Sequence[Trained]],
        there: int,
    ) -> Row:
        devices, batch = point
        row = bench.conditions(
            attention=attention_of(bench, bench.device.precision),
            tuning=self.tuning,
            mode=mode,
            nodes=1,
            devices=devices,
            strategy=self.strategy if devices > 1 else "single",
            batch=batch,
            length=self.length,
            steps=self.steps,
            rounds=self.rounds,
        )
        if threads is not None:
            row["threads"] = threads
        if devices > there:
            kind = "GPUs" if bench.device.kind == "gpu" else "cores"
            return row | {"note": f"{devices} devices: this machine has {there} {kind}"}
        return row | _figures(devices, runs[point], runs[1, self.batch])


def _figures(devices: int, runs: Sequence[Trained], alone: Sequence[Trained]) -> Row:
    """Medians over rounds; efficiency by round, against the one device of the same round."""
    pairs = [
        (run.cost, one.cost)
        for run, one in zip(runs, alone, strict=True)
        if "residues_per_s" in run.cost and "residues_per_s" in one.cost
    ]
    reasons = list(dict.fromkeys(run.reason for run in (*runs, *alone) if run.reason is not None))
    if not pairs:
        return {"note": "; ".join(reasons or ["no step was measured"])}
    shares = [run["residues_per_s"] / (devices * one["residues_per_s"]) for run, one in pairs]
    names = ("residues_per_s", "sequences_per_s", "step_time_ms_p50", "peak_memory_gb", "peak_host_memory_gb")
    found: Row = {
        name: statistics.median(values) for name in names if (values := [run[name] for run, _ in pairs if name in run])
    }
    efficiency = statistics.median(shares)
    found |= {"speedup": devices * efficiency, "efficiency": efficiency}
    if len(shares) > 1:
        found |= {"efficiency_lowest": min(shares), "efficiency_highest": max(shares)}
    return found | ({"note": "; ".join(reasons)} if reasons else {})


def device_count(bench: Bench) -> int:
    """GPUs that PyTorch sees, or cores that this process may use."""
    if bench.device.kind == "cpu":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    import torch

    return torch.cuda.device_count()
