"""A planted secondary-structure task, generated in code: the best reachable accuracy is known.

Each residue's class is drawn from the softmax of Chou-Fasman propensities (Chou & Fasman 1978), averaged over a window
of five residues. A predictor that sees one residue at a time can't do well; one that sees its neighbours can reach
the ceiling, which is the mean probability of the likeliest class. Costs about 0.1 s.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from plmft.data.propensity import class_probabilities
from plmft.data.records import AMINO_ACIDS, Record
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead

CLASSES = ("H", "E", "C")
LENGTHS = (40, 160)


def ceiling(records: Sequence[Record]) -> float:
    """The accuracy over residues that a predictor who knows the rule can expect on these records."""
    return float(np.concatenate([class_probabilities(r.sequence).max(1) for r in records]).mean())


def reader(counts: dict[str, int], seed: int) -> Callable[[DataPlace], Loaded]:
    """A `read` that generates records and needs no place."""

    def read(place: DataPlace) -> Loaded:
        rng = np.random.default_rng(seed)
        records = [_draw(rng, split, i) for split, n in counts.items() for i in range(n)]
        return Loaded(records, f"generated (seed {seed})")

    return read


def _draw(rng: np.random.Generator, split: str, number: int) -> Record:
    length = rng.integers(LENGTHS[0], LENGTHS[1] + 1)
    sequence = "".join(rng.choice(list(AMINO_ACIDS), length))
    below = class_probabilities(sequence).cumsum(1) < rng.random((length, 1))
    where = f"generated record {split}-{number}"
    return Record(f"{split}-{number}", sequence, below.sum(1).clip(max=2).astype(np.int64), split, where)


def planted_structure(
    head: ResidueHead,
    train: Annotated[int, Gt(0)],
    valid: Annotated[int, Gt(0)],
    test: Annotated[int, Gt(0)],
    seed: Annotated[int, Ge(0)],
) -> Task:
    """The task with a given number of generated records in each split."""
    return Task(
        name="planted_structure",
        kind="residue_classification",
        primary_metric="accuracy",
        read=reader({"train": train, "valid": valid, "test": test}, seed),
        head=head,
        classes=CLASSES,
        ceiling=ceiling,
        citation="propensities: Chou & Fasman 1978, doi:10.1002/9780470122921.ch2",
        licence="generated data, free of rights",
        synthetic=True,
    )
