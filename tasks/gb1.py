"""Fitness of variants of protein G's domain B1 at four sites, in FLIP's five splits.

The domain is the first 56 residues of a construct of 265, which is the same in all variants: so the default head looks
at the four sites alone. `one_vs_rest` trains on 25 variants and swings with the seed.
"""

from typing import Literal, get_args

from plmft.data.download import RemoteFile
from plmft.data.flip import FlipFiles, read_regression_split
from plmft.data.source import Source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import SequenceHead

SplitName = Literal["one_vs_rest", "two_vs_rest", "three_vs_rest", "low_vs_high", "sampled"]
SOURCE = Source(
    folder="gb1",
    names={"all": ("splits.zip", *(f"splits/{split}.csv" for split in get_args(SplitName)))},
    remote={
        "all": RemoteFile(
            "splits.zip",
            "https://raw.githubusercontent.com/J-SNACKKB/FLIP/62cace8735f5610e2743cf06ce0f944b37fffaa6/"
            "splits/gb1/splits.zip",
            sha256="00a3c3d5be56ce35adfbec838db8ff549be369525e151a6978133da34b9fd86f",
            size_bytes=1_241_473,
        )
    },
)


def gb1(head: SequenceHead, split: SplitName) -> Task:
    """The task in one of FLIP's splits: by number of mutations, by fitness, or at random."""

    def read(place: DataPlace) -> Loaded:
        path = SOURCE.paths(place)["all"]
        return Loaded(read_regression_split(FlipFiles.open(path), f"{split}.csv"), str(path))

    return Task(
        name="gb1",
        kind="sequence_regression",
        primary_metric="spearman",
        read=read,
        head=head,
        unit="fitness, wild type 1",
        protocol=f"flip/gb1_{split}",
        citation="Wu et al. 2016, doi:10.7554/eLife.16965; split: Dallago et al. 2021 (FLIP), "
        "doi:10.1101/2021.11.09.467890",
        licence="AFL-3.0; raw data CC BY 4.0",
    )
