"""Where in the cell a protein is, 10 classes; or whether it is bound to a membrane.

Train is the test set of DeepLoc, validation that of Light Attention, test their harder set, for the published training
set could not be had: scores will be below published ones, and no published figure is shown beside them.
"""

from dataclasses import replace
from typing import Literal

from plmft.data.hold_out import hold_out
from plmft.data.records import SPLITS
from plmft.data.source import Source, read_classes
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import SequenceHead

LOCATIONS = (
    "Cell membrane",
    "Cytoplasm",
    "Endoplasmic reticulum",
    "Extracellular",
    "Golgi apparatus",
    "Lysosome/Vacuole",
    "Mitochondrion",
    "Nucleus",
    "Peroxisome",
    "Plastid",
)
MEMBRANE = ("M", "S")
UNKNOWN = -1  # of membrane or soluble
SOURCE = Source(
    folder="localization",
    names={split: (f"localization_{split}.csv.gz", f"localization_{split}.csv") for split in SPLITS},
    remote={},
)


def read(place: DataPlace, target: str) -> Loaded:
    """2,768 / 1,678 / 490 proteins; fewer where it is unknown whether they are bound to a membrane."""
    paths = SOURCE.paths(place)
    names = LOCATIONS if target == "location" else MEMBRANE
    numbers = {name: number for number, name in enumerate(names)} | ({} if target == "location" else {"U": UNKNOWN})
    records = [r for split, path in paths.items() for r in read_classes(path, split, (target,), numbers)]
    source = str(paths["train"].parent)
    if target == "location":
        return Loaded(records, source)
    known = [r for r in records if r.target != UNKNOWN]
    shifted, note = hold_out([replace(r, split="test") if r.split == "valid" else r for r in known])
    why = (
        f"membrane is unknown for {len(records) - len(known):,} of {len(records):,} proteins, all of test among them: "
        "left out. The validation split is the test."
    )
    return Loaded(shifted, source, notes=(why, note))


def localization(head: SequenceHead, target: Literal["location", "membrane"]) -> Task:
    """The task for one of two targets."""
    return Task(
        name="localization",
        kind="sequence_classification",
        primary_metric="accuracy",
        read=lambda place: read(place, target),
        head=head,
        classes=LOCATIONS if target == "location" else MEMBRANE,
        citation="Almagro Armenteros et al. 2017 (DeepLoc), doi:10.1093/bioinformatics/btx431; "
        "Stärk et al. 2021 (Light Attention), doi:10.1093/bioadv/vbab035",
        licence="MIT (repository of the split)",
    )
