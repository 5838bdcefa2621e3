"""Perplexity of a masked language model on the sequences of a FASTA."""

from pathlib import Path

from plmft import InputError
from plmft.data.fasta import read_fasta
from plmft.data.records import Record
from plmft.data.source import read_text
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import Perplexity


def perplexity(head: Perplexity, file: str | None) -> Task:
    """The task for one file."""

    def read(place: DataPlace) -> Loaded:
        if file is None:
            raise InputError("task.file=null: name a FASTA file (plain or gzipped).")
        path = Path(file).expanduser()
        entries = read_fasta(read_text(path), str(path))
        records = [Record(f"{n}:{e.id}", e.text, None, "test", e.where) for n, e in enumerate(entries)]
        return Loaded(records, str(path))

    return Task(
        name="perplexity",
        kind="masked_lm",
        primary_metric="perplexity",
        read=read,
        head=head,
        needs=("test",),
        citation="pseudo-perplexity: Salazar et al. 2020, doi:10.18653/v1/2020.acl-main.240",
        licence="that of the file",
    )
