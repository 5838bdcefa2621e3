"""A task: which records, what is predicted, and how it is scored. One file in `tasks/` makes one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plmft.data.records import Kind, Record

Read = Callable[["DataPlace"], tuple[list[Record], str]]


@dataclass(frozen=True)
class DataPlace:
    """Where data may lie: `folder` is the user's own (data.dir or PLMFT_DATA), `cache` where downloads go."""

    folder: Path | None
    cache: Path


@dataclass(frozen=True)
class Subset:
    """A named part of a regression test set: the records whose measured value lies in [low, high)."""

    name: str
    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True)
class Task:
    """What a run predicts and how it is scored.

    Args:
        read: takes a DataPlace; returns the records of all splits and the name of their source.
        head: a head's options (plmft.models.head_spec).
        classes: one-letter names, in the order of the class numbers; empty for regression.
        subsets: parts of the test set that are scored apart as well.
        ceiling: the best score that any predictor can expect on given records, where that is known.
        synthetic: True if the records are generated, not measured.
    """

    name: str
    kind: Kind
    primary_metric: str
    read: Read
    head: Any
    citation: str
    licence: str
    unit: str = ""
    classes: tuple[str, ...] = ()
    subsets: tuple[Subset, ...] = ()
    ceiling: Callable[[Sequence[Record]], float] | None = None
    synthetic: bool = False

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for a sequence or a residue."""
        return len(self.classes) or 1
