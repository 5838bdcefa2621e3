"""Records and predictions on their way between the command and the processes of its variants: JSON and NumPy arrays.

Nothing is pickled. Costs some 1 kB a protein; predicted contact maps cost 4 L² bytes each.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plmft.data.records import Kind, Record

ARRAYS: dict[Kind, type] = {"sequence_multilabel": np.int8, "residue_classification": np.int64, "contacts": np.float32}


def write_records(file: Path, kind: Kind, test: Sequence[Record], calibration: Sequence[Record]) -> None:
    """Sequences, partners and targets."""
    held = {"kind": kind, "test": list(map(_plain, test)), "calibration": list(map(_plain, calibration))}
    file.write_text(json.dumps(held))


def read_records(file: Path) -> tuple[list[Record], list[Record]]:
    """Those of the test and of calibration, as they were written."""
    held = json.loads(file.read_text())
    return tuple([_record(entry, held["kind"]) for entry in held[part]] for part in ("test", "calibration"))


def _plain(record: Record) -> dict[str, Any]:
    target = np.asarray(record.target).tolist()
    return {"id": record.id, "sequence": record.sequence, "partner": record.partner, "target": target}


def _record(entry: dict[str, Any], kind: Kind) -> Record:
    target = entry["target"]
    if kind in ARRAYS:
        target = np.asarray(target, ARRAYS[kind])
    return Record(entry["id"], entry["sequence"], target, "test", partner=entry["partner"])


def write_predictions(file: Path, predictions: Sequence[np.ndarray]) -> None:
    """What Predictor.predict gives for each record."""
    found = [np.asarray(values) for values in predictions]
    shapes = np.array([values.shape for values in found], np.int64).reshape(len(found), -1)
    np.savez(file, values=np.concatenate([values.ravel() for values in found]), shapes=shapes)


def read_predictions(file: Path) -> list[np.ndarray]:
    """As they were written."""
    with np.load(file, allow_pickle=False) as held:
        values, shapes = held["values"], held["shapes"]
    ends = np.cumsum(shapes.prod(axis=1)) if shapes.shape[1] else np.arange(1, len(shapes) + 1)
    parts = np.split(values, ends[:-1])
    return [part.reshape(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]
