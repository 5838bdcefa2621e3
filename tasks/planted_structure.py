"""A planted secondary-structure task, generated in code: the best reachable accuracy is known.

Each residue's class is drawn from the softmax of Chou-Fasman propensities (Chou & Fasman 1978), averaged over a window
of five residues. A predictor that sees one residue at a time can't do well; one that sees its neighbours can reach
the ceiling, which is the mean probability of the likeliest class. Costs about 0.1 s.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt

from plmft.data.records import AMINO_ACIDS, Record
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead

CLASSES = ("H", "E", "C")
WINDOW, SHARPNESS = 5, 11.4
LENGTHS = (40, 160)
# of helix, strand and turn
PROPENSITY = {
    "A": (1.42, 0.83, 0.66),
    "C": (0.70, 1.19, 1.19),
    "D": (1.01, 0.54, 1.46),
    "E": (1.51, 0.37, 0.74),
    "F": (1.13, 1.38, 0.60),
    "G": (0.57, 0.75, 1.56),
    "H": (1.00, 0.87, 0.95),
    "I": (1.08, 1.60, 0.47),
    "K": (1.16, 0.74, 1.01),
    "L": (1.21, 1.30, 0.59),
    "M": (1.45, 1.05, 0.60),
    "N": (0.67, 0.89, 1.56),
    "P": (0.57, 0.55, 1.52),
    "Q": (1.11, 1.10, 0.98),
    "R": (0.98, 0.93, 0.95),
    "S": (0.77, 0.75, 1.43),
    "T": (0.83, 1.19, 0.96),
    "V": (1.06, 1.70, 0.50),
    "W": (1.08, 1.37, 0.96),
    "Y": (0.69, 1.47, 1.14),
}


def class_probabilities(sequence: str) -> np.ndarray:
    """(L, 3) float64: the probability of each class at each residue."""
    propensity = np.array([PROPENSITY[letter] for letter in sequence])
    sums = np.vstack([np.zeros(3), propensity.cumsum(0)])
    middle = np.arange(len(sequence))
    low, high = np.maximum(middle - WINDOW // 2, 0), np.minimum(middle + WINDOW // 2 + 1, len(sequence))
    scores = SHARPNESS * (sums[high] - sums[low]) / (high - low)[:, None]
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


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
