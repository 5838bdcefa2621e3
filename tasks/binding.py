"""Residues that bind a ligand, as in FLIP's `from_publication`: 954 / 106 / 300 chains.

A label is a sum of 4 (small molecule), 2 (nucleic acid) and 1 (metal). 91 % of residues bind nothing, so accuracy says
nothing: MCC, F1 and AUROC of the binding class do.
"""

from typing import Literal

from plmft.data.download import RemoteFile
from plmft.data.flip import FlipFiles, read_residue_labels
from plmft.data.source import Source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead

SOURCE = Source(
    folder="binding",
    names={"all": ("splits.zip", "splits/sequences.fasta")},
    remote={
        "all": RemoteFile(
            "splits.zip",
            "https://raw.githubusercontent.com/J-SNACKKB/FLIP/62cace8735f5610e2743cf06ce0f944b37fffaa6/"
            "splits/bind/splits.zip",
            sha256="f742c8b3e4521d7e771ca03096484451287026fe433b34463cbfcf767e0a7417",
            size_bytes=277_995,
        )
    },
)
BITS = {"any": 7, "small": 4, "nucleic": 2, "metal": 1}


def binding(head: ResidueHead, ligand: Literal["any", "small", "nucleic", "metal"]) -> Task:
    """The task for one kind of ligand, or for any."""

    def read(place: DataPlace) -> Loaded:
        path = SOURCE.paths(place)["all"]
        numbers = {str(label): int(label & BITS[ligand] > 0) for label in range(8)}
        records = read_residue_labels(FlipFiles.open(path), "from_publication.fasta", numbers, None)
        return Loaded(records, str(path))

    return Task(
        name="binding",
        kind="residue_classification",
        primary_metric="mcc",
        read=read,
        head=head,
        classes=("N", "B"),
        protocol="flip/binding" if ligand == "any" else "",
        citation="Littmann et al. 2021, doi:10.1038/s41598-021-03431-4; split: Dallago et al. 2021 (FLIP)",
        licence="AFL-3.0; raw data CC BY 4.0",
    )
