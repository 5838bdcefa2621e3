"""Score a test split: the metrics with intervals, subsets apart, the context-free baseline, the ceiling."""

from collections.abc import Sequence

import numpy as np

from plmft.data.records import Record
from plmft.data.task import Task
from plmft.metrics.baselines import baseline_predictions
from plmft.metrics.evaluate import evaluate


def measured(records: Sequence[Record]) -> list[np.ndarray]:
    """The targets, in record order."""
    return [np.asarray(record.target) for record in records]


def score(
    task: Task, records: Sequence[Record], predictions: Sequence[np.ndarray], *, seed: int, intervals: bool
) -> dict:
    """The task's metrics by name, without a split's prefix."""
    return evaluate(
        task.kind,
        predictions,
        measured(records),
        classes=task.classes,
        primary=task.primary_metric,
        seed=seed,
        with_intervals=intervals,
    )


def metrics_of_test(
    task: Task, records: Sequence[Record], predictions: Sequence[np.ndarray], seed: int, split: str = "test"
) -> dict[str, float]:
    """`test/...`: over all records, and over each subset with its name as a suffix; `test_<name>/...` likewise."""
    metrics = {f"{split}/{k}": v for k, v in score(task, records, predictions, seed=seed, intervals=True).items()}
    for subset in task.subsets:
        inside = [i for i, r in enumerate(records) if subset.low <= r.target < subset.high]
        metrics[f"{split}/records_{subset.name}"] = float(len(inside))
        if len(inside) < 2:
            continue
        part = score(task, [records[i] for i in inside], [predictions[i] for i in inside], seed=seed, intervals=True)
        metrics |= {f"{split}/{with_suffix(name, subset.name)}": value for name, value in part.items()}
    if task.ceiling is not None:
        metrics[f"{split}/{task.primary_metric}_ceiling"] = task.ceiling(records)
    return metrics


def with_suffix(metric: str, suffix: str) -> str:
    """spearman_ci_low, bright -> spearman_bright_ci_low."""
    for ending in ("_ci_low", "_ci_high"):
        if metric.endswith(ending):
            return f"{metric.removesuffix(ending)}_{suffix}{ending}"
    return f"{metric}_{suffix}"


def baseline_metrics(task: Task, train: Sequence[Record], test: Sequence[Record], seed: int) -> dict[str, float]:
    """`baseline/...`: the scores of `baseline_predictions` on the test split."""
    found = baseline_predictions(task.kind, train, test, len(task.classes))
    metrics = {} if found is None else score(task, test, found, seed=seed, intervals=False)
    return {f"baseline/{name}": value for name, value in metrics.items()}
