"""The figures of a finished run: how it learned, and what it predicts against what was measured."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from plmft.data.records import Record
from plmft.data.task import Task
from plmft.metrics.classification import confusion
from plmft.models.decisions import decided
from plmft.tracking.plots import History, confusion_matrix, learning_curve, predicted_against_measured
from plmft.training.result import Result


def figures(
    task: Task, records: Sequence[Record], result: Result, metrics: dict[str, float]
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs for the test split."""
    if result.history is not None:
        yield "learning_curve", learning_curve(_history(task, result))
    measured = [np.asarray(record.target) for record in records]
    predicted = result.predictions["test"]
    if task.kind == "sequence_regression":
        yield "predicted_against_measured", _scatter(task, np.array(predicted), np.array(measured), metrics)
    elif task.kind in ("residue_classification", "sequence_classification", "pair_classification"):
        chosen = np.concatenate([np.atleast_1d(decided(task.kind, p)) for p in predicted])
        labels = np.concatenate([np.atleast_1d(m) for m in measured])
        yield "confusion_matrix", confusion_matrix(confusion(chosen, labels, len(task.classes)), task.classes)


def _scatter(task: Task, predicted: np.ndarray, measured: np.ndarray, metrics: dict[str, float]) -> Figure:
    return predicted_against_measured(
        predicted,
        measured,
        unit=task.unit,
        title=_titled("all", metrics.get("test/spearman")),
        subsets={
            _titled(s.name, metrics.get(f"test/spearman_{s.name}")): (s.low <= measured) & (measured < s.high)
            for s in task.subsets
        },
    )


def _titled(name: str, spearman: float | None) -> str:
    return name if spearman is None else f"{name}: Spearman {spearman:.3f}"


def _history(task: Task, result: Result) -> History:
    steps, losses = zip(*result.history.train_loss, strict=True) if result.history.train_loss else ((), ())
    name = task.primary_metric
    return History(
        train_steps=steps,
        train_loss=losses,
        valid_steps=[step for step, _ in result.history.valid],
        valid=[metrics.get(name, float("nan")) for _, metrics in result.history.valid],
        metric=name,
        best_step=result.best_step,
    )
