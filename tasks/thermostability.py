"""Melting temperature of proteins in cells or lysate, representatives of clusters at 20 % identity.

An early version of FLIP's meltome with a split of its own, on which nothing is published. There is no validation split:
a seeded tenth of train is taken.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from plmft.data.flip import named_split
from plmft.data.records import Record
from plmft.data.source import Source, column, read_rows, to_number
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import SequenceHead

SOURCE = Source(
    folder="thermostability", names={"all": ("meltome_clustered.csv.gz", "meltome_clustered.csv")}, remote={}
)


def read(place: DataPlace) -> Loaded:
    """2,646 / 294 / 752 proteins."""
    path = SOURCE.paths(place)["all"]
    rows = list(read_rows(path))
    train = [number for _, number, row in rows if row.get("set") == "train"]
    held = set(np.random.default_rng(0).permutation(train)[: len(train) // 10].tolist())
    note = f"No validation split in the data: {len(held)} of {len(train)} training records, drawn with seed 0, are it."
    return Loaded(list(_records(path, rows, held)), str(path), notes=(note,))


def _records(path: Path, rows: list, held: set[int]) -> Iterator[Record]:
    for where, number, row in rows:
        sequence, target, chosen = (row[column(row, (name,), where)] for name in ("sequence", "target", "set"))
        split = named_split(chosen, str(number in held), where)
        yield Record(f"{path.stem}-{number}", sequence, to_number(target, where), split, where)


def thermostability(head: SequenceHead) -> Task:
    """The task with a given head."""
    return Task(
        name="thermostability",
        kind="sequence_regression",
        primary_metric="spearman",
        read=read,
        head=head,
        unit="°C",
        citation="Jarzab et al. 2020, doi:10.1038/s41592-020-0801-4; Dallago et al. 2021 (FLIP), an early version",
        licence='AFL-3.0; raw data "free for anyone to use"',
    )
