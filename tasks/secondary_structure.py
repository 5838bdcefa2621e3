"""Secondary structure, trained on NetSurfP-2.0's chains: in three states, tested on NEW364, as in FLIP; or in eight.

FLIP's labels have three states, so eight need ProtTrans' CSV files, which also hold CB513, TS115 and CASP12: further
test sets where present. Residues that the structure does not resolve have no label: 6.6 % of all, 10.8 % of NEW364.
"""

from typing import Literal

from plmft import InputError
from plmft.data.download import RemoteFile
from plmft.data.flip import FlipFiles, read_residue_labels
from plmft.data.hold_out import hold_out
from plmft.data.netsurfp import CB513, FURTHER, NEW364, STATES, TRAIN, read_netsurfp
from plmft.data.source import Source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead

FOLDER = "secondary_structure"
THREE = Source(
    folder=FOLDER,
    names={"all": ("splits.zip", "splits/sequences.fasta"), "test_cb513": CB513, **FURTHER},
    remote={
        "all": RemoteFile(
            "splits.zip",
            "https://raw.githubusercontent.com/J-SNACKKB/FLIP/62cace8735f5610e2743cf06ce0f944b37fffaa6/"
            "splits/secondary_structure/splits.zip",
            sha256="2e9bbbfd18a055bcac7edd4e059a6bf4bb35ca3ad8f8fa4fc3106422652a4726",
            size_bytes=2_321_037,
        )
    },
    optional=("test_cb513", *FURTHER),
)
EIGHT = Source(
    folder=FOLDER,
    names={"train": TRAIN, "test": CB513, "test_new364": NEW364, **FURTHER},
    remote={},
    optional=("test_new364", *FURTHER),
)


def read(place: DataPlace) -> Loaded:
    """9,712 / 1,080 / 364 chains in three states."""
    paths = THREE.paths(place)
    path = paths.pop("all")
    numbers = {letter: number for number, letter in enumerate(STATES[3])}
    records = read_residue_labels(FlipFiles.open(path), "sampled.fasta", numbers, "mask.fasta")
    return Loaded(records + [r for s, file in paths.items() for r in read_netsurfp(file, s, 3)], str(path))


def read_eight(place: DataPlace) -> Loaded:
    """Chains in eight states; a seeded tenth of train is the validation split, and CB513 the test."""
    try:
        paths = EIGHT.paths(place)
    except InputError as error:
        raise InputError(f"task.states=8: FLIP's labels have three states; eight need other files. {error}") from None
    records, note = hold_out([r for split, path in paths.items() for r in read_netsurfp(path, split, 8)])
    return Loaded(records, str(paths["train"].parent), notes=(note,))


def secondary_structure(head: ResidueHead, states: Literal[3, 8]) -> Task:
    """The task in three or eight states."""
    return Task(
        name="secondary_structure",
        kind="residue_classification",
        primary_metric="accuracy",
        read=read if states == 3 else read_eight,
        head=head,
        classes=STATES[states],
        protocol="flip/secondary_structure" if states == 3 else "",
        citation="Klausen et al. 2019 (NetSurfP-2.0), doi:10.1002/prot.25674; split: Dallago et al. 2021 (FLIP); "
        "NEW364: Elnaggar et al. 2022, doi:10.1109/TPAMI.2021.3095381",
        licence="AFL-3.0; raw data CC BY 4.0",
    )
