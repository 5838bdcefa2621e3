"""Stability of mini-proteins against proteases, as in TAPE.

Train and validation hold four rounds of design, test the neighbours of 17 of the best designs. All sequences of the
validation split have 50 residues, those of the test 43 to 46; 26 test sequences stand in train, too, with other labels.
"""

from plmft.data.tape import read_tape_regression, tape_source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import SequenceHead

SOURCE = tape_source(
    "stability",
    "stability",
    "stability",
    {
        "train": {
            "sha256": "d07ed72d90a24e0fe97d5c624ed715303ecab2535c0d3edac1a7d048d1205aec",
            "size_bytes": 3_492_483,
        },
        "valid": {
            "sha256": "79dd0903c555a782059775d771e6fa1e4066f21f4415bf61718af7a74304ded5",
            "size_bytes": 175_640,
        },
        "test": {
            "sha256": "c3f7aa3fa35c042611d6d556aaf4f8875542fbaadaf216f667273738f83b7dc5",
            "size_bytes": 807_826,
        },
    },
)


def read(place: DataPlace) -> Loaded:
    """53,614 / 2,512 / 12,851 designs."""
    return read_tape_regression(SOURCE, place, ("stability_score", "label", "score"))


def stability(head: SequenceHead) -> Task:
    """The task with a given head."""
    return Task(
        name="stability",
        kind="sequence_regression",
        primary_metric="spearman",
        read=read,
        head=head,
        unit="stability score (log10 EC50)",
        protocol="tape/stability",
        citation="Rocklin et al. 2017, doi:10.1126/science.aan0693; split: Rao et al. 2019 (TAPE), arXiv:1906.08230",
        licence="MIT (repository of the split)",
    )
