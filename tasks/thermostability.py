"""Melting temperature of proteins in cells or lysate, representatives of clusters at 20 % identity.

An early version of FLIP's meltome with a split of its own, on which nothing is published. There is no validation split:
a seeded tenth of train is taken.
"""

from collections.abc import Mapping
from pathlib import Path

from plmft.data.flip import named_split
from plmft.data.hold_out import hold_out
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
    records, note = hold_out([_record(path, *row) for row in read_rows(path)])
    return Loaded(records, str(path), notes=(note,))


def _record(path: Path, where: str, number: int, row: Mapping) -> Record:
    sequence, target, chosen = (row[column(row, (name,), where)] for name in ("sequence", "target", "set"))
    return Record(f"{path.stem}-{number}", sequence, to_number(target, where), named_split(chosen, "", where), where)


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
