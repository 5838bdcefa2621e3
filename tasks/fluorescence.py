"""Brightness of green fluorescent protein variants, as in TAPE.

Train and validation hold variants with up to 3 mutations, test those with 4 to 15. Brightness has two modes; a good
Spearman over both can hide that nothing is known inside the bright one, so each is scored apart too.
"""

from plmft.data.tape import read_tape_regression, tape_source
from plmft.data.task import DataPlace, Loaded, Subset, Task
from plmft.models.head_spec import SequenceHead

SOURCE = tape_source(
    "fluorescence",
    "fluorescence",
    "fluorescence",
    {
        "train": {"git_blob_sha1": "a38a6585856eb144c76ce9e98d62cd9653fc667f"},
        "valid": {
            "sha256": "02269704b2379b7591f2a2fb323bcb109f60f852d99f8905358db8c80f4928a7",
            "size_bytes": 1_377_719,
        },
        "test": {"git_blob_sha1": "186564575c5e02ed99f93fc9069d93cdc3a85e94"},
    },
)


def read(place: DataPlace) -> Loaded:
    """All records of the three splits."""
    return read_tape_regression(SOURCE, place, ("log_fluorescence", "label", "score"))


def fluorescence(head: SequenceHead) -> Task:
    """The task with a given head."""
    return Task(
        name="fluorescence",
        kind="sequence_regression",
        primary_metric="spearman",
        read=read,
        head=head,
        unit="log10 brightness",
        subsets=(Subset("dark", high=2.5), Subset("bright", low=2.5)),
        protocol="tape/fluorescence",
        citation="Sarkisyan et al. 2016, doi:10.1038/nature17995; split: Rao et al. 2019 (TAPE), arXiv:1906.08230",
        licence="MIT (repository of the split); the licence of the raw table was not checked",
    )
