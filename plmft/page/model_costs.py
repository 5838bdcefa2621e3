"""What each model costs on each device, one row a model: the best figure of the benchmark runs, with its conditions.

A cell is one measured row, never a mean over unlike ones; what no protocol has measured is a dash.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plmft.page.blocks import Cell, Table
from plmft.page.claims import INFERENCE, QUANTITIES, TUNED_ON, hours_of_tuning
from plmft.page.figures import figure, memory
from plmft.page.runs import Benchmark, Row

LENGTH = 512.0  # residues at which latency is told, where it was measured there


@dataclass(frozen=True)
class Column:
    """One figure of a model.

    Args:
        protocols: that measure it. read: gives it of a row, or None. highest: the best is the highest.
        of: which rows count. written: how it stands in the cell. told: the conditions that stand beside it.
    """

    head: str
    protocols: tuple[str, ...]
    read: Callable[[Row], float | None]
    of: Callable[[Row], bool]
    written: Callable[[float], str]
    told: tuple[str, ...]
    highest: bool = False


def _float(name: str) -> Callable[[Row], float | None]:
    return lambda row: value if isinstance(value := row.get(name), float) else None


def _every(row: Row) -> bool:
    return True


def _mode(mode: str) -> Callable[[Row], bool]:
    return lambda row: row.get("mode") == mode


def _per_hour(hours: float) -> str:
    return f"{figure(hours)} h"


MEMORY = QUANTITIES["peak_memory_gb"][1]
WAY = ("precision", "implementation", "batching")
COLUMNS = (
    Column("weights", ("identity",), _float("parameters"), _every, lambda n: f"{figure(n / 1e6)} M", ()),
    Column(
        "one prediction", ("latency",), _float("step_time_ms_p50"), lambda row: row.get("batch") == 1.0,
        lambda ms: f"{figure(ms)} ms", ("length", *WAY),
    ),
    Column(
        "throughput", INFERENCE, _float("sequences_per_s"), _every, lambda rate: f"{figure(rate)} seq/s",
        ("length", "batch", *WAY), highest=True,
    ),
    Column("memory, inference", ("memory",), MEMORY, _mode("inference"), memory, ("length", "batch", "precision")),
    Column(
        "memory, training", ("memory",), MEMORY, _mode("training"), memory, ("length", "batch", "precision", "tuning")
    ),
    Column(
        f"full fine-tuning on {TUNED_ON:,}, projected", ("training",), hours_of_tuning,
        lambda row: row.get("tuning") == "full", _per_hour, ("length", "batch", "precision"),
    ),
    Column(
        "energy of 1,000", ("energy",), _float("energy_j_per_1k_sequences"), _every, lambda j: f"{figure(j)} J",
        ("precision",),
    ),
    Column(
        "price of a million", ("cloud",), _float("usd_per_1m_sequences"), _every, lambda usd: f"{figure(usd)} USD", ()
    ),
)  # fmt: skip


def cost_per_model(benchmarks: Sequence[Benchmark]) -> Table | None:
    """The table; None where nothing was measured."""
    rows = [(run, {"model": run.model, "device": run.device, **row}) for run in benchmarks for row in run.rows]
    places = sorted({(str(row["model"]), str(row["device"])) for _, row in rows})
    lines = []
    for model, device in places:
        own = [(run, row) for run, row in rows if (row["model"], row["device"]) == (model, device)]
        cells = [_cell(column, own) for column in COLUMNS]
        if any(cell.runs for cell in cells):
            lines.append([model, device, *cells])
    if not lines:
        return None
    heads = ("model", "device", *(column.head for column in COLUMNS))
    shown = [i for i in range(len(heads)) if i < 2 or any(line[i].runs for line in lines)]
    caption = (
        "The best row of each protocol, with its conditions; every row stands below. Memory of a CPU is what the "
        "process holds above its libraries."
    )
    return Table(tuple(heads[i] for i in shown), [[line[i] for i in shown] for line in lines], caption=caption)


def _cell(column: Column, rows: Sequence[tuple[Benchmark, Row]]) -> Cell:
    found = [
        (value, row, run)
        for run, row in rows
        if run.protocol in column.protocols and column.of(row) and (value := column.read(row)) is not None
    ]
    at = [one for one in found if one[1].get("length") == LENGTH] if "length" in column.told else []
    if not found:
        return Cell("–")
    value, row, run = (max if column.highest else min)(at or found, key=lambda one: one[0])
    sizes = {"length": "L ", "batch": "batch "}
    parts = [f"{sizes.get(n, '')}{_text(row[n])}" for n in column.told if row.get(n)]
    return Cell(column.written(value) + (f" ({', '.join(parts)})" if parts else ""), (run.run_id,), order=value)


def _text(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)
