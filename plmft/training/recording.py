"""What is kept of a finished run: metrics, summary.json, predictions, figures, the tuned model."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plmft.data.leaks import LeakReport
from plmft.data.records import DataSet
from plmft.metrics.confidence import KINDS, LEAST_RECORDS, Confidence, fit_confidence
from plmft.models.tuned import Description, save
from plmft.models.weights import Located
from plmft.tracking.claims import Claim
from plmft.tracking.differences import PREDICTIONS_TAG, predictions_digest, sameness
from plmft.tracking.published import compare
from plmft.tracking.run import Run
from plmft.training.beginning import counts_of
from plmft.training.figures import figures
from plmft.training.learning import Learner
from plmft.training.outcome import Outcome, named_costs, write_predictions, write_summary
from plmft.training.result import Result
from plmft.training.scoring import baseline_metrics, measured, metrics_of_test

if TYPE_CHECKING:
    from plmft.training.job import Job


def record(
    job: "Job",
    learner: Learner,
    dataset: DataSet,
    leaks: LeakReport | None,
    located: Located,
    result: Result,
    claimed: Claim,
    tracked: Run,
) -> Outcome:
    """Score the test splits, and keep everything in the claimed folder and in the tracked run."""
    folder = claimed.folder
    confidence = _confidence(job, dataset, result)
    cost, notes = named_costs(result.costs)
    metrics = _metrics(job, learner, dataset, leaks, result, confidence)
    tracked.metrics({**metrics, **cost}, result.steps)
    published = _published(job, dataset, metrics, folder, tracked)
    digest = predictions_digest(result.predictions)
    tracked.tags({PREDICTIONS_TAG: digest})
    lines = [*result.notes, *_absent(job, learner, result, confidence)]
    lines += sameness(metrics, job.task.primary_metric, digest)
    outcome = Outcome(metrics, cost, notes, lines, published)
    for split, records in dataset.tests.items():
        name = "predictions" if split == "test" else f"predictions_{split.removeprefix('test_')}"
        write_predictions(folder / f"{name}.parquet", job.task, records, result.predictions[split])
        tracked.artifact(folder / f"{name}.parquet")
    for name, figure in figures(job.task, dataset.splits["test"], result, metrics, confidence):
        tracked.figure(figure, name)
    _save_model(job, learner, dataset, located, confidence, folder, tracked)
    _summarise(job, dataset, located, result, outcome, claimed, tracked)
    return outcome


def _summarise(
    job: "Job", dataset: DataSet, located: Located, result: Result, outcome: Outcome, claimed: Claim, tracked: Run
) -> None:
    folder = claimed.folder
    energy = next(iter(result.costs.values())).energy_source
    tracked.tags({"energy_source": energy})
    about = {
        "run_id": tracked.id,
        "folder": folder.name,
        "model": job.model.name,
        "task": job.task.name,
        "tuning": job.tuning.name,
        "weights": located.source,
        "seed": job.seed,
        "subset": dataset.subset,
        "stopped_early": result.stopped_early,
        "attempts": claimed.attempt,
        "data_digest": dataset.digest,
        "energy_source": energy,
    }
    write_summary(folder / "summary.json", about, outcome)
    tracked.artifact(folder / "summary.json")


def _published(
    job: "Job", dataset: DataSet, metrics: dict[str, float], folder: Path, tracked: Run
) -> Sequence[tuple[str, str]]:
    """Rows for the table that ends the run; published.csv is kept where there is something to compare with."""
    if job.task.synthetic:
        return ()
    comparison = compare(
        job.task.protocol,
        metrics,
        dataset.counts,
        model=job.model.name,
        tuning=job.tuning.name,
        init=job.model.init,
        subset=dataset.subset,
    )
    if comparison.rows:
        comparison.write_csv(folder / "published.csv")
        tracked.artifact(folder / "published.csv")
    return comparison.lines()


def _absent(job: "Job", learner: Learner, result: Result, confidence: Confidence | None) -> list[str]:
    """What a user would look for and not find, and why."""
    lines = []
    if learner.predictor is None:
        lines.append("No tuned model is saved: this kind of run has none.")
    if confidence is None and result.valid is not None and job.task.kind in KINDS:
        few = f"{len(result.valid)} validation records are too few"
        lines.append(f"No interval or calibration: {few} ({LEAST_RECORDS} with a label are needed).")
    return lines


def _confidence(job: "Job", dataset: DataSet, result: Result) -> Confidence | None:
    if result.valid is None:
        return None
    return fit_confidence(job.task.kind, result.valid, measured(dataset.splits["valid"]))


def _metrics(
    job: "Job",
    learner: Learner,
    dataset: DataSet,
    leaks: LeakReport | None,
    result: Result,
    confidence: Confidence | None,
) -> dict[str, float]:
    sizes = {f"model/parameters_{name}": float(n) for name, n in learner.parameters.items()}
    metrics = counts_of(dataset, leaks) | sizes
    for split, records in dataset.tests.items():
        metrics |= metrics_of_test(job.task, records, result.predictions[split], job.seed, split)
        if confidence is not None:
            found = confidence.metrics(result.predictions[split], measured(records))
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
    if dataset.splits["train"]:
        metrics |= baseline_metrics(job.task, dataset.splits["train"], dataset.splits["test"], job.seed)
    if result.history is not None:
        metrics |= {"best_step": float(result.best_step), "steps": float(result.steps)}
    return metrics


def _save_model(
    job: "Job",
    learner: Learner,
    dataset: DataSet,
    located: Located,
    confidence: Confidence | None,
    folder: Path,
    tracked: Run,
) -> None:
    if learner.predictor is None:
        return
    task = job.task
    description = Description(
        job.model,
        job.tuning,
        task.head,
        task.name,
        task.kind,
        task.classes,
        task.unit,
        windows=learner.predictor.windows is not None,
        precision=job.hardware.resolve().precision,
    )
    if not (folder / "model").exists():  # else an attempt that was stopped later has written the same
        with _moved_when_whole(folder / "model") as part:
            save(learner.predictor.to("cpu"), description, located, part, confidence)
    few = dataset.splits["test"][:2]
    example = {"sequence": [r.sequence for r in few]}
    if task.kind == "pair_classification":
        example["partner"] = [r.partner for r in few]
    tracked.model(folder / "model", example, task.kind)


@contextmanager
def _moved_when_whole(folder: Path) -> Iterator[Path]:
    """Where to make a folder that is there at once or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        yield part
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
