"""Random records of every kind of task, and what makes two batches equal."""

from collections.abc import Callable

import numpy as np
import torch

from plmft.data.packing import PackedBatch
from plmft.data.records import IGNORE, Kind, Record

TARGETS: dict[Kind, Callable[[np.random.Generator, int], object]] = {
    "sequence_regression": lambda rng, length: float(rng.normal()),
    "sequence_classification": lambda rng, length: int(rng.choice([IGNORE, 0, 1, 2])),
    "sequence_multilabel": lambda rng, length: rng.integers(0, 2, 5).astype(np.int8),
    "residue_classification": lambda rng, length: rng.choice([IGNORE, 0, 1, 300], length),
    "contacts": lambda rng, length: np.where(rng.random((length, 1)) < 0.2, np.nan, rng.normal(size=(length, 3))),
    "pair_classification": lambda rng, length: int(rng.choice([IGNORE, 0, 1])),
    "variant_scoring": lambda rng, length: float(rng.normal()),
    "masked_lm": lambda rng, length: None,
}
PAIRS = ("pair_classification", "variant_scoring")
LETTERS = list("ACDEFGHIKLMNPQRSTVWYXBZUO")


def made(kind: Kind, lengths: list[int], seed: int = 0) -> list[Record]:
    """Random records; every letter, also those that some tokenizers replace."""
    rng = np.random.default_rng(seed)
    records = []
    for number, length in enumerate(lengths):
        sequence, partner = ("".join(rng.choice(LETTERS, n)) for n in (length, lengths[-1 - number]))
        target = TARGETS[kind](rng, length)
        if kind == "contacts":
            target = target.astype(np.float32)
        where = f"a file.csv, line {number}"
        records.append(Record(f"r{number}", sequence, target, "train", where, partner if kind in PAIRS else ""))
    return records


def assert_equal_batches(one: PackedBatch, other: PackedBatch) -> None:
    for name in ("tokens", "positions", "cu_seqlens", "is_residue", "index", "targets"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert (one.lengths, one.specials, one.residues) == (other.lengths, other.specials, other.residues)
