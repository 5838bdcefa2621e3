"""Records in the class numbers of a model that was tuned before: by name, whatever order or part of them a file has.

Costs a record made anew for each whose number changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from plmft import InputError
from plmft.data.records import IGNORE, Kind, Record


def in_known_classes(
    records: Sequence[Record], kind: Kind, named: Sequence[str], known: Sequence[str], task: str
) -> list[Record]:
    """The records, with targets in the order of `known`.

    Args: named: the classes that the records' numbers stand for. known: the model's. task: its name, for the message.
    Raises: InputError: the model knows no class of such a name.
    """
    if tuple(named) == tuple(known):
        return list(records)
    unknown = [name for name in named if name not in known]
    if unknown:
        raise InputError(
            f"task={task}: the model was not tuned on {_listed(unknown)}. It knows {_listed(known)}. Rename the "
            "classes in the data, or choose another run."
        )
    places = np.array([known.index(name) for name in named])
    return [replace(record, target=_placed(record.target, kind, places, len(known))) for record in records]


def _placed(target: Any, kind: Kind, places: np.ndarray, classes: int) -> Any:
    if kind == "sequence_multilabel":
        wider = np.zeros(classes, target.dtype)
        wider[places] = target
        return wider
    if kind == "residue_classification":
        return np.where(target == IGNORE, IGNORE, places[np.where(target == IGNORE, 0, target)])
    return target if target == IGNORE else int(places[target])


def _listed(names: Sequence[str], most: int = 10) -> str:
    told = ", ".join(map(repr, names[:most]))
    return told if len(names) <= most else f"{told} and {len(names) - most} more"
