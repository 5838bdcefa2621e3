"""The ladder of optimisations of a fine-tuning step: each rung adds one to those before.

eager is what transformers does at its plainest: padded, fp32, attention written out, AdamW weight by weight. Then half
precision, SDPA, packing, the fused optimizer, compilation, and last gradient checkpointing, which trades time for
memory. Rungs take turns, round by round, in a process of their own; the share of the peak is that of each precision.
"""

import contextlib
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt, MinLen

from plmft import InputError
from plmft.bench.apart import apart
from plmft.bench.material import fixed_sequences
from plmft.bench.metering import phase_meter
from plmft.bench.protocol import Bench, Row
from plmft.bench.training import REAL, check_lengths
from plmft.bench.training_plan import HEAD
from plmft.models.spec import TransformerSpec

if TYPE_CHECKING:
    from plmft.data.packing import StepBatch
    from plmft.models.predictor import Predictor

Rung = Literal["eager", "half", "sdpa", "packed", "fused", "compiled", "checkpointing"]
LADDER: tuple[Rung, ...] = ("eager", "half", "sdpa", "packed", "fused", "compiled", "checkpointing")
FIGURES = ("step_time_ms_p50", "residues_per_s", "padding_fraction", "peak_memory_gb", "peak_host_memory_gb", "mfu")
WARMUP_STEPS = 2
LEARNING_RATE = 1e-4
KERNEL = "PLMFT_KERNEL"


@dataclass(frozen=True)
class Kernels:
    """Options of the protocol.

    Args:
        rungs: of the ladder, in its order; each has all that stand before it in the ladder.
        batch: sequences a step. length: in residues, or "real": proteins of real lengths, of `longest` at most.
        steps: timed in each round, after two to warm up (with compilation: after the first, too, which compiles).
        rounds: of all rungs, in turn; medians are told.
    """

    rungs: Annotated[tuple[Rung, ...], MinLen(1)]
    batch: Annotated[int, Gt(0)]
    length: Annotated[int, Gt(0)] | Literal["real"]
    longest: Annotated[int, Gt(0)]
    steps: Annotated[int, Gt(0)]
    rounds: Annotated[int, Gt(0)]

    uses: ClassVar[tuple[str, ...]] = ("data",)
    shows: ClassVar[tuple[str, ...]] = (*FIGURES, "times_as_fast", "of_the_memory")

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "tuning": "full",
            "optimizer": "AdamW",
            "head": "mean pooling, 512 hidden",
            "warmup_steps": WARMUP_STEPS,
            "times_as_fast": "of the first rung, by round",
            "ladder": " -> ".join(LADDER),
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each rung.

        Raises: InputError: a model without layers of transformers; a length or rungs that can't be measured.
        """
        if not isinstance(bench.spec, TransformerSpec):
            raise InputError(f"model={bench.spec.name}: the ladder is one of transformers. Choose esm2_8m or another.")
        check_lengths([self.length], bench)
        rungs = [rung for rung in LADDER if rung in self.rungs]
        plans = {rung: plan_of(rung, bench) for rung in rungs}
        tried = [rung for rung in rungs if plans[rung].reason is None]
        if not tried:
            raise InputError(f"protocol.rungs={list(self.rungs)}: {plans[rungs[0]].reason}.")
        options = {"batch": self.batch, "length": self.length, "longest": self.longest, "steps": self.steps}
        first, others = tried[0], tried[1:]
        turns = [[first, *(others if (self.rounds - number) % 2 else others[::-1])] for number in range(self.rounds)]
        cells = [{"rung": rung, **options} for turn in turns for rung in turn]
        found: dict[str, list[Row]] = {rung: [] for rung in rungs}
        for cell, measured in apart(bench, "plmft.bench.kernels.measure_rung", cells):
            rung = cell["rung"]
            found[rung].append(measured)
            if len(found[rung]) == self.rounds:
                yield self._conditions(bench, plans[rung], rung) | figures(found[rung], found[first])
        for rung in rungs:
            if rung not in tried:
                yield self._conditions(bench, plans[rung], rung) | {"note": plans[rung].reason}

    def _conditions(self, bench: Bench, plan: "Plan", rung: Rung) -> Row:
        row = bench.conditions(plan.precision, attention=plan.attention, rung=rung)
        return row | {"batch": self.batch, "length": self.length, "rounds": self.rounds}


def figures(rows: Sequence[Row], first: Sequence[Row]) -> Row:
    """Medians over rounds, and ratios to the first rung in the same round."""
    notes = list(dict.fromkeys(str(row["note"]) for row in rows if "note" in row))
    values: Row = {}
    for name in FIGURES:
        known = [row[name] for row in rows if name in row]
        if known:
            values[name] = statistics.median(known)
    for name, figure, upside_down in (
        ("times_as_fast", "step_time_ms_p50", True),
        ("of_the_memory", _memory_of(rows), False),
    ):
        ratios = [
            one[figure] / row[figure] if upside_down else row[figure] / one[figure]
            for row, one in zip(rows, first, strict=False)
            if figure in row and figure in one
        ]
        if ratios:
            values[name] = statistics.median(ratios)
    return values | ({"note": "; ".join(notes)} if notes else {})


def _memory_of(rows: Sequence[Row]) -> str:
    return "peak_memory_gb" if any("peak_memory_gb" in row for row in rows) else "peak_host_memory_gb"


@dataclass(frozen=True)
class Plan:
    """What a rung has on this device. reason: why it can't be measured; None: it can."""

    precision: str
    attention: str
    packed: bool
    fused: bool
    compiled: bool
    checkpointing: bool
    reason: str | None = None


def plan_of(rung: Rung, bench: Bench) -> Plan:
    """All that stands before the rung, and its own; half precision is bf16, or fp16 on a GPU that lacks bf16."""
    at, gpu = LADDER.index(rung), bench.device.kind == "gpu"
    reached = {name: at >= LADDER.index(name) for name in LADDER}
    precision = "fp32"
    if reached["half"]:
        precision = _half(bench)
    attention = "sdpa" if reached["sdpa"] else "eager"
    compiled, reason = reached["compiled"], None
    if reached["packed"]:
        attention, missing = _attention(bench, precision, compiled)
        if rung == "compiled" and missing:
            reason = missing
        compiled = compiled and (gpu or not missing)
    if precision == "fp32" and rung == "half":
        reason = "this device has no half precision that trains"
    return Plan(precision, attention, reached["packed"], reached["fused"], compiled, rung == "checkpointing", reason)


def _half(bench: Bench) -> str:
    for precision in ("bf16", "fp16"):
        try:
            bench.at(precision)
        except InputError:
            continue
        return precision
    return "fp32"


def _attention(bench: Bench, precision: str, compiled: bool) -> tuple[str, str | None]:
    """The name of the packed attention, and why compilation can't be measured: on a CPU it is that of the attention."""
    from plmft.models import kernels
    from plmft.models.attention import implementation

    if bench.device.kind == "gpu":
        return implementation("cuda", precision), None
    if compiled and kernels.find() is not None:
        return "compiled", None
    told = "a CPU's compiled attention is not built: python -m plmft.models.kernels"
    return "matmul by sequence", told if compiled else None


def measure_rung(bench: Bench, rung: Rung, batch: int, length: int | str, longest: int, steps: int) -> Row:
    """One rung, from new weights: figures of `steps` steps, by the meters of training."""
    import torch

    from plmft.models.tuning import Full
    from plmft.training.run_flops import run_flops

    plan = plan_of(rung, bench)
    torch.manual_seed(bench.seed)
    with _kernel(plan.compiled):
        predictor, step = _predictor(bench, plan), _step(bench, batch, length, longest)
        optimize = _optimizer(bench, predictor, plan, step)
        for _ in range(WARMUP_STEPS + plan.compiled):
            optimize()
        phase = phase_meter(bench, plan.precision)
        meter = phase.steps
        micro = step.micro[0]
        padding = 0 if plan.packed else max(micro.lengths) * len(micro.lengths) - len(micro.tokens)
        flops = run_flops(bench.spec, Full(), HEAD, 1)[0](micro.lengths)
        phase.begin()
        for _ in range(steps):
            meter.step_begin()
            optimize()
            meter.step_end(
                residues=micro.residues,
                sequences=len(micro.lengths),
                tokens=len(micro.tokens) + padding,
                padding=padding,
                flops=flops,
            )
        values = phase.end().values
    return {name: values[name] for name in FIGURES if name in values}


@contextlib.contextmanager
def _kernel(on: bool) -> Iterator[None]:
    """The compiled attention of a CPU, where it is built, or not."""
    before = os.environ.get(KERNEL)
    os.environ[KERNEL] = "1" if on else "0"
    try:
        yield
    finally:
        os.environ.pop(KERNEL)
        if before is not None:
            os.environ[KERNEL] = before


def _predictor(bench: Bench, plan: Plan) -> "Predictor":
    from plmft.bench.rectangle import Rectangles
    from plmft.models.build import build_predictor
    from plmft.models.predictor import Predictor
    from plmft.models.tuning import Full
    from plmft.models.weights import load, locate

    located, kind = locate(bench.spec), "sequence_regression"
    if plan.packed:
        predictor = build_predictor(bench.spec, located, tuning=Full(), head=HEAD, kind=kind, outputs=1)
        predictor.backbone.checkpointing = plan.checkpointing
        if plan.compiled and bench.device.kind == "gpu":
            predictor.backbone.compile_layers()
    else:
        backbone = Rectangles(load(bench.spec, located), plan.attention)
        predictor = Predictor(backbone, HEAD.build(backbone.width, 1, kind), kind)
    return predictor.train().to(bench.where)


def _step(bench: Bench, batch: int, length: int | str, longest: int) -> "StepBatch":
    """The same proteins for each rung, on the device."""
    import numpy as np

    from plmft.data.packing import EncodedSplit
    from plmft.data.records import Record

    drawn = bench.sequences(batch) if length == REAL else fixed_sequences(batch, int(length), bench.seed)
    sequences = [sequence[:longest] for sequence in drawn] if length == REAL else drawn
    records = [Record(str(i), s, float(i % 2), "train", f"protein {i}") for i, s in enumerate(sequences)]
    split = EncodedSplit(records, bench.spec.tokenizer, "sequence_regression")
    return split.step(np.arange(batch), int(split.lengths.sum())).to(bench.where)


def _optimizer(bench: Bench, predictor: "Predictor", plan: Plan, step: "StepBatch") -> Callable[[], None]:
    """One optimizer step, as training makes it."""
    import torch

    from plmft.models.precision import autocast

    kind: dict[str, Any] = {"fused": True} if plan.fused else {"foreach": False, "fused": False}
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=LEARNING_RATE, **kind)
    scaler = torch.amp.GradScaler(bench.device.torch_type, enabled=plan.precision == "fp16")

    def backward(loss: Any) -> None:
        with torch.autocast(bench.device.torch_type, enabled=False):
            scaler.scale(loss).backward()

    def optimize() -> None:
        optimizer.zero_grad()
        with autocast(plan.precision, bench.device.torch_type):
            predictor.backward_step(step, backward)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return optimize
