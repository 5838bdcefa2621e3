"""What a variant's figures and predictions come to beside the reference's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from plmft.bench.compress_material import read_predictions
from plmft.bench.protocol import Row
from plmft.data.records import Record
from plmft.data.task import Task
from plmft.metrics.evaluate import evaluate
from plmft.metrics.paired import paired_difference

RATIOS = {  # column: the one that it is made from, and whether the reference is on top: above 1 is always better
    "disk_ratio": ("disk_mb", True),
    "latency_ratio": ("latency_ms_p50", True),
    "throughput_ratio": ("residues_per_s", False),
}


class Scores:
    """Holds rows against the first one that has predictions, the reference."""

    def __init__(self, task: Task, test: Sequence[Record], seed: int) -> None:
        self.reference: tuple[Row, list[np.ndarray]] | None = None
        self._task, self._seed = task, seed
        self._measured = [np.asarray(record.target) for record in test]

    def row(self, measured: Row, file: Path) -> Row:
        """The figures with ratios to the reference's, the metric, and its difference with a paired interval.

        Without predictions in the file: the figures as they are.
        """
        if not file.is_file():
            return measured
        predictions = read_predictions(file)
        self.reference = self.reference or (measured, predictions)
        figures, before = self.reference
        return measured | _ratios(measured, figures) | self._scored(predictions, before)

    def _scored(self, predictions: list[np.ndarray], before: list[np.ndarray]) -> Row:
        task, primary = self._task, self._task.primary_metric
        options = {"classes": task.classes, "seed": self._seed}
        found = evaluate(task.kind, predictions, self._measured, primary=primary, **options)
        row: Row = {"score": found.get(primary)}
        row |= {f"score{end}": found.get(f"{primary}{end}") for end in ("_ci_low", "_ci_high")}
        if predictions is before:
            return row
        delta = paired_difference(task.kind, primary, predictions, before, self._measured, **options)
        if delta is None:
            return row
        row |= {"score_delta": delta.value, "score_delta_ci_low": delta.low, "score_delta_ci_high": delta.high}
        return row | {"same_decisions": _agreement(task.kind, predictions, before)}


def _ratios(measured: Row, reference: Row) -> Row:
    found: Row = {}
    for name, (column, reference_on_top) in RATIOS.items():
        if column in measured and column in reference:
            ours, first = float(measured[column]), float(reference[column])
            found[name] = first / ours if reference_on_top else ours / first
    return found


def _agreement(kind: str, predictions: list[np.ndarray], before: list[np.ndarray]) -> float | None:
    """The share of residues or sequences that get the same class; None where there are no classes."""
    if kind not in ("residue_classification", "sequence_classification", "pair_classification"):
        return None
    pairs = zip(predictions, before, strict=True)
    same = np.concatenate([np.atleast_1d(a.argmax(-1) == b.argmax(-1)) for a, b in pairs])
    return float(same.mean())
