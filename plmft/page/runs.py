"""What the page reads from the store: runs that trained or scored a model, and the rows of benchmark runs.

Only finished runs count. A benchmark run that was cut off keeps the rows that it had logged, and is read too. Costs
MLflow's 2 to 4 ms a run, and a download of `rows.csv` for each benchmark run.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plmft.tracking.reading import all_runs, artifact_text, experiments

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

Row = Mapping[str, object]
KIND, ROWS = "plmft.kind", "rows.csv"
FINISHED, EVALUATION = "FINISHED", "evaluation"
UNTRAINED = ("onehot", "majority")  # models that no one pretrains
CPU = "cpu"
# Settings that change neither what is learnt nor what it costs; runs that differ in them and the seed are repeats.
INDIFFERENT = ("seed", "tracking.", "checkpoint.", "data.dir", "hardware.usd_per_hour")


@dataclass(frozen=True)
class Scored:
    """A finished run that scored a model on a task's test sets.

    Args:
        kind: training or evaluation. weights: "random" or where they came from. subset: it took a part of the records.
        metrics, costs: as in MLflow; the names of costs begin with "cost/". settings: equal for repeats.
    """

    run_id: str
    experiment: str
    kind: str
    task: str
    model: str
    tuning: str
    seed: str
    weights: str
    device: str
    precision: str
    primary: str
    subset: bool
    synthetic: bool
    settings: tuple[tuple[str, str], ...]
    metrics: Mapping[str, float]
    costs: Mapping[str, float]
    energy_source: str = ""
    started_ms: int = 0
    parent: str = ""  # of an evaluation: the run that tuned the model
    trained: "Scored | None" = None  # that run, where the store has it

    @property
    def value(self) -> float | None:
        """The primary metric on the test set; None where it is not defined."""
        return self.metrics.get(f"test/{self.primary}")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval."""
        low, high = (self.metrics.get(f"test/{self.primary}_ci_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    @property
    def is_random(self) -> bool:
        """Weights that no one has trained before."""
        return self.weights == "random"

    @property
    def is_backbone(self) -> bool:
        """A protein language model."""
        return not self.model.startswith(UNTRAINED)

    @property
    def is_random_backbone(self) -> bool:
        """One of random weights: its cost holds, its accuracy says nothing of the published ones."""
        return self.is_backbone and self.is_random


@dataclass(frozen=True)
class Benchmark:
    """A benchmark run. rows: its artifact rows.csv, numbers as floats, empty cells left out."""

    run_id: str
    experiment: str
    protocol: str
    model: str
    weights: str
    device: str
    status: str
    rows: tuple[dict[str, object], ...]
    started_ms: int = 0


@dataclass
class Found:
    """All that the page is made of."""

    scored: list[Scored] = field(default_factory=list)
    benchmarks: list[Benchmark] = field(default_factory=list)
    unfinished: int = 0

    @property
    def empty(self) -> bool:
        """No run to show."""
        return not self.scored and not self.benchmarks


def read_runs(client: "MlflowClient", uri: str, task: str | None = None) -> Found:
    """All runs of a store. Args: task: of this one alone; benchmark runs always. Raises: InputError: no such task."""
    found, scored = Found(), []
    for stored in all_runs(client, uri, list(experiments(client, uri).values()), "", ["attributes.start_time ASC"]):
        tags = stored.data.tags
        if tags.get("sweep") == "true":
            continue
        if tags.get(KIND) == "benchmark":
            found.benchmarks.append(_benchmark(client, stored))
        elif "primary_metric" in tags:
            if stored.info.status == FINISHED:
                scored.append(_scored(stored))
            elif task in (None, tags.get("task")):
                found.unfinished += 1
    known = {run.run_id: run for run in scored}
    of_task = [run for run in scored if task in (None, run.task)]
    found.scored = [replace(run, trained=known.get(run.parent)) if run.parent else run for run in of_task]
    return found


def _scored(stored: "StoredRun") -> Scored:
    tags, params = stored.data.tags, stored.data.params
    metrics = {name: value for name, value in stored.data.metrics.items() if math.isfinite(value)}
    if tags.get(KIND) == EVALUATION:  # it trains on nothing, whatever splits its data have
        metrics = {name: value for name, value in metrics.items() if name not in ("data/train", "data/valid")}
    return Scored(
        run_id=stored.info.run_id,
        experiment=stored.info.experiment_id,
        kind=tags.get(KIND, "training"),
        task=tags.get("task", ""),
        model=tags.get("model", ""),
        tuning=tags.get("tuning", ""),
        seed=params.get("seed", ""),
        weights=tags.get("weights", ""),
        device=device_of(tags),
        precision=tags.get("precision", ""),
        primary=tags["primary_metric"],
        subset=tags.get("subset") == "true",
        synthetic=tags.get("synthetic_data") == "true",
        settings=tuple(sorted((name, text) for name, text in params.items() if not name.startswith(INDIFFERENT))),
        metrics={name: value for name, value in metrics.items() if not name.startswith("cost/")},
        costs={name: value for name, value in metrics.items() if name.startswith("cost/")},
        energy_source=tags.get("energy_source", ""),
        started_ms=stored.info.start_time,
        parent=tags.get("plmft.parent_run", ""),
    )


def device_of(tags: Mapping[str, str]) -> str:
    """As the run named it; a CPU by its model and the cores that the run could use, which tells two apart."""
    cpu, cores = tags.get("machine.cpu"), tags.get("machine.usable_cores")
    device = tags.get("device", "")
    return f"{cpu}, {cores} core{'' if cores == '1' else 's'}" if device == CPU and cpu and cores else device


def _placed(row: dict[str, object], device: str) -> dict[str, object]:
    """A row of a CPU says which."""
    return row | {"device": device} if row.get("device") == CPU and device else row


def _benchmark(client: "MlflowClient", stored: "StoredRun") -> Benchmark:
    tags, text = stored.data.tags, artifact_text(client, stored.info.run_id, ROWS) or ""
    return Benchmark(
        run_id=stored.info.run_id,
        experiment=stored.info.experiment_id,
        protocol=tags.get("plmft.protocol", ""),
        model=tags.get("model", ""),
        weights=tags.get("weights", ""),
        device=device_of(tags),
        status=stored.info.status.lower(),
        rows=tuple(_placed(row, device_of(tags)) for row in read_rows(text)),
        started_ms=stored.info.start_time,
    )


def read_rows(text: str) -> Iterator[dict[str, object]]:
    """Rows of a CSV table: numbers as floats, empty cells left out."""
    for line in csv.DictReader(io.StringIO(text)):
        yield {name: _number(cell) for name, cell in line.items() if name and cell not in (None, "")}


def _number(cell: str) -> float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def fetch(client: "MlflowClient", run_id: str, names: list[str], folder: Path) -> dict[str, Path]:
    """A run's artifacts by name, downloaded below `folder`; none where the store cannot give them."""
    from mlflow.exceptions import MlflowException

    place = folder / run_id
    place.mkdir(parents=True, exist_ok=True)
    try:
        return {name: Path(client.download_artifacts(run_id, name, str(place))) for name in names}
    except (MlflowException, OSError):
        return {}


def artifact_names(client: "MlflowClient", run_id: str) -> list[str]:
    """Paths of a run's artifacts at the top level, and of images one level below; none where they can't be listed."""
    from mlflow.exceptions import MlflowException

    try:
        top = client.list_artifacts(run_id)
        folders = [file.path for file in top if file.is_dir and "embed" in file.path]
        deeper = [file for folder in folders for file in client.list_artifacts(run_id, folder)]
    except (MlflowException, OSError):
        return []
    return [file.path for file in [*top, *deeper] if not file.is_dir]
