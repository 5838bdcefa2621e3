"""The tuned model that is compressed, and the records that its run was tested on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.bench.compression import NO_RUN
from plmft.bench.protocol import Bench, Row
from plmft.config.compose import parts_of
from plmft.data.known_classes import in_known_classes
from plmft.data.prepare import prepare
from plmft.data.records import DataSet, Record
from plmft.data.task import Loaded, Task
from plmft.tracking.model_of_run import find_model
from plmft.tracking.options import Tracking
from plmft.tracking.reading import read_address
from plmft.training.evaluated import Evaluated

OF_RUN = ("task", "data", "limit", "seed")  # of its config: what makes the records


def find(run: str | None, tracking: Tracking, runs: Path) -> Evaluated:
    """The tuned model that protocol.run names. Raises: InputError: none is named, or there is none."""
    if run in (None, ""):
        raise InputError(NO_RUN)
    found = find_model(run, read_address(tracking.uri, runs), runs)
    return Evaluated.of(found.folder, found.run_id)


def model_config(evaluated: Evaluated) -> dict[str, Any]:
    """The model as a config has it; its weights are those beside it, where tuning changed what it began with."""
    config = evaluated.configured("model")
    weights = evaluated.folder / "backbone"
    if evaluated.weights != "random" and evaluated.parts["base"]["included"]:
        return config | {"init": "pretrained", "path": str(weights), "checkpoint": None}
    return config


def read(evaluated: Evaluated, bench: Bench, split: str) -> tuple[Task, DataSet]:
    """The task in the model's classes, and its records: those of the run where its config is known, else those of the
    task that is given here.

    Raises: InputError: another model or task is asked for than the run's, or the split isn't there.
    """
    name = evaluated.parts["model"]["name"]
    if bench.spec.name != name:
        raise InputError(f"protocol.run: its model is {name}, not {bench.spec.name}. Add model={name}.")
    parts = _parts(evaluated, bench)
    task: Task = parts["task"]
    if task.kind != evaluated.kind:
        raise InputError(
            f"task={task.name} is about {task.kind.replace('_', ' ')}, the model about "
            f"{evaluated.kind.replace('_', ' ')}: its run's config isn't there, so choose its task: task=NAME."
        )
    dataset = _dataset(task, parts, evaluated, bench)
    task = replace(task, classes=tuple(evaluated.parts["task"]["classes"]))
    if split in ("train", "valid") or not dataset.splits.get(split):
        raise InputError(f"protocol.split={split}: the test splits of {task.name} are {', '.join(dataset.tests)}.")
    return task, dataset


def conditions(
    bench: Bench, evaluated: Evaluated, task: Task, dataset: DataSet, split: str, test: Sequence[Record]
) -> Row:
    """How each row begins."""
    made = evaluated.parts
    base = "random weights" if evaluated.weights == "random" else made["base"]["revision"] or evaluated.weights
    row = bench.conditions(task=task.name, split=split, records=len(test))
    row |= {"metric": task.primary_metric, "run": evaluated.run_id or _named(evaluated.folder)}
    return row | {"weights": f"tuned ({made['tuning']['type']}) from {base}", "data_digest": dataset.digest[:12]}


def _named(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name


def _parts(evaluated: Evaluated, bench: Bench) -> dict[str, Any]:
    """The run's own choices; where its data lie is said by this command, if it says so."""
    saved = evaluated.saved_config(read_address(bench.parts["tracking"].uri, bench.runs))
    if saved is None:
        return bench.parts
    here = bench.config["data"]["dir"]
    config = {key: saved[key] for key in OF_RUN}
    return parts_of(config | {"data": config["data"] | ({"dir": here} if here else {})})


def _dataset(task: Task, parts: dict[str, Any], evaluated: Evaluated, bench: Bench) -> DataSet:
    loaded = task.read(parts["data"].place(bench.runs))
    known, records = tuple(evaluated.parts["task"]["classes"]), loaded.records
    if known:
        records = in_known_classes(records, task.kind, loaded.classes or task.classes, known, task.name)
    task = replace(task, classes=known or task.classes, needs=("test",))
    loaded = Loaded(records, loaded.source, known or None, loaded.notes)
    options = {"context": evaluated.parts["model"].get("context"), "model": evaluated.parts["model"]["name"]}
    return prepare(task, loaded, parts["data"], parts["limit"], seed=parts["seed"], **options)
