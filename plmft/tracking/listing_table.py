"""Lines of runs as a table for a terminal, or as JSON or CSV for a program."""

import csv
import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plmft.tracking.lineage import mask
from plmft.tracking.listing import COSTS, GONE, TRAINING, Line, RunLine
from plmft.tracking.reading import SHORT_ID

DIGITS = {"step_ms": 1, "gpu_gb": 2, "host_gb": 2, "wall_s": 1}  # after the point; of the others none
HEADINGS = {
    "step_ms": "ms/step",
    "residues_per_s": "residues/s",
    "gpu_gb": "GPU GB",
    "host_gb": "host GB",
    "energy_j": "energy J",
    "wall_s": "wall s",
}
NARROW, WIDE = 110, 160  # columns of a terminal; WIDE where there is none
ABSENT, ENERGY_ABSENT = "-", "absent"
OWN_COLUMN = ("model", "task", "tuning", "seed")
COLOURS = {"failed": "red", "killed": "yellow", GONE: "yellow", "running": "cyan", "scheduled": "cyan"}
Column = tuple[str, list[str]]  # heading and cells


def print_table(lines: Sequence[Line], *, more: bool, uri: str) -> None:
    """A row for each line, and what must be said of them. What all lines share is told once, above."""
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
    shared, columns = _columns(lines)
    if lines:
        table = Table(title=shared, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        shown = [column for column in columns if console.width >= NARROW or not _less_wanted(*column)]
        for heading, _ in shown:
            number = heading in (*HEADINGS.values(), "attempts")
            whole = number or heading == "run"
            table.add_column(heading, justify="right" if number else "left", no_wrap=whole, overflow="fold")
        for cells in zip(*(cells for _, cells in shown), strict=True):
            table.add_row(*cells)
        console.print(table)
    for told in _told(lines, more, uri):
        console.print(told, highlight=False, markup=False, soft_wrap=True)


def _less_wanted(heading: str, cells: Sequence[str]) -> bool:
    """Whether a column is left out where the terminal is narrow."""
    return heading in ("started", "ms/step", "host GB", "attempts") or set(cells) == {ENERGY_ABSENT}


def _columns(lines: Sequence[Line]) -> tuple[str | None, list[Column]]:
    """(what all lines share, the columns of the rest)."""
    firsts = [line.first for line in lines]
    tasks, metrics = {run.task for run in firsts}, {run.metric for run in firsts if run.metric}
    kinds = [run.kind for run in firsts]
    columns = [
        ("run", [run.run_id[:SHORT_ID] for run in firsts]),
        ("started", [f"{datetime.fromtimestamp(run.started_ms / 1000):%m-%d %H:%M}" for run in firsts]),
        *([("task", [run.task for run in firsts])] if len(tasks) > 1 else []),
        *([("kind", kinds)] if {*kinds} - {TRAINING} else []),
        ("model", _models(lines)),
        ("tuning", [run.tuning for run in firsts]),
        ("seeds", [", ".join(sorted({run.seed for run in line.runs})) for line in lines]),
        ("status", [_status(line) for line in lines]),
        (f"test {next(iter(metrics))}" if len(metrics) == 1 else "test", [_score(line, metrics) for line in lines]),
    ]
    present = [column for column in COSTS if column != "gpu_gb" or any(line.values(column) for line in lines)]
    columns += [(HEADINGS[column], [_cost(line, column) for line in lines]) for column in present]
    columns.append(("attempts", [str(max(run.attempts for run in line.runs)) for line in lines]))
    return f"task {tasks.pop()}" if len(tasks) == 1 else None, columns


def _models(lines: Sequence[Line]) -> list[str]:
    """Names, each with what tells a line from the others of its sweep, where that has no column."""
    shared: dict[str | None, set[str]] = {}
    for line in lines:
        settings = set(line.first.settings.split())
        shared[line.first.sweep] = shared.get(line.first.sweep, settings) & settings
    return [_model(line.first, shared[line.first.sweep]) for line in lines]


def _model(run: RunLine, shared: set[str]) -> str:
    words = run.settings.split() if run.sweep else []
    own = [word for word in words if word not in shared and word.partition("=")[0] not in OWN_COLUMN]
    return f"{run.model}\n[dim]{escape(' '.join(own))}[/dim]" if own else run.model


def _status(line: Line) -> str:
    counts: dict[str, int] = {}
    for run in line.runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    told = [status if len(line.runs) == 1 else f"{n} {status}" for status, n in counts.items()]
    colour = next((COLOURS[status] for status in counts if status in COLOURS), None)
    text = ", ".join(told)
    return f"[{colour}]{text}[/{colour}]" if colour else text


def _score(line: Line, metrics: set[str]) -> str:
    """Mean ± sd over seeds, or the one value with its 95 % interval."""
    first, values = line.first, line.values("metric")
    if not values:
        return ABSENT
    name = f"{first.metric} " if len(metrics) > 1 else ""
    if len(values) > 1:
        return f"{name}{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
    interval = f" ({first.low:.3f} to {first.high:.3f})" if first.low is not None and first.high is not None else ""
    return f"{name}{values[0]:.3f}{interval}"


def _cost(line: Line, column: str) -> str:
    mean = line.mean(column)
    if mean is None:
        return ENERGY_ABSENT if column == "energy_j" else ABSENT
    return f"{mean:,.{DIGITS.get(column, 0)}f}"


def _told(lines: Sequence[Line], more: bool, uri: str) -> list[str]:
    if not lines:
        return [f"No runs in {mask(uri)}."]
    told = []
    if any(run.status == GONE for line in lines for run in line.runs):
        told.append("gone: its process ended without a word; the same command goes on with it.")
    if not any(line.values("energy_j") for line in lines):
        told.append("Energy is absent where no counter could be read (docs/measuring.md).")
    if any(len(line.runs) > 1 for line in lines):
        told.append("Lines of several seeds: mean ± standard deviation (n - 1); costs are means.")
    if more:
        told.append(f"There are more than these {len(lines)} lines: --limit 0 shows all.")
    return told


def _records(lines: Sequence[Line]) -> list[dict[str, object]]:
    flat = [asdict(run) for line in lines for run in line.runs]
    return [{**{k: v for k, v in record.items() if k != "costs"}, **_costs(record["costs"])} for record in flat]


def _costs(costs: dict[str, float]) -> dict[str, float | None]:
    return {column: costs.get(column) for column in COSTS}


def print_json(lines: Sequence[Line]) -> None:
    """A list of runs; what is absent is null."""
    print(json.dumps(_records(lines), indent=1, ensure_ascii=False))


def print_csv(lines: Sequence[Line]) -> None:
    """A row a run; what is absent is empty."""
    records = _records(lines)
    table = csv.DictWriter(sys.stdout, fieldnames=list(records[0]) if records else ["run_id"], lineterminator="\n")
    table.writeheader()
    table.writerows(records)
