"""How long a task's records are, for a plan: read where they lie, else typed figures; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from plmft.data.options import Data, Limit
from plmft.data.prepare import prepare
from plmft.data.records import DataSet
from plmft.data.task import NotFetched, Task
from plmft.models.spec import TransformerSpec

Lengths = Mapping[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Typical:
    """Records by split, and their tokens: the mean, the mean token's (sum of squares over sum), the longest."""

    train: int
    valid: int
    test: int
    mean: float
    of_token: float
    longest: int


# as the published files have them, with ESM's two special tokens
TYPICAL = {
    "binding": Typical(954, 106, 300, 168, 203, 815),
    "contacts": Typical(153, 30, 44, 186, 251, 499),
    "fluorescence": Typical(21_446, 5_362, 27_217, 239, 239, 239),
    "gb1": Typical(381, 43, 8_309, 267, 267, 267),
    "homology": Typical(12_312, 736, 718, 169, 239, 1_421),
    "localization": Typical(2_768, 1_678, 490, 542, 900, 13_102),
    "secondary_structure": Typical(9_712, 1_080, 364, 257, 358, 1_634),
    "stability": Typical(53_614, 2_512, 12_851, 47, 48, 52),
    "thermostability": Typical(2_646, 294, 752, 631, 1_128, 8_799),
}


@dataclass(frozen=True)
class PlannedData:
    """lengths: tokens of each record's sequences by split. task: with the classes that the data have."""

    lengths: Lengths
    task: Task
    told: str
    read: bool


def planned_data(task: Task, data: Data, limits: Limit, model: TransformerSpec, runs: Path, seed: int) -> PlannedData:
    """The records' lengths.

    Raises: InputError: as in training: not there, malformed, or too long for the model. NotFetched: would be
        downloaded, and no figures are typed for the task.
    """
    try:
        loaded = task.read(replace(data.place(runs), fetch=False))
    except NotFetched as absent:
        typical = TYPICAL.get(task.name)
        if typical is None:
            raise
        lengths = _typed(typical, limits, model, data.length_policy)
        return PlannedData(lengths, task, f"{absent} Planned by the task's typed figures.", False)
    task = replace(task, classes=loaded.classes or task.classes)
    dataset = prepare(task, loaded, data, limits, context=model.context, model=model.name, seed=seed)
    counts = " / ".join(f"{n:,}" for n in dataset.counts.values())
    told = f"{counts} records ({' / '.join(dataset.counts)}) in {loaded.source}"
    return PlannedData(lengths_of(dataset, model), task, told, True)


def lengths_of(dataset: DataSet, model: TransformerSpec) -> Lengths:
    """Tokens of each record's sequences, or of the windows that they are read in, by split."""
    return {
        split: [tuple(n for s in record.sequences for n in _tokens(len(s), model)) for record in records]
        for split, records in dataset.splits.items()
    }


def _tokens(residues: int, model: TransformerSpec) -> tuple[int, ...]:
    """Of a sequence, or of each window that it is read in."""
    specials = len(model.tokenizer.prefix) + len(model.tokenizer.suffix)
    if model.context is None or residues <= model.context:
        return (residues + specials,)
    from plmft.models.windows import window_starts

    return (model.context + specials,) * len(window_starts(residues, model.context))


def _typed(typical: Typical, limits: Limit, model: TransformerSpec, policy: str) -> Lengths:
    """Records of two lengths, the longest and one other, with the typed means."""
    longest, mean = float(typical.longest), typical.mean
    variance = mean * (typical.of_token - mean)
    other = mean - variance / (longest - mean) if longest > mean else mean
    share = (mean - other) / (longest - other) if longest > other else 0.0
    rng, found = np.random.default_rng(0), {}
    for split in ("train", "valid", "test"):
        count = min(getattr(typical, split), getattr(limits, split) or getattr(typical, split))
        residues = np.where(rng.random(count) < share, longest, other).round().astype(int) - 2
        if policy == "crop":
            residues = residues.clip(max=model.context)
        found[split] = [_tokens(int(n), model) for n in residues]
    return found
