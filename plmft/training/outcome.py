"""What a run leaves behind: summary.json, predictions.parquet, and the table that ends it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from plmft.data.records import Record
from plmft.data.task import Task
from plmft.data.whole_file import write_whole
from plmft.efficiency.phase import PhaseCost
from plmft.models.decisions import decided, named


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished run under their MLflow names, and what must be said about them."""

    metrics: dict[str, float]
    cost: dict[str, float]
    notes: dict[str, str]
    lines: Sequence[str] = ()  # what else must be said, as it is
    published: Sequence[tuple[str, str]] = ()  # rows of the table: what is published on the same split


def named_costs(costs: dict[str, PhaseCost]) -> tuple[dict[str, float], dict[str, str]]:
    """`cost/...` for the phase fit, `cost/<phase>/...` for the others; notes under the same names."""
    values, notes = {}, {}
    for phase, cost in costs.items():
        prefix = "cost/" if phase == "fit" else f"cost/{phase}/"
        values |= {prefix + name: value for name, value in cost.values.items()}
        notes |= {prefix + name: text for name, text in cost.notes.items()}
    return values, notes


def write_summary(file: Path, about: dict[str, object], outcome: Outcome) -> None:
    """Write summary.json at once or not at all."""
    text = {**about, "metrics": outcome.metrics, "cost": outcome.cost, "notes": outcome.notes}
    write_whole(file, (json.dumps(text, indent=2) + "\n").encode())


def write_predictions(file: Path, task: Task, records: Sequence[Record], predictions: Sequence[np.ndarray]) -> None:
    """One row a test record: id, sequence (and partner), measured, predicted and, for classes, probabilities.

    Residue classes are strings of letters, `.` for no label; labels of a sequence are joined by `;`. Probabilities of
    residues and of contacts are flattened, row by row.
    """
    columns: dict[str, list] = {"id": [r.id for r in records], "sequence": [r.sequence for r in records]}
    if task.kind == "pair_classification":
        columns["partner"] = [r.partner for r in records]
    if not task.classes:
        if task.kind in ("sequence_regression", "variant_scoring"):
            columns["measured"] = [r.target for r in records]
        columns["predicted"] = [p.ravel() if np.ndim(p) else float(p) for p in predictions]
    else:
        columns["measured"] = [named(task.kind, task.classes, r.target) for r in records]
        columns["predicted"] = [named(task.kind, task.classes, decided(task.kind, p)) for p in predictions]
        columns["probabilities"] = [p.ravel() for p in predictions]
    pd.DataFrame(columns).to_parquet(file, index=False)


def show(console: Console, task: Task, title: str, outcome: Outcome) -> None:
    """Print the table of accuracy and cost."""
    table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
    for name, value in [*_accuracy_rows(task, outcome.metrics), *outcome.published, *_cost_rows(outcome)]:
        table.add_row(name, value)
    console.print(table)
    for line in outcome.lines:
        console.print(line, highlight=False, markup=False)
    for name, note in outcome.notes.items():
        if not name.startswith(("cost/test/", "cost/embed/")):
            console.print(f"{name}: {note}", style="dim", highlight=False)


def _accuracy_rows(task: Task, metrics: dict[str, float]) -> list[tuple[str, str]]:
    unit = f" ({task.unit})" if task.unit else ""
    splits = [s for s in ("train", "valid", "test") if f"data/{s}" in metrics]
    counts = " / ".join(f"{metrics[f'data/{split}']:,.0f}" for split in splits)
    rows = [(f"records {' / '.join(splits)}", counts)]
    hidden = ("_ci_low", "_ci_high", "_ceiling")
    for name, value in metrics.items():
        split, _, short = name.partition("/")
        if not split.startswith("test") or short.endswith(hidden) or short.startswith("records_"):
            continue
        low, high = metrics.get(f"{name}_ci_low"), metrics.get(f"{name}_ci_high")
        interval = f"  (95 % {low:.3f} to {high:.3f})" if low is not None and high is not None else ""
        label = f"{split.replace('_', ' ')} {short}{unit if short.startswith(IN_UNIT) else ''}"
        rows.append((label, f"{value:.3f}{interval}"))
    primary = task.primary_metric
    ceiling, baseline = metrics.get(f"test/{primary}_ceiling"), metrics.get(f"baseline/{primary}")
    if ceiling is not None:
        rows.append((f"{primary} ceiling", f"{ceiling:.3f}"))
    for name in [primary] if baseline is not None else [m for m in ("mae", "mse") if f"baseline/{m}" in metrics]:
        rows.append((f"{name} of {BASELINES[task.kind]}", f"{metrics[f'baseline/{name}']:.3f}"))
    return rows


BASELINES = {
    "sequence_regression": "the mean of train",
    "sequence_classification": "the most frequent class",
    "pair_classification": "the most frequent class",
    "sequence_multilabel": "the labels' frequencies",
    "residue_classification": "the likeliest class by amino acid",
    "contacts": "the frequency by separation",
}
IN_UNIT = ("mae", "mse", "rmse", "conformal_width")  # metrics in the unit of what is measured, or in its square
COST_ROWS = (
    ("step time p50 / p95", ("step_time_ms_p50", "step_time_ms_p95"), "ms", 1.0),
    ("waiting for data", ("data_wait_fraction",), "% of a step", 100.0),
    ("residues", ("residues_per_s",), "/s", 1.0),
    ("sequences", ("sequences_per_s",), "/s", 1.0),
    ("peak memory, accelerator", ("peak_memory_gb",), "GB", 1.0),
    ("peak memory, host", ("peak_host_memory_gb",), "GB", 1.0),
    ("energy", ("energy_j",), "J", 1.0),
    ("model FLOPs used (MFU)", ("mfu",), "% of peak", 100.0),
    ("training time", ("wall_time_s",), "s", 1.0),
    ("price", ("usd",), "USD", 1.0),
)


def _cost_rows(outcome: Outcome) -> list[tuple[str, str]]:
    rows = []
    prefix = "cost/" if "cost/wall_time_s" in outcome.cost else "cost/test/"  # a run without training has a test alone
    for label, names, unit, factor in COST_ROWS:
        values = [outcome.cost.get(f"{prefix}{name}") for name in names]
        if None not in values:
            label = label if prefix == "cost/" else label.replace("training", "test")
            rows.append((label, " / ".join(_figure(v * factor) for v in values) + f" {unit}"))
        elif label == "energy":
            rows.append((label, "absent: " + outcome.notes.get(f"{prefix}energy_j", "not measured")))
    return [*rows, *_embedding_row(outcome.cost)]


def _embedding_row(cost: dict[str, float]) -> list[tuple[str, str]]:
    """What the phase `embed` did, where there was one that kept its vectors."""
    names = ("sequences_computed", "sequences", "cache_gb", "wall_time_s")
    computed, sequences, size, seconds = (cost.get(f"cost/embed/{name}") for name in names)
    if size is None:
        return []
    text = f"{computed:,.0f} of {sequences:,.0f} sequences computed, the others cached; {_figure(seconds)} s; "
    return [("embedding", f"{text}cache {_figure(size * 1e3)} MB")]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
