"""Evaluations beside the training runs that they score: which say nothing new, and what their models took to train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from plmft.page.runs import EVALUATION, Scored

OF_TRAINING = ("data/train", "data/valid", "model/parameters_")  # metrics that a model keeps, whatever it is scored on
OF_TEST = "cost/test/"


def without_rescores(runs: Sequence[Scored], predictions: Mapping[str, Path]) -> list[Scored]:
    """The runs, less evaluations on records that the scored run was tested on itself, on all or on a part of them.

    Args: predictions: run id to its predictions.parquet. Where one has none, equal numbers of records count as equal.
    """
    known = {run.run_id: run for run in runs}
    return [run for run in runs if run.parent not in known or not _again(run, known[run.parent], predictions)]


def _again(run: Scored, trained: Scored, predictions: Mapping[str, Path]) -> bool:
    if run.task != trained.task:
        return False
    if run.run_id in predictions and trained.run_id in predictions:
        return _records(predictions[run.run_id]) <= _records(predictions[trained.run_id])
    return run.metrics.get("data/test") == trained.metrics.get("data/test")


def _records(file: Path) -> set[tuple[str, ...]]:
    from plmft.page.significance import predictions_of

    table = predictions_of(file)
    return set(zip(*(table[name].astype(str) for name in ("id", "sequence", "measured") if name in table), strict=True))


def as_trained(run: Scored) -> Scored:
    """An evaluation with what its model took: cost, size and seed of the run that tuned it, on that run's device.

    Its own cost of scoring stays where the devices are the same. Other runs, and where that run isn't known: unchanged.
    """
    trained = run.trained
    if run.kind != EVALUATION or trained is None:
        return run
    metrics = {name: value for name, value in run.metrics.items() if not name.startswith(OF_TRAINING)}
    metrics |= {name: value for name, value in trained.metrics.items() if name.startswith(OF_TRAINING)}
    costs = {name: value for name, value in trained.costs.items() if not name.startswith(OF_TEST)}
    own = run.costs.items() if run.device == trained.device else ()
    costs |= {name: value for name, value in own if name.startswith(OF_TEST)}
    settings = [pair for pair in run.settings if not pair[0].startswith("run.")]
    return replace(
        run,
        seed=trained.seed,
        device=trained.device,
        subset=run.subset or trained.subset,
        metrics=metrics,
        costs=costs,
        energy_source=trained.energy_source,
        settings=tuple(sorted([*settings, *((f"run.{name}", text) for name, text in trained.settings)])),
    )
