"""Secondary structure in three states, trained on NetSurfP-2.0's chains and tested on NEW364, as in FLIP.

Residues that the structure does not resolve have no label: 6.6 % of all, 10.8 % of the test.
"""

from plmft.data.download import RemoteFile
from plmft.data.flip import FlipFiles, read_residue_labels
from plmft.data.source import Source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead

CLASSES = ("H", "E", "C")
SOURCE = Source(
    folder="secondary_structure",
    names={"all": ("splits.zip",)},
    remote={
        "all": RemoteFile(
            "splits.zip",
            "https://raw.githubusercontent.com/J-SNACKKB/FLIP/62cace8735f5610e2743cf06ce0f944b37fffaa6/"
            "splits/secondary_structure/splits.zip",
            sha256="2e9bbbfd18a055bcac7edd4e059a6bf4bb35ca3ad8f8fa4fc3106422652a4726",
            size_bytes=2_321_037,
        )
    },
)


def read(place: DataPlace) -> Loaded:
    """9,712 / 1,080 / 364 chains."""
    path = SOURCE.paths(place)["all"]
    numbers = {letter: number for number, letter in enumerate(CLASSES)}
    return Loaded(read_residue_labels(FlipFiles.open(path), "sampled.fasta", numbers, "mask.fasta"), str(path))


def secondary_structure(head: ResidueHead) -> Task:
    """The task with a given head."""
    return Task(
        name="secondary_structure",
        kind="residue_classification",
        primary_metric="accuracy",
        read=read,
        head=head,
        classes=CLASSES,
        protocol="flip/secondary_structure",
        citation="Klausen et al. 2019 (NetSurfP-2.0), doi:10.1002/prot.25674; split: Dallago et al. 2021 (FLIP); "
        "NEW364: Elnaggar et al. 2022, doi:10.1109/TPAMI.2021.3095381",
        licence="AFL-3.0; raw data CC BY 4.0",
    )
