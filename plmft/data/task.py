"""A task: which records, what is predicted, and how it is scored. One file in `tasks/` makes one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plmft import InputError
from plmft.data.records import SPLITS, Kind, Record, Split


class NotFetched(InputError):
    """The data would be downloaded at first use."""


Purpose = Literal["train", "test", "all"]
Read = Callable[["DataPlace"], "Loaded"]


@dataclass(frozen=True)
class DataPlace:
    """Where data may lie: `folder` is the user's own (data.dir or PLMFT_DATA), `cache` where downloads go.

    Args:
        fetch: False: nothing is downloaded; what is in neither place raises NotFetched.
        purpose: train: all splits are needed; test: a file may hold test records alone; all: every record is scored,
            so that no split is made or asked for.
    """

    folder: Path | None
    cache: Path
    fetch: bool = True
    purpose: "Purpose" = "train"


@dataclass(frozen=True)
class Loaded:
    """What a task reads.

    Args:
        source: the folder or file that the records come from, for messages.
        classes: names of the classes, where only the data know them.
        notes: what the user must be told of how the data were read, a line each.
    """

    records: list[Record]
    source: str
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


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
        read: takes a DataPlace; returns the records of all splits.
        head: a head's options (plmft.models.head_spec).
        classes: names in the order of the class numbers, single letters for residues; empty where there are none.
        subsets: parts of the test set that are scored apart as well.
        ceiling: the best score that any predictor can expect on given records, where that is known.
        synthetic: True if the records are generated, not measured.
        protocol: the split's key in the table of published values; empty where nothing is published on it.
        needs: the splits that must have records.
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
    protocol: str = ""
    needs: tuple[Split, ...] = SPLITS

    @property
    def outputs(self) -> int:
        """Numbers that the head gives for a sequence or a residue."""
        return len(self.classes) or 1
