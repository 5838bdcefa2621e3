"""What a model says of a sequence, as rows of a table: the prediction, and how sure of it validation makes us.

    sequence_regression      prediction (in the task's unit), low, high (the conformal 90 % interval)
    sequence_classification  prediction (a name), probability (calibrated), likely (the conformal 90 % set)
    pair_classification      the same
    sequence_multilabel      prediction (names joined by ;), probability (calibrated, of these names, joined by ;)
    residue_classification   prediction (a letter a residue), probability (calibrated, mean over the residues)
    contacts                 first, second (positions from 1), probability: lists, the L likeliest pairs 6 or more apart

The columns after the prediction are there if the model has them (confidence.json), else absent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from plmft.models.decisions import MIN_SEPARATION, decided, named

if TYPE_CHECKING:
    from plmft.metrics.confidence import Confidence
    from plmft.models.tuned import Description

Row = Mapping[str, Any]
LISTS = {"first": pa.list_(pa.int32()), "second": pa.list_(pa.int32()), "probability": pa.list_(pa.float32())}


class Answers:
    """Makes rows of the predictions of one model.

    Args: description, confidence: of the tuned model.
    """

    def __init__(self, description: "Description", confidence: "Confidence | None") -> None:
        self._kind, self._classes, self._confidence = description.kind, description.classes, confidence
        self._row: Callable[[np.ndarray], dict[str, Any]] = {
            "sequence_regression": self._number,
            "sequence_multilabel": self._labels,
            "residue_classification": self._residues,
            "contacts": _pairs,
        }.get(self._kind, self._class)

    @property
    def _has_sets(self) -> bool:
        from plmft.metrics.confidence import CONFORMAL_CLASSES

        return self._kind in CONFORMAL_CLASSES

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns, `number` and `id` first."""
        sure = self._confidence is not None
        columns: dict[str, pa.DataType] = {"number": pa.int64(), "id": pa.string()}
        if self._kind == "contacts":
            return pa.schema(columns | LISTS)
        if self._kind == "sequence_regression":
            more = {"low": pa.float64(), "high": pa.float64()} if sure else {}
            return pa.schema(columns | {"prediction": pa.float64()} | more)
        more = {"probability": pa.string() if self._kind == "sequence_multilabel" else pa.float64()} if sure else {}
        likely = {"likely": pa.string()} if sure and self._has_sets else {}
        return pa.schema(columns | {"prediction": pa.string()} | more | likely)

    def row(self, prediction: np.ndarray) -> dict[str, Any]:
        """All columns but number and id. prediction: as Predictor.predict gives it."""
        return self._row(prediction)

    def table(self, numbers: Sequence[int], ids: Sequence[str], rows: Sequence[Row]) -> pa.Table:
        """A table in the order of the rows."""
        schema = self.schema
        columns: dict[str, Sequence[Any]] = {"number": numbers, "id": ids}
        columns |= {name: [row[name] for row in rows] for name in schema.names[2:]}
        return pa.table(columns, schema=schema)

    def _number(self, prediction: np.ndarray) -> dict[str, Any]:
        value = float(prediction)
        if self._confidence is None:
            return {"prediction": value}
        low, high = self._confidence.apply(value)
        return {"prediction": value, "low": low, "high": high}

    def _class(self, probabilities: np.ndarray) -> dict[str, Any]:
        chosen = int(decided(self._kind, probabilities))
        row = {"prediction": named(self._kind, self._classes, chosen)}
        if self._confidence is None:
            return row
        row["probability"] = float(self._confidence.apply(probabilities)[chosen])
        if self._has_sets:
            row["likely"] = ";".join(self._classes[c] for c in np.flatnonzero(self._confidence.classes(probabilities)))
        return row

    def _labels(self, probabilities: np.ndarray) -> dict[str, Any]:
        chosen = decided(self._kind, probabilities)
        row = {"prediction": named(self._kind, self._classes, chosen)}
        if self._confidence is None:
            return row
        calibrated = self._confidence.apply(probabilities)
        return row | {"probability": ";".join(f"{calibrated[c]:.4f}" for c in np.flatnonzero(chosen))}

    def _residues(self, probabilities: np.ndarray) -> dict[str, Any]:
        chosen = decided(self._kind, probabilities)
        row = {"prediction": named(self._kind, self._classes, chosen)}
        if self._confidence is None:
            return row
        calibrated = np.take_along_axis(self._confidence.apply(probabilities), chosen[:, None], 1)
        return row | {"probability": float(calibrated.mean())}


def _pairs(probabilities: np.ndarray) -> dict[str, np.ndarray]:
    first, second = np.triu_indices(len(probabilities), k=MIN_SEPARATION)
    scores = probabilities[first, second]
    order = np.argsort(-scores, kind="stable")[: len(probabilities)]
    return {
        "first": (first[order] + 1).astype(np.int32),
        "second": (second[order] + 1).astype(np.int32),
        "probability": scores[order].astype(np.float32),
    }
