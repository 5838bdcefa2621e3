"""What the planner says a step holds, against what it held: models x tuning x lengths x precision, each measured apart.

    python -m benchmarks.memory_grid            # writes the table of docs/planning.md, about a quarter of an hour
    python -m benchmarks.memory_grid --only esm2_tiny

Each point is a fresh process: the peak resident memory (VmHWM) over three optimizer steps of the real Predictor, less
what the process held after its imports and one small step; of the planner's fixed term only the scratch counts.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs" / "planning.md"
BEGIN, END = "<!-- grid: written by python -m benchmarks.memory_grid -->", "<!-- grid ends -->"
WITHIN = 0.15


@dataclass(frozen=True)
class Point:
    """One measurement. lengths: tokens of the sequences of a micro-step. micro: micro-steps of an optimizer step."""

    model: str
    tuning: str
    lengths: tuple[int, ...]
    task: str = "secondary_structure"
    precision: str = "bf16"
    kernel: str = "matmul"
    checkpointing: bool = False
    micro: int = 1


@dataclass(frozen=True)
class Measured:
    """MB are 10⁶ bytes; utilisation is the steps' FLOP/s over the measured matrix product's."""

    point: Point
    planned_mb: float
    measured_mb: float
    utilisation: float

    @property
    def error(self) -> float:
        """Of the plan, over what was measured."""
        return self.planned_mb / self.measured_mb - 1


def grid() -> list[Point]:
    """Models, tunings and lengths, and single changes of one point."""
    short, long = (240,) * 17, (1000,) * 4
    tunings = ("full", "frozen", "lora", "last_layers")
    return [
        Point("esm2_8m", "full", long, kernel="compiled"),
        Point("esm2_8m", "lora", short, kernel="compiled"),
        *(Point("esm2_8m", tuning, lengths) for lengths in (short, long) for tuning in tunings),
        *(Point("esm2_35m", tuning, short) for tuning in tunings),
        Point("esm2_35m", "full", long),
        Point("esm2_8m", "full", short, checkpointing=True),
        Point("esm2_8m", "full", short, precision="fp32"),
        Point("esm2_8m", "lora", short, precision="bf16_weights"),
        Point("esm2_8m", "bias", short),
        Point("esm2_8m", "full", short[:4], micro=4),
        Point("esm2_8m", "full", (120, 500, 60, 900, 240, 30)),
        Point("esm2_8m", "full", (470,) * 4, task="contacts"),
        Point("esm2_8m", "full", short, task="fluorescence"),
        Point("esm2_tiny", "full", short),
        Point("esm2_tiny", "lora", long),
        Point("esm2_150m", "full", short[:4]),
        Point("esm2_150m", "lora", short[:8]),
        Point("esm2_8m", "dora", short),
    ]


def parts_of_point(point: Point) -> dict[str, Any]:
    """Spec, task and tuning as the command makes them."""
    from omegaconf import OmegaConf

    from plmft.config.compose import compose_config, parts_of

    overrides = [f"model={point.model}", f"task={point.task}", f"tuning={point.tuning}", "model.init=random"]
    if point.tuning == "last_layers":
        overrides.append(f"tuning.layers={1 if point.model == 'esm2_tiny' else 2}")
    config = OmegaConf.to_container(compose_config(overrides), resolve=True)
    return parts_of({name: config[name] for name in ("model", "task", "tuning")})


def make(point: Point) -> tuple[Any, Any]:
    """A Predictor and an optimizer step of random sequences."""
    import numpy as np

    from plmft.data.packing import EncodedSplit
    from plmft.data.records import AMINO_ACIDS, Record
    from plmft.models.build import build_predictor
    from plmft.models.precision import hold_frozen_in_bf16
    from plmft.models.weights import Located

    parts = parts_of_point(point)
    spec, task, rng = parts["model"], parts["task"], np.random.default_rng(0)
    targets = {
        "sequence_regression": lambda n: float(rng.standard_normal()),
        "residue_classification": lambda n: rng.integers(0, 3, n),
        "contacts": lambda n: rng.normal(0, 10, (n, 3)).astype(np.float32),
    }
    residues = [length - 2 for _ in range(point.micro) for length in point.lengths]
    records = [
        Record(str(i), "".join(rng.choice(list(AMINO_ACIDS), n)), targets[task.kind](n), "train")
        for i, n in enumerate(residues)
    ]
    predictor = build_predictor(
        spec, Located("random"), tuning=parts["tuning"], head=task.head, kind=task.kind, outputs=task.outputs
    )
    if point.precision == "bf16_weights":
        hold_frozen_in_bf16(predictor.backbone)
    predictor.backbone.checkpointing = point.checkpointing
    split = EncodedSplit(records, spec.tokenizer, task.kind)
    return predictor, split.step(np.arange(len(records)), sum(point.lengths))


def run(point: Point, steps: int) -> float:
    """Optimizer steps; returns the best step's seconds of CPU time a thread: other processes don't count in it."""
    import torch

    from plmft.models.precision import autocast

    predictor, step = make(point)
    optimizer = torch.optim.AdamW([p for p in predictor.parameters() if p.requires_grad], fused=True)

    def backward(loss: torch.Tensor) -> None:
        with torch.autocast("cpu", enabled=False):
            loss.backward()

    times = []
    for _ in range(steps):
        start = time.process_time()
        optimizer.zero_grad()
        with autocast(point.precision, "cpu"):
            predictor.backward_step(step, backward)
        torch.nn.utils.clip_grad_norm_([p for p in predictor.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        times.append(time.process_time() - start)
    return min(times) / torch.get_num_threads()


def product_flops(precision: str) -> float:
    """FLOP/s of a 1,024 x 1,024 product, by CPU time a thread."""
    import torch

    matrix = torch.full((1024, 1024), 0.5, dtype=torch.float32 if precision == "fp32" else torch.bfloat16)
    times = []
    for _ in range(8):
        start = time.process_time()
        for _ in range(4):
            torch.mm(matrix, matrix)
        times.append((time.process_time() - start) / 4 / torch.get_num_threads())
    return 2.0 * 1024**3 / min(times)


def resident_bytes() -> int:
    """VmRSS of this process."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


def planned_mb(point: Point) -> float:
    """What the planner says."""
    from plmft.efficiency.plan import MicroStep, Numerics, training_memory
    from plmft.training.places import SCRATCH_GB
    from plmft.training.planning import head_bytes, learns_of, network_of

    parts = parts_of_point(point)
    spec, task = parts["model"], parts["task"]
    learns = learns_of(spec, parts["tuning"], task.head, task.kind, task.outputs)
    micro = MicroStep(point.lengths, alone=point.micro == 1)
    plan = training_memory(
        network_of(spec),
        learns,
        micro,
        Numerics(point.precision, point.kernel, point.checkpointing),
        head=head_bytes(spec, task.head, micro, frozen=not learns.layers),
        fixed=SCRATCH_GB * 1e9,
    )
    return plan.total / 1e6


def measure(point: Point) -> Measured:
    """In this process, which should be a fresh one."""
    from plmft.efficiency.allocator import keep_freed_memory
    from plmft.efficiency.memory import MemoryMeter, give_back
    from plmft.models import kernels
    from plmft.training.run_flops import run_flops

    if point.kernel == "compiled" and kernels.load() is None:
        raise RuntimeError("The compiled kernel isn't built: python -m plmft.models.kernels")
    keep_freed_memory()  # as a run does
    run(Point("esm2_tiny", point.tuning, (60,), task=point.task, precision=point.precision), 2)
    give_back()
    base = resident_bytes()
    meter = MemoryMeter("cpu")
    meter.reset()
    seconds = run(point, 3)
    peak = meter.peak()["peak_host_memory_gb"] * 1e9
    parts = parts_of_point(point)
    train_flops, _ = run_flops(parts["model"], parts["tuning"], parts["task"].head, parts["task"].outputs)
    share = train_flops(point.lengths * point.micro) / seconds / product_flops(point.precision)
    return Measured(point, planned_mb(point), (peak - base) / 1e6, share)


def measure_apart(point: Point) -> Measured:
    """In a fresh process."""
    environment = {**os.environ, "PLMFT_KERNEL": "1" if point.kernel == "compiled" else "0"}
    command = [sys.executable, "-m", "benchmarks.memory_grid", "--point", json.dumps(asdict(point))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{point}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Measured(point, found["planned_mb"], found["measured_mb"], found["utilisation"])


def point_of(text: str) -> Point:
    """From --point."""
    values = json.loads(text)
    return Point(**{**values, "lengths": tuple(values["lengths"])})


def row(found: Measured) -> str:
    """Of the table."""
    point = found.point
    lengths = f"{len(point.lengths)} × {point.lengths[0]}" if len(set(point.lengths)) == 1 else "30 to 900, mixed"
    how = [point.precision, point.kernel]
    how += ["checkpointing"] if point.checkpointing else []
    how += [f"{point.micro} micro-steps"] if point.micro > 1 else []
    return (
        f"| {point.model} | {point.tuning} | {point.task} | {lengths} | {', '.join(how)} | {found.planned_mb:,.0f} | "
        f"{found.measured_mb:,.0f} | {found.error:+.1%} | {found.utilisation:.0%} |"
    )


def report(all_found: list[Measured]) -> str:
    """The section of docs/planning.md."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    within = [found for found in all_found if abs(found.error) <= WITHIN]
    errors = [abs(found.error) for found in all_found]
    return "\n".join(
        [
            BEGIN,
            f"{date.today()}, {cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"{platform.system()} {platform.release().split('-')[0]}; `python -m benchmarks.memory_grid`.",
            f"{len(within)} of {len(all_found)} points are within {WITHIN:.0%}; the median error is "
            f"{statistics.median(errors):.1%}, the largest {max(errors):.1%}.",
            "",
            "| model | tuning | task | tokens of a micro-step | how | planned MB | measured MB | error | utilisation |",
            "|---|---|---|---|---|---|---|---|---|",
            *map(row, all_found),
            END,
        ]
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", help="measure one point in this process (JSON)")
    parser.add_argument("--only", help="points of this model alone; nothing is written")
    parser.add_argument("--table", help="write the table here instead of docs/planning.md")
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(asdict(measure(point_of(arguments.point)))))
        return
    points = [point for point in grid() if arguments.only in (None, point.model)]
    found = []
    for point in points:
        try:
            found.append(measure_apart(point))
        except RuntimeError as error:
            print(f"left out: {error}", flush=True)
            continue
        print(row(found[-1]), flush=True)
    if arguments.table:
        Path(arguments.table).write_text(report(found) + "\n")
    elif arguments.only is None:
        text = DOCS.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) + len(END) :]
        DOCS.write_text(before + report(found) + after)


if __name__ == "__main__":
    main()
