"""The figures of a finished run: how it learned, and what it predicts against what was measured."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from plmft.data.records import Record
from plmft.data.task import Task
from plmft.metrics.classification import confusion
from plmft.tracking.plots import History, confusion_matrix, learning_curve, predicted_against_measured
from plmft.training.fine_tune import FineTuned


def figures(
    task: Task, records: Sequence[Record], result: FineTuned, metrics: dict[str, float]
) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs for the test split."""
    yield "learning_curve", learning_curve(_history(task, result))
    measured = [np.asarray(record.target) for record in records]
    if task.kind == "sequence_regression":
        values = np.array(measured)
        yield (
            "predicted_against_measured",
            predicted_against_measured(
                np.array(result.predictions),
                values,
                unit=task.unit,
                title=_titled("all", metrics.get("test/spearman")),
                subsets={
                    _titled(s.name, metrics.get(f"test/spearman_{s.name}")): (s.low <= values) & (values < s.high)
                    for s in task.subsets
                },
            ),
        )
    else:
        matrix = confusion(np.concatenate(result.predictions), np.concatenate(measured), len(task.classes))
        yield "confusion_matrix", confusion_matrix(matrix, task.classes)


def _titled(name: str, spearman: float | None) -> str:
    return name if spearman is None else f"{name}: Spearman {spearman:.3f}"


def _history(task: Task, result: FineTuned) -> History:
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
