"""What is measured on: sequences with targets, written once in both sides' formats, and random weights.

Sequences are FLIP's secondary structure and TAPE's fluorescence where PLMFT_DATA has them, else drawn by length.
"""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.config.compose import compose_config
from plmft.data.records import AMINO_ACIDS, IGNORE, Record
from plmft.data.sampler import step_index
from plmft.data.task import DataPlace
from plmft.models.spec import PUBLISHED

CONTEXT = 1022
LOG_LENGTH = (5.351, 0.625)  # mean and deviation of the logarithm of the lengths of FLIP's SS3 training split
DRAWS = 400  # of which that one is taken whose mean and padded lengths are nearest the whole split's
WILD_TYPE_LENGTH = 237


@dataclass(frozen=True)
class Row:
    """One protein. target: a number, or a letter for each residue (. where there is none)."""

    id: str
    sequence: str
    target: float | str


@dataclass(frozen=True)
class Material:
    """Training sequences with a few for validation and test, on disk for either side."""

    table: Path  # for plmft's task=table
    lines: Path  # for the peers
    kind: str  # residue or sequence
    train: tuple[Row, ...]

    @property
    def sequences(self) -> list[str]:
        """Of the training split, in file order."""
        return [row.sequence for row in self.train]

    @property
    def residues(self) -> int:
        """Of the training split."""
        return sum(map(len, self.sequences))

    def batches(self, batch_size: int, seed: int) -> list[list[str]]:
        """The ids that each optimizer step of plmft's first epoch sees, so that a peer can be given the same."""
        return [[row.id for row in batch] for batch in in_steps(self.train, batch_size, seed)]


def in_steps(rows: Sequence[Row], batch_size: int, seed: int) -> list[list[Row]]:
    """The rows as plmft orders them: sorted, then shuffled by seed; whole batches and what is left."""
    ranked = sorted(rows, key=lambda row: (row.sequence, row.id))
    steps = range(-(-len(rows) // batch_size))
    return [[ranked[i] for i in step_index(len(rows), batch_size, seed, 0, step)] for step in steps]


def write(folder: Path, name: str, kind: str, splits: dict[str, Sequence[Row]]) -> Material:
    """Write the splits as CSV and as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    table, lines = folder / f"{name}.csv", folder / f"{name}.jsonl"
    rows = [(row, split) for split, found in splits.items() for row in found]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "sequence", "target", "split"])
        writer.writerows((row.id, row.sequence, row.target, split) for row, split in rows)
    with lines.open("w") as file:
        for row, split in rows:
            file.write(json.dumps({**vars(row), "split": split}) + "\n")
    return Material(table, lines, kind, tuple(splits["train"]))


def structures() -> tuple[list[Row], str]:
    """SS3 training sequences of at most 1,022 residues, and what they are."""
    records = _records("secondary_structure")
    if records is None:
        return _drawn_structures(9_675), (
            "no PLMFT_DATA: lengths drawn from the log-normal distribution fitted to FLIP's SS3 training split (mean "
            f"and deviation of the logarithm {LOG_LENGTH[0]}, {LOG_LENGTH[1]}), random residues and planted labels"
        )
    letters = np.array(list("HEC"))
    rows = []
    for record in records:
        if len(record.sequence) <= CONTEXT:
            labels = np.where(record.target == IGNORE, ".", letters[np.maximum(record.target, 0)])
            rows.append(Row(record.id, record.sequence, "".join(labels)))
    return rows, "FLIP's secondary structure, training split, sequences of at most 1,022 residues"


def brightness() -> tuple[list[Row], str]:
    """Fluorescence training sequences, and what they are."""
    records = _records("fluorescence")
    if records is None:
        rng = np.random.default_rng(1)
        sequences = ["".join(rng.choice(list(AMINO_ACIDS), WILD_TYPE_LENGTH)) for _ in range(1000)]
        return [Row(f"f{i}", s, float(rng.normal())) for i, s in enumerate(sequences)], (
            "no PLMFT_DATA: random sequences of 237 residues"
        )
    rows = [Row(r.id, r.sequence, float(r.target)) for r in records if len(r.sequence) == WILD_TYPE_LENGTH]
    return rows, "TAPE's fluorescence, training split"


def _records(task: str) -> list[Record] | None:
    folder = os.environ.get("PLMFT_DATA")
    if not folder or not (Path(folder) / task).is_dir():
        return None
    from plmft.tasks import fluorescence, secondary_structure

    read = {"fluorescence": fluorescence.read, "secondary_structure": secondary_structure.read}[task]
    try:
        loaded = read(DataPlace(Path(folder), Path(folder)))
    except InputError as error:
        raise RuntimeError(f"PLMFT_DATA: {error}") from None
    return [record for record in loaded.records if record.split == "train"]


def _drawn_structures(count: int) -> list[Row]:
    """Labels follow the amino acid three times in four, so that there is something to learn."""
    rng = np.random.default_rng(0)
    letters, states = np.array(list(AMINO_ACIDS)), np.array(list("HEC"))
    rows = []
    for number in range(count):
        length = int(np.clip(rng.lognormal(*LOG_LENGTH), 20, CONTEXT))
        kinds = rng.integers(0, 20, length)
        labels = np.where(rng.random(length) < 0.75, kinds % 3, rng.integers(0, 3, length))
        rows.append(Row(f"s{number}", "".join(letters[kinds]), "".join(states[labels])))
    return rows


def typical(rows: Sequence[Row], steps: int, batch_size: int, seed: int) -> list[Row]:
    """Random rows for some optimizer steps, whose batches are as long, and as uneven, as the whole split's."""
    rng = np.random.default_rng(seed)
    lengths = np.array([len(row.sequence) for row in rows])
    whole = rng.permutation(lengths)[: len(rows) // batch_size * batch_size].reshape(-1, batch_size)
    draws = [[rows[i] for i in rng.permutation(len(rows))[: steps * batch_size]] for _ in range(DRAWS)]

    def distance(draw: list[Row]) -> float:
        batches = [[len(row.sequence) for row in batch] for batch in in_steps(draw, batch_size, seed)]
        return np.abs(_means(np.array(batches)) / _means(whole) - 1).max()

    return min(draws, key=distance)


def _means(lengths: np.ndarray) -> np.ndarray:
    """Means of (steps, batch size) lengths, of their squares, and of both once padded: what cost is made of."""
    longest = lengths.max(1)
    return np.array([lengths.mean(), np.square(lengths).mean(), longest.mean(), np.square(longest).mean()])


def small(rows: Sequence[Row], count: int, shortest: int = 30, longest: int = 100) -> list[Row]:
    """The first rows of few residues, with a label each: validation and test of runs whose training is measured."""
    found = [r for r in rows if shortest <= len(r.sequence) <= longest or isinstance(r.target, float)]
    return [r for r in found if isinstance(r.target, float) or r.target.strip(".")][:count]


def model_config(model: str) -> dict[str, object]:
    """What transformers' EsmConfig takes for a model of conf/model/."""
    from plmft.models.weights import HUB_NAMES  # imports transformers

    spec = compose_config([f"model={model}"]).model
    settings = {name: value for name, value in PUBLISHED["esm2"].items() if name != "model_type"}
    settings |= {theirs: spec[ours] for ours, theirs in HUB_NAMES.items()}
    return settings | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-5}
