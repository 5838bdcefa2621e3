"""P-TRAIN: fine-tuning steps as training makes them; days, hours and money follow from the measured step.

AdamW on proteins with random targets; one forward and backward pass a step. Steps a day, hours and USD for a data set
are projected from the mean step and named so. Where a step is planned not to fit it is not tried.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from plmft import InputError
from plmft.bench.material import fixed_sequences
from plmft.bench.protocol import Bench, Row
from plmft.bench.table import one_reason
from plmft.bench.train_command import WARMUP_STEPS, Cell, Trained, check_tunings, train_apart
from plmft.bench.training_plan import Planned, plan_step

DAY_S = 86_400
GB = 1e9
MEASURED = (
    "step_time_ms_p50",
    "step_time_ms_p95",
    "step_time_ms_mean",
    "residues_per_s",
    "sequences_per_s",
    "data_wait_fraction",
    "peak_memory_gb",
    "peak_reserved_gb",
    "peak_host_memory_gb",
    "energy_j_per_1k_sequences",
    "mfu",
)
REAL = "real"


@dataclass(frozen=True)
class Training:
    """Options of the protocol.

    Args:
        tunings: names of conf/tuning. precisions: None: the one of hardware.precision.
        checkpointing: with and without gradient checkpointing.
        batches: sequences a step. lengths: in residues, or "real": proteins of real lengths.
        steps: of each run, the first five of which are not timed. repeats: runs of each cell; P-TRAIN asks for 20 to
            count how often memory runs out. The run with the median step is told.
        sequences, epochs: of the data set that hours and money are projected for.
    """

    tunings: Annotated[tuple[str, ...], MinLen(1)]
    precisions: tuple[Literal["fp32", "tf32", "bf16", "fp16", "bf16_weights"], ...] | None
    checkpointing: Annotated[tuple[bool, ...], MinLen(1)]
    batches: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]
    lengths: Annotated[tuple[Annotated[int, Gt(0)] | Literal["real"], ...], MinLen(1)]
    steps: Annotated[int, Gt(WARMUP_STEPS)]
    repeats: Annotated[int, Gt(0)]
    sequences: Annotated[int, Gt(0)]
    epochs: Annotated[int, Ge(1)]

    uses: ClassVar[tuple[str, ...]] = ("tuning", "optim", "data")
    shows: ClassVar[tuple[str, ...]] = (
        "step_time_ms_p50",
        "residues_per_s",
        "peak_memory_gb",
        "peak_host_memory_gb",
        "mfu",
        "steps_per_day_projected",
        "hours_projected",
        "usd_projected",
        "out_of_memory_count",
    )

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "optimizer": "AdamW, fused",
            "task": "regression of random targets",
            "head": "mean pooling, 512 hidden, no normalisation over the step",
            "micro_steps": "one a step",
            "warmup_steps": WARMUP_STEPS,
            "command": "plmft.train",
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each tuning, precision, checkpointing, length and batch.

        Raises: InputError: an unknown tuning, a precision that the device lacks, sequences that the model can't take.
        """
        check_tunings(bench, self.tunings, "protocol.tunings")
        check_lengths(self.lengths, bench)
        precisions = self.precisions or (bench.device.precision,)
        for precision in precisions:
            bench.at(precision)
        for precision in precisions:
            for tuning in self.tunings:
                for checkpointing in (False,) if tuning == "frozen" else self.checkpointing:
                    for length in self.lengths:
                        for batch in self.batches:
                            yield self._row(bench, tuning, precision, checkpointing, length, batch)

    def _row(
        self, bench: Bench, tuning: str, precision: str, checkpointing: bool, length: int | str, batch: int
    ) -> Row:
        sequences = material(bench, length, batch * self.steps)
        row = bench.conditions(
            precision,
            attention=attention_of(bench, precision),
            tuning=tuning,
            checkpointing=str(checkpointing).lower(),
            batch=batch,
            length=length,
            steps=self.steps,
            repeats=self.repeats,
        )
        step = longest_step(sequences, batch)
        plan = plan_step(bench, tuning, step, precision, checkpointing)
        if plan is not None and not plan.fits:
            told = f"planned to take {plan.peak_gb:.2f} GB of {plan.free_gb:.2f} GB that are free: not tried"
            return row | _planned(plan) | {"note": told}
        cell = Cell(
            sequences,
            batch,
            tokens_of(bench, step),
            tuning,
            precision,
            checkpointing,
            threads=row.get("threads"),
        )
        runs = [train_apart(bench, cell) for _ in range(self.repeats)]
        return row | self._figures(bench, tuning, precision, runs) | _planned(plan)

    def _figures(self, bench: Bench, tuning: str, precision: str, runs: Sequence[Trained]) -> Row:
        failed = [run for run in runs if run.reason is not None]
        count: Row = {"out_of_memory_count": float(sum(run.out_of_memory for run in runs))}
        measured = [run for run in runs if run.reason is None and "step_time_ms_mean" in run.cost]
        notes = list(dict.fromkeys(run.reason for run in failed))
        if not measured:
            return count | {"note": "; ".join(notes or ["no step was measured"])}
        chosen = _median(measured)
        figures: Row = {name: chosen.cost[name] for name in MEASURED if name in chosen.cost}
        figures |= count | {"parameters": chosen.total, "parameters_trainable": chosen.trainable}
        figures |= state_and_activations(chosen, tuning, precision)
        notes += [chosen.notes[name] for name in ("step_time", "peak_host_memory") if name in chosen.notes]
        if "energy_j" not in chosen.cost:
            notes.append(one_reason(f"energy: {chosen.energy_source.removeprefix('absent: ')}"))
        figures |= self._projected(bench, chosen, frozen=tuning == "frozen", notes=notes)
        return figures | ({"note": "; ".join(dict.fromkeys(notes))} if notes else {})

    def _projected(self, bench: Bench, run: Trained, *, frozen: bool, notes: list[str]) -> Row:
        """Steps a day, and an epoch, hours and money for `sequences`; a frozen backbone reads each sequence once."""
        step_s = run.cost["step_time_ms_mean"] / 1e3
        rate = run.cost["sequences_per_s"]
        found: Row = {
            "steps_per_day_projected": DAY_S / step_s,
            "epoch_h_projected": self.sequences / rate / 3600,
            "for_sequences": self.sequences,
            "for_epochs": self.epochs,
        }
        seconds = self.epochs * self.sequences / rate
        if frozen:
            if "sequences_per_s" not in run.embed:
                notes.append("hours: the pass through the backbone was not timed; take more steps")
                return found
            found["embed_sequences_per_s"] = run.embed["sequences_per_s"]
            seconds += self.sequences / run.embed["sequences_per_s"]
        found["hours_projected"] = seconds / 3600
        if bench.usd_per_hour is None:
            notes.append("usd: no price per hour is set (hardware.usd_per_hour)")
        else:
            found["usd_projected"] = seconds / 3600 * bench.usd_per_hour
        return found


def check_lengths(lengths: Sequence[int | str], bench: Bench) -> None:
    """Raises: InputError: more residues than the model's context."""
    context = bench.spec.context
    for length in lengths:
        if context is not None and length != REAL and length > context:
            raise InputError(f"protocol.lengths: {length} residues, but {bench.spec.name} takes {context}. Set less.")


def material(bench: Bench, length: int | str, count: int) -> list[str]:
    """That many proteins of one length, or of real ones."""
    return bench.sequences(count) if length == REAL else fixed_sequences(count, int(length), bench.seed)


def longest_step(sequences: Sequence[str], batch: int) -> tuple[int, ...]:
    """Lengths of the longest sequences: training shuffles them, so that one step may hold these."""
    return tuple(sorted((len(s) for s in sequences), reverse=True)[:batch])


def tokens_of(bench: Bench, lengths: Sequence[int]) -> int:
    """Residues and special tokens of sequences of these lengths: as many in one pass, and no step is cut."""
    extra = len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)
    return sum(lengths) + extra * len(lengths)


def attention_of(bench: Bench, precision: str) -> str | None:
    """Which implementation computes; None for a model without attention."""
    from plmft.models.attention import implementation
    from plmft.models.spec import TransformerSpec

    arithmetic = bench.at(precision).device.arithmetic
    return implementation(bench.device.torch_type, arithmetic) if isinstance(bench.spec, TransformerSpec) else None


def state_and_activations(run: Trained, tuning: str, precision: str) -> Row:
    """On a GPU, weights with gradients and AdamW's moments (16 bytes for one that learns, 4 for others), and the rest
    of the allocator's peak, which is what activations took. Not told where weights are held in fewer bits, and where a
    frozen backbone has left the device.
    """
    if "peak_memory_gb" not in run.cost or precision == "bf16_weights" or tuning in ("qlora", "frozen"):
        return {}
    state = (4 * run.total + 12 * run.trainable) / GB
    return {"state_gb": state, "activations_gb": run.cost["peak_memory_gb"] - state}


def _median(runs: Sequence[Trained]) -> Trained:
    return sorted(runs, key=lambda run: run.cost["step_time_ms_p50"])[(len(runs) - 1) // 2]


def _planned(plan: Planned | None) -> Row:
    if plan is None:
        return {}
    found: Row = {"planned_gb": plan.peak_gb, "planned_activations_gb": plan.activations_gb}
    return found | ({} if plan.largest_batch is None else {"planned_largest_batch": float(plan.largest_batch)})
