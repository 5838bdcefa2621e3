"""Fold of a SCOP domain, 1,195 classes, as in TAPE; the test holds out whole superfamilies.

Only 136 of the folds occur in the test, so a mean over all 1,195 classes would mean nothing. TAPE's two further test
sets, which hold out superfamilies and families, are scored where their files are present.
"""

from plmft.data.source import read_classes
from plmft.data.tape import tape_source
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import SequenceHead

FOLDS = tuple(str(number) for number in range(1195))
SOURCE = tape_source(
    "homology",
    "remote_homology",
    "remote_homology",
    {
        "train": {
            "sha256": "cb0e6e96a6aa49a9914fda4896a6fb2531088ce40921db65e0a836375b14f168",
            "size_bytes": 2_126_490,
        },
        "valid": {
            "sha256": "6299347789438348cbecb0b08f2b2d180d216f3a7cc2c7ebf47490229422b73a",
            "size_bytes": 128_469,
        },
        "test": {
            "sha256": "231a73a0b82a91b706a850ee21090f7f956ac29fa759f116eae4597fe2a7502c",
            "size_bytes": 110_839,
        },
    },
    further=("test_superfamily", "test_family"),
)


def read(place: DataPlace) -> Loaded:
    """12,312 / 736 / 718 domains."""
    paths = SOURCE.paths(place)
    numbers = {name: number for number, name in enumerate(FOLDS)}
    records = [r for split, path in paths.items() for r in read_classes(path, split, ("fold_label", "label"), numbers)]
    return Loaded(records, str(paths["train"].parent))


def homology(head: SequenceHead) -> Task:
    """The task with a given head."""
    return Task(
        name="homology",
        kind="sequence_classification",
        primary_metric="accuracy",
        read=read,
        head=head,
        classes=FOLDS,
        protocol="tape/remote_homology_fold",
        citation="Hou et al. 2018, doi:10.1093/bioinformatics/btx780; split: Rao et al. 2019 (TAPE), arXiv:1906.08230",
        licence="MIT (repository of the split)",
    )
