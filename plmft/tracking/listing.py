"""The runs of a store as lines of a table: what was run, how it ended, how well, and at what cost.

Runs of a sweep that differ in their seed alone are one line, mean ± sd. Reading costs 2 to 4 ms a run, MLflow's own
work; so only as many are read as are shown, and the order is the store's.
"""

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError
from plmft.tracking.claims import held
from plmft.tracking.lineage import mask
from plmft.tracking.reading import all_runs, experiments

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

COSTS = {  # column to MLflow's metric
    "step_ms": "cost/step_time_ms_p50",
    "residues_per_s": "cost/residues_per_s",
    "gpu_gb": "cost/peak_memory_gb",
    "host_gb": "cost/peak_host_memory_gb",
    "energy_j": "cost/energy_j",
    "wall_s": "cost/wall_time_s",
}
SORTS = ("started", "metric", *COSTS)
DEARER = "residues_per_s"  # the one cost of which more is better
KIND, TRAINING = "plmft.kind", "training"  # a tag, which runs that train lack
GONE = "gone"  # marked as running, but its process has ended without a word


@dataclass(frozen=True)
class RunLine:
    """One run.

    Args:
        kind: training, evaluation or benchmark.
        status: MLflow's word in small letters; "gone" where its process no longer lives.
        metric: the primary one, of the test split; low, high: its 95 % interval. costs: by the names of COSTS.
        sweep: the parent's id, or None. settings: what the sweep's command line set for it besides the seed.
    """

    run_id: str
    kind: str
    task: str
    model: str
    tuning: str
    seed: str
    status: str
    started_ms: int
    metric: str
    value: float | None
    low: float | None
    high: float | None
    costs: Mapping[str, float]
    attempts: int
    sweep: str | None = None
    settings: str = ""

    @property
    def group(self) -> tuple[str, ...]:
        """Equal for runs that differ in their seed alone."""
        if self.sweep is None:
            return (self.run_id,)
        return (self.sweep, self.task, self.model, self.tuning, self.settings)


@dataclass(frozen=True)
class Line:
    """A row of the table: runs that differ in their seed alone; outside of a sweep it is one."""

    runs: Sequence[RunLine]

    @property
    def first(self) -> RunLine:
        """The one that stands for what they share."""
        return self.runs[0]

    def values(self, column: str) -> list[float]:
        """Of the runs that have finished; of all where none has."""
        counted = [run for run in self.runs if run.status == "finished"] or self.runs
        found = [run.value if column == "metric" else run.costs.get(column) for run in counted]
        return [value for value in found if value is not None]

    def mean(self, column: str) -> float | None:
        """None where no run has it."""
        values = self.values(column)
        return statistics.fmean(values) if values else None


def read_lines(
    client: "MlflowClient", uri: str, runs: Path, *, task: str | None, sort: str, limit: int
) -> tuple[list[Line], bool]:
    """The first lines in the order of `sort`, and whether there are more.

    Args: runs: the runs folder, whose locks tell which processes live. sort: one of SORTS. limit: of lines; 0: all.

    Raises: InputError: no such task in the store.
    """
    everywhere = experiments(client, uri)
    within = list(everywhere.values()) if task is None else [_of_task(everywhere, uri, task)]
    order = _order(client, uri, within, sort)
    found: dict[tuple[str, ...], Line] = {}
    sweeps: dict[str, dict[tuple[str, ...], Line]] = {}
    for stored in all_runs(client, uri, within, "", order, limit):
        if stored.data.tags.get("sweep") == "true":
            continue
        line = line_of(stored, runs)
        if line.group in found:
            continue
        if limit and len(found) == limit:
            return _sorted(found.values(), sort), True
        if line.sweep is None:
            found[line.group] = Line([line])
            continue
        if line.sweep not in sweeps:
            sweeps[line.sweep] = _grouped(_children(client, uri, list(everywhere.values()), line.sweep, runs))
        found[line.group] = sweeps[line.sweep].get(line.group) or Line([line])
    return _sorted(found.values(), sort), False


def _of_task(known: Mapping[str, str], uri: str, task: str) -> str:
    """The experiment's id."""
    if task not in known:
        tasks = ", ".join(sorted(known.keys() - {"Default", "sweep"})) or "none"
        raise InputError(f"--task {task}: {mask(uri)} has no runs of it. Tasks there: {tasks}.")
    return known[task]


def _order(client: "MlflowClient", uri: str, within: Sequence[str], sort: str) -> list[str]:
    if sort == "started":
        return ["attributes.start_time DESC"]
    if sort in COSTS:
        return [f"metrics.`{COSTS[sort]}` {'DESC' if sort == DEARER else 'ASC'}"]
    newest_first = ["attributes.start_time DESC"]
    newest = next(all_runs(client, uri, within, "tags.`primary_metric` != ''", newest_first, 1), None)
    name = newest.data.tags["primary_metric"] if newest else ""
    return [f"metrics.`test/{name}` {'ASC' if lower_is_better(name) else 'DESC'}"]


def lower_is_better(metric: str) -> bool:
    """Of a task's primary metric."""
    from plmft.metrics.evaluate import LOWER_IS_BETTER

    return metric in LOWER_IS_BETTER


def _children(client: "MlflowClient", uri: str, within: Sequence[str], parent: str, runs: Path) -> Iterator[RunLine]:
    where = f"tags.`mlflow.parentRunId` = '{parent}'"
    for stored in all_runs(client, uri, within, where, ["attributes.start_time ASC"]):
        yield line_of(stored, runs)


def _grouped(lines: Iterator[RunLine]) -> dict[tuple[str, ...], Line]:
    groups: dict[tuple[str, ...], list[RunLine]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    return {group: Line(members) for group, members in groups.items()}


def _sorted(lines: "Iterator[Line] | Sequence[Line]", sort: str) -> list[Line]:
    """By the mean of each line; without a value last."""
    lines = list(lines)
    if sort == "started":
        return lines
    falling = sort == DEARER or (sort == "metric" and lines and not lower_is_better(lines[0].first.metric))

    def key(line: Line) -> tuple[bool, float]:
        mean = line.mean(sort)
        return (mean is None, 0.0 if mean is None else (-mean if falling else mean))

    return sorted(lines, key=key)


def line_of(stored: "StoredRun", runs: Path) -> RunLine:
    """One stored run. What it has not told is empty."""
    tags, metrics, params = stored.data.tags, stored.data.metrics, stored.data.params
    primary = tags.get("primary_metric", "")
    name = f"test/{primary}"
    return RunLine(
        run_id=stored.info.run_id,
        kind=tags.get(KIND, TRAINING),
        task=tags.get("task", ""),
        model=tags.get("model", ""),
        tuning=tags.get("tuning", ""),
        seed=params.get("seed", ""),
        status=_status(stored, runs),
        started_ms=stored.info.start_time,
        metric=primary,
        value=metrics.get(name),
        low=metrics.get(f"{name}_ci_low"),
        high=metrics.get(f"{name}_ci_high"),
        costs=_costs(metrics),
        attempts=int(metrics.get("attempts") or tags.get("attempts") or 1),
        sweep=tags.get("mlflow.parentRunId"),
        settings=_settings(tags.get("overrides", "")),
    )


def _costs(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of the training; of the pass over the test set where nothing was trained."""
    under = "cost/" if metrics.keys() & set(COSTS.values()) else "cost/test/"
    names = {column: metric.replace("cost/", under) for column, metric in COSTS.items()}
    return {column: metrics[name] for column, name in names.items() if name in metrics}


def _settings(overrides: str) -> str:
    try:
        words = shlex.split(overrides)
    except ValueError:  # the store cut a long tag
        words = overrides.split()
    return " ".join(word for word in words if not word.startswith("seed="))


def _status(stored: "StoredRun", runs: Path) -> str:
    status, folder = stored.info.status.lower(), stored.data.tags.get("folder")
    if status != "running" or not folder or not (runs / "work" / folder).is_dir():
        return status  # a run of another machine can't be looked at
    return status if held(runs, folder) else GONE
