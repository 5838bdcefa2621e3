"""What an evaluation leaves behind: its MLflow run, summary.json, predictions.parquet and figures."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from plmft.data.records import DataSet
from plmft.data.task import Task
from plmft.models.attention import implementation
from plmft.models.predictor import parameter_counts
from plmft.models.spec import TransformerSpec
from plmft.models.tuned import Tuned
from plmft.tracking.claims import Claim
from plmft.tracking.differences import PREDICTIONS_TAG, predictions_digest
from plmft.tracking.lineage import environment_tags, flatten, scrub
from plmft.tracking.lineage_files import write_lineage
from plmft.tracking.run import Run
from plmft.training.beginning import counts_of
from plmft.training.figures import figures
from plmft.training.hardware import Device
from plmft.training.launching import RankSide
from plmft.training.outcome import Outcome, named_costs, write_predictions, write_summary
from plmft.training.result import Result
from plmft.training.scoring import baseline_metrics, measured, metrics_of_test

if TYPE_CHECKING:
    from plmft.training.evaluating import Evaluation


def start(
    evaluation: "Evaluation", runs: Path, claimed: Claim, task: Task, tuned: Tuned, dataset: DataSet, device: Device
) -> Run:
    """Open the MLflow run; the claim is let go of where that fails."""
    made = tuned.description
    transformer = isinstance(made.spec, TransformerSpec)
    tags = {
        **environment_tags(),
        "plmft.kind": "evaluation",
        "plmft.parent_run": evaluation.evaluated.run_id,
        "evaluated_model": str(evaluation.evaluated.folder),
        "tuned_on": made.task,
        "model": made.spec.name,
        "task": task.name,
        "tuning": made.tuning.name,
        "weights": evaluation.evaluated.weights,
        "data_digest": dataset.digest,
        "device": device.name or "cpu",
        "precision": made.precision,
        "attention": implementation(device.torch_type, device.arithmetic) if transformer else "",
        "world_size": evaluation.hardware.devices * evaluation.hardware.nodes,
        "subset": str(dataset.subset).lower(),
        "synthetic_data": str(task.synthetic).lower(),
        "primary_metric": task.primary_metric,
        "citation": task.citation,
        "licence": task.licence,
        "folder": claimed.folder.name,
        "attempts": claimed.attempt,
    }
    address = evaluation.tracking.address(runs)
    try:
        run = Run.start(
            address,
            experiment=task.name,
            name=f"evaluate-{made.spec.name}-{made.tuning.name}-{claimed.folder.name[:15]}",
            runs=runs,
            tags={name: value for name, value in tags.items() if value},
            params=flatten(scrub(evaluation.config)) | {"task.name": task.name},
            folder=claimed.folder,
            offline_ok=evaluation.tracking.offline_ok,
        )
    except BaseException:
        claimed.release()
        raise
    side = RankSide.find()
    if side is not None:
        side.opened(address, claimed.folder)
    return run


def record_beginning(evaluation: "Evaluation", tracked: Run, task: Task, dataset: DataSet, claimed: Claim) -> None:
    """What is known before anything is computed."""
    folder = claimed.folder
    (folder / "config.yaml").write_text(yaml.safe_dump(scrub(evaluation.config), sort_keys=False))
    for file in (folder / "config.yaml", *write_lineage(folder)):
        tracked.artifact(file)
    tracked.metrics(_counts(dataset), 0)
    tracked.metrics({"attempts": float(claimed.attempt)}, claimed.attempt)
    scored = {split: len(records) for split, records in dataset.tests.items()}
    tracked.dataset(task.name, dataset.digest, dataset.source, scored)


def record(
    evaluation: "Evaluation", tracked: Run, task: Task, tuned: Tuned, dataset: DataSet, result: Result, claimed: Claim
) -> Outcome:
    """Score the test splits, and keep everything in the claimed folder and in the tracked run."""
    folder, confidence = claimed.folder, tuned.confidence
    cost, notes = named_costs(result.costs)
    metrics = _counts(dataset) | _scores(evaluation, task, tuned, dataset, result)
    tracked.metrics({**metrics, **cost}, 1)
    energy = result.costs["test"].energy_source
    tracked.tags({PREDICTIONS_TAG: predictions_digest(result.predictions), "energy_source": energy})
    for split, records in dataset.tests.items():
        name = "predictions" if split == "test" else f"predictions_{split.removeprefix('test_')}"
        write_predictions(folder / f"{name}.parquet", task, records, result.predictions[split])
        tracked.artifact(folder / f"{name}.parquet")
    for name, figure in figures(task, dataset.splits["test"], result, metrics, confidence):
        tracked.figure(figure, name)
    outcome = Outcome(metrics, cost, notes, (), _before(evaluation, task, dataset))
    about = {
        "run_id": tracked.id,
        "kind": "evaluation",
        "parent_run": evaluation.evaluated.run_id,
        "folder": folder.name,
        "model": tuned.description.spec.name,
        "evaluated_model": str(evaluation.evaluated.folder),
        "task": task.name,
        "tuned_on": evaluation.evaluated.task,
        "tuning": tuned.description.tuning.name,
        "weights": evaluation.evaluated.weights,
        "seed": evaluation.seed,
        "subset": dataset.subset,
        "data_digest": dataset.digest,
        "energy_source": energy,
    }
    write_summary(folder / "summary.json", about, outcome)
    tracked.artifact(folder / "summary.json")
    return outcome


def _counts(dataset: DataSet) -> dict[str, float]:
    """`data/...` of the test sets: what other splits hold is nothing that the model was trained on, or scored on."""
    tests = dataset.tests
    cropped, windowed = ({s: n for s, n in told.items() if s in tests} for told in (dataset.cropped, dataset.windowed))
    return counts_of(replace(dataset, splits=tests, cropped=cropped, windowed=windowed), None)


def _scores(evaluation: "Evaluation", task: Task, tuned: Tuned, dataset: DataSet, result: Result) -> dict[str, float]:
    metrics = {f"model/parameters_{name}": float(n) for name, n in parameter_counts(tuned.predictor).items()}
    for split, records in dataset.tests.items():
        metrics |= metrics_of_test(task, records, result.predictions[split], evaluation.seed, split)
        if tuned.confidence is not None:
            found = tuned.confidence.metrics(result.predictions[split], measured(records))
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
    if dataset.splits.get("train"):
        metrics |= baseline_metrics(task, dataset.splits["train"], dataset.splits["test"], evaluation.seed)
    return metrics


def _before(evaluation: "Evaluation", task: Task, dataset: DataSet) -> list[tuple[str, str]]:
    """A row of the table: the same figure at the end of training, where the data are the same."""
    own = evaluation.evaluated.own_test()
    value = own.get("metrics", {}).get(f"test/{task.primary_metric}")
    if own.get("data_digest") != dataset.digest or own.get("task") != task.name or value is None:
        return []
    return [(f"{task.primary_metric} at the end of training", f"{value:.3f}")]
