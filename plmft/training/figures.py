"""The figures of a finished run: how it learned, and what it predicts against what was measured, by kind of task."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from plmft.data.records import IGNORE, Kind, Record
from plmft.data.task import Task
from plmft.metrics.classification import confusion
from plmft.metrics.confidence import Confidence
from plmft.metrics.contacts import CONTACT_NAMES, precisions
from plmft.metrics.multilabel import THRESHOLDS, by_protein, f1_curve
from plmft.models.decisions import decided
from plmft.tracking.plots import History, confusion_matrix, learning_curve, predicted_against_measured
from plmft.tracking.plots_classes import f1_by_threshold, most_frequent, reliability_diagram, roc_and_precision_recall
from plmft.tracking.plots_contacts import contact_map, precision_by_protein
from plmft.training.result import Result

Named = Iterator[tuple[str, Figure]]


def figures(
    task: Task,
    records: Sequence[Record],
    result: Result,
    metrics: dict[str, float],
    confidence: Confidence | None,
) -> Named:
    """(name, figure) pairs for the test split."""
    if result.history is not None:
        yield "learning_curve", learning_curve(_history(task, result))
    predicted, measured = result.predictions["test"], [record.target for record in records]
    draw = FIGURES.get(task.kind)
    if draw is not None:
        yield from draw(task, records, predicted, metrics)
    if confidence is not None and confidence.temperature is not None:
        before = confidence.reliability(predicted, measured)
        yield "reliability", reliability_diagram(before, confidence.reliability(predicted, measured, calibrated=True))


def _regression(task: Task, records: Sequence[Record], predicted: list, metrics: dict[str, float]) -> Named:
    measured = np.array([record.target for record in records])
    yield (
        "predicted_against_measured",
        predicted_against_measured(
            np.array(predicted),
            measured,
            unit=task.unit,
            title=_titled("all", metrics.get("test/spearman")),
            subsets={
                _titled(s.name, metrics.get(f"test/spearman_{s.name}")): (s.low <= measured) & (measured < s.high)
                for s in task.subsets
            },
        ),
    )


def _classes(task: Task, records: Sequence[Record], predicted: list, metrics: dict[str, float]) -> Named:
    chosen = np.concatenate([np.atleast_1d(decided(task.kind, p)) for p in predicted])
    labels = np.concatenate([np.atleast_1d(record.target) for record in records])
    counts = confusion(chosen, labels, len(task.classes))
    yield "confusion_matrix", confusion_matrix(*most_frequent(counts, task.classes))
    probabilities = np.concatenate([np.atleast_2d(p) for p in predicted])
    if len(np.unique(labels[labels != IGNORE])) > 1:
        yield "roc_and_precision_recall", roc_and_precision_recall(probabilities, labels, task.classes)


def _labels(task: Task, records: Sequence[Record], predicted: list, metrics: dict[str, float]) -> Named:
    counts = by_protein(np.array(predicted, np.float32), np.array([r.target for r in records]).astype(bool))
    yield "f1_by_threshold", f1_by_threshold(THRESHOLDS, f1_curve(np.ones(len(records)), *counts))


def _contacts(task: Task, records: Sequence[Record], predicted: list, metrics: dict[str, float]) -> Named:
    column = CONTACT_NAMES.index(task.primary_metric)
    values = precisions(predicted, [record.target for record in records])[:, column]
    if np.isnan(values).all():
        return
    lengths = np.array([len(record.sequence) for record in records])
    yield "precision_by_protein", precision_by_protein(values, lengths, task.primary_metric)
    for name, number in (("best", int(np.nanargmax(values))), ("worst", int(np.nanargmin(values)))):
        record = records[number]
        title = f"{record.id}: {task.primary_metric} {values[number]:.3f}, the {name} of the test"
        yield f"contact_map_{name}", contact_map(predicted[number], record.target, title)


FIGURES: dict[Kind, Callable[[Task, Sequence[Record], list, dict[str, float]], Named]] = {
    "sequence_regression": _regression,
    "sequence_classification": _classes,
    "pair_classification": _classes,
    "residue_classification": _classes,
    "sequence_multilabel": _labels,
    "contacts": _contacts,
}


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
