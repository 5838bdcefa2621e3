"""How much memory inference and training take, by length and batch, and how it grows; the largest batch that fits.

P-MEM. Cells are computed in processes of their own, so that a peak is that cell's alone and running out of memory costs
one row; one that is planned not to fit is not tried. By default about two minutes for ESM-2 8M on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from plmft.bench.apart import apart
from plmft.bench.forward import Precision, attention_told, caution, refused
from plmft.bench.memory_cell import steps_of
from plmft.bench.memory_plan import largest_batch, plan, room_bytes
from plmft.bench.protocol import Bench, Row
from plmft.efficiency.out_of_memory import OUT_OF_MEMORY

GB = 1e9
Mode = Literal["inference", "training"]
TuningName = Literal["full", "frozen", "bias", "lora", "dora"]
Positive = Annotated[int, Gt(0)]
STEPS = 2  # optimizer steps: the second has the optimizer's state
MEASURE = "plmft.bench.memory_cell.measure_cell"


@dataclass(frozen=True)
class Memory:
    """The grid.

    Args:
        modes: inference is a forward pass without a graph; training an optimizer step of AdamW.
        tunings: of training.
        lengths: residues; special tokens come on top. batches: sequences at once; several, so that the growth is told.
        precisions: of the products.
        limit_gb: memory of a smaller device to pretend, in 10⁹ bytes; null: this one's.
        largest_batch: up to which the largest one that fits is looked for, at the longest length; 0: it isn't.
        fresh: a process for each cell, not only for each mode and precision: slower, and free of what earlier cells
            left behind.
    """

    modes: Annotated[tuple[Mode, ...], MinLen(1)]
    tunings: Annotated[tuple[TuningName, ...], MinLen(1)]
    lengths: Annotated[tuple[Positive, ...], MinLen(1)]
    batches: Annotated[tuple[Positive, ...], MinLen(1)]
    precisions: Annotated[tuple[Precision, ...], MinLen(1)]
    limit_gb: Annotated[float, Gt(0)] | None
    largest_batch: Annotated[int, Ge(0)]
    fresh: bool
    uses: ClassVar[tuple[str, ...]] = ("task", "loss", "optim")
    shows: ClassVar[tuple[str, ...]] = (
        "peak_memory_gb",
        "peak_host_memory_gb",
        "peak_above_libraries_gb",
        "weights_gb",
        "gradients_gb",
        "optimizer_gb",
        "activations_gb",
        "planned_gb",
        "floor_gb",
        "growth_exponent",
    )

    def fixes(self) -> dict[str, object]:
        return {
            "gb": "10^9 bytes",
            "peak": "allocator's on a GPU, resident set (VmHWM) less that of Python and its libraries on a CPU",
            "sequences": "random residues, all of one length, seeded",
            "training": f"{STEPS} optimizer steps of AdamW in float32, one micro-step each, clipped gradients",
            "processes": "one for each cell" if self.fresh else "one for each mode, tuning and precision",
        }

    def check(self, bench: Bench) -> None:
        """Raises: InputError: the task has no targets that could be drawn."""
        if "training" in self.modes:
            steps_of(bench, 1, 1)

    def measure(self, bench: Bench) -> Iterator[Row]:
        for mode, tuning in self._ways:
            for precision in self.precisions:
                about = bench.conditions(
                    precision, mode=mode, tuning=tuning, attention=attention_told(bench, "packed", precision)
                )
                reason = refused(bench, "packed", precision)
                if reason is not None:
                    yield about | {"note": reason}
                    continue
                rows = []
                for row in self._cells(bench, about, mode, tuning, precision):
                    rows.append(row)
                    yield row
                yield from self._growth(about, rows)
                if self.largest_batch:
                    yield self._largest(bench, about, mode, tuning, precision)

    @property
    def _ways(self) -> list[tuple[Mode, str]]:
        ways: list[tuple[Mode, str]] = [("inference", "none")] if "inference" in self.modes else []
        return ways + ([("training", tuning) for tuning in self.tunings] if "training" in self.modes else [])

    def _cells(self, bench: Bench, about: Row, mode: Mode, tuning: str, precision: str) -> Iterator[Row]:
        """The smallest first, so that what a cell leaves behind is little beside the next one's peak."""
        from plmft.bench.material import longest_possible

        longest, room = longest_possible(bench.spec), self._room(bench)
        wanted = []
        for batch, length in sorted(((b, n) for b in self.batches for n in self.lengths), key=lambda c: c[0] * c[1]):
            planned = plan(bench, mode, tuning, precision, batch, length)
            row = about | {"batch": batch, "length": length} | ({} if planned is None else {"planned_gb": planned / GB})
            if longest is not None and length > longest:
                yield row | {"note": f"{bench.spec.name} takes at most {longest:,} residues"}
            elif planned is not None and room is not None and planned > room:
                yield row | {"note": f"not tried: planned {planned / GB:.2f} GB, and {room / GB:.2f} GB are there"}
            else:
                wanted.append((row, self._cell(mode, tuning, precision, batch, length)))
        told = caution(bench, precision)
        answers = apart(bench, MEASURE, [cell for _, cell in wanted], fresh=self.fresh)
        for (row, _), (_, found) in zip(wanted, answers, strict=True):
            notes = [*filter(None, [found.pop("note", None), told, below_floor(found)])]
            yield row | found | ({"note": "; ".join(notes)} if notes else {})

    def _cell(self, mode: Mode, tuning: str, precision: str, batch: int, length: int) -> dict[str, Any]:
        return {
            "mode": mode,
            "tuning": tuning,
            "precision": precision,
            "batch": batch,
            "length": length,
            "limit_gb": self.limit_gb,
            "steps": STEPS,
        }

    def _room(self, bench: Bench) -> float | None:
        here = room_bytes(bench)
        if self.limit_gb is None:
            return here
        return self.limit_gb * GB if here is None else min(here, self.limit_gb * GB)

    def _growth(self, about: Row, rows: Sequence[Row]) -> Iterator[Row]:
        """How what is not weights, gradients or optimizer grows with length, at each batch size."""
        for batch in self.batches:
            found = [(int(r["length"]), r.get("activations_gb")) for r in rows if r.get("batch") == batch]
            points = sorted((length, float(held)) for length, held in found if held is not None and held > 0)
            if len(self.lengths) < 2:
                continue
            row = about | {"batch": batch, "figure": "growth", "lengths": " ".join(str(n) for n, _ in points)}
            if len(points) < 2:
                yield row | {"note": "fewer than two lengths were measured: no growth"}
            else:
                yield row | {"growth_exponent": exponent(points)}

    def _largest(self, bench: Bench, about: Row, mode: Mode, tuning: str, precision: str) -> Row:
        """By trial where running out of memory is an error that is caught, else by the plan."""
        length, room = max(self.lengths), self._room(bench)
        row = about | {"length": length, "figure": "largest batch"}

        def planned(batch: int) -> float | None:
            return plan(bench, mode, tuning, precision, batch, length)

        by_plan = None if room is None else largest_batch(lambda b: (planned(b) or 0.0) <= room, self.largest_batch)
        if bench.device.kind == "cpu" and self.limit_gb is None:
            if planned(1) is None or by_plan is None:
                return row | {"note": "largest batch: no plan for this model, and a CPU's memory is not tried out"}
            told = f"by the plan, for {room / GB:.1f} GB that are free (protocol.limit_gb sets less, to try it out)"
            return row | {"largest_batch": by_plan, "found": "planned", "note": _at_most(by_plan, self, told)}

        asked: list[dict[str, Any]] = []
        failures: list[str] = []
        answers = apart(bench, MEASURE, iter(lambda: asked.pop() if asked else None, None))

        def fits(batch: int) -> bool:
            asked.append(self._cell(mode, tuning, precision, batch, length))
            _, found = next(answers)
            if "weights_gb" not in found and not str(found["note"]).startswith(OUT_OF_MEMORY):
                failures.append(f"batch {batch}: {found['note']}")
            return "weights_gb" in found

        tried = largest_batch(fits, self.largest_batch)
        answers.close()
        if planned(1) is not None and by_plan is not None:
            row["planned_batch"] = by_plan
        return row | {"largest_batch": tried, "found": "tried out", "note": _at_most(tried, self, "; ".join(failures))}


def _at_most(batch: int, options: Memory, told: str) -> str:
    ended = batch == options.largest_batch
    reason = f"the search ended at protocol.largest_batch={batch}" if ended else "a larger one does not fit"
    return "; ".join(filter(None, [reason, told]))


def below_floor(row: Row) -> str | None:
    """A peak below the weights alone can't be: P-MEM fails such a cell."""
    peak = row.get("peak_memory_gb", row.get("peak_above_libraries_gb"))
    floor = row.get("floor_gb")
    if peak is None or floor is None or float(peak) >= float(floor):
        return None
    return "FAILED: the peak lies below the weights alone, so that the measurement is wrong"


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Slope of log(GB) over log(length), by least squares: 1 is linear, 2 quadratic growth."""
    import numpy as np

    logs = np.log(np.array(points, dtype=np.float64))
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
