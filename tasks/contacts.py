"""Contacts between residues of unbound chains (Docking Benchmark 5), or of the user's own structures.

A split of its own at 30 % identity, on which nothing is published: compare with the frequency by separation.
"""

from pathlib import Path

from plmft.data.contacts import read_contacts, read_structure_list
from plmft.data.records import SPLITS
from plmft.data.source import Source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import AttentionRegression, PairHead

SOURCE = Source(
    folder="contacts",
    names={split: (f"contacts_{split}.jsonl.gz", f"contacts_{split}.jsonl") for split in SPLITS},
    remote={},
)


def contacts(head: PairHead, attention: AttentionRegression | None, structures: str | None) -> Task:
    """The task on 153 / 30 / 44 chains, or on the structures that a CSV file lists; `attention` replaces the head."""

    def read(place: DataPlace) -> Loaded:
        if structures is not None:
            return Loaded(list(read_structure_list(Path(structures).expanduser())), structures)
        paths = SOURCE.paths(place)
        records = [r for split, path in paths.items() for r in read_contacts(path, split)]
        return Loaded(records, str(paths["train"].parent))

    return Task(
        name="contacts",
        kind="contacts",
        primary_metric="precision_at_l5_long",
        read=read,
        head=attention or head,
        citation="Vreven et al. 2015 (Docking Benchmark 5), doi:10.1016/j.jmb.2015.07.016; "
        "metric: Rao et al. 2019 (TAPE), arXiv:1906.08230",
        licence="Apache-2.0; coordinates from the PDB (CC0)",
    )
