"""A validation split for data that come without one: a tenth of train, always the same one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plmft.data.records import Record

SEED, PARTS = 0, 10


def hold_out(records: Sequence[Record]) -> tuple[list[Record], str]:
    """The records with a seeded tenth of train as valid, and a note that says so.

    The draw depends on the order of the records and on nothing else: it is not the run's own seed.
    """
    train = [i for i, record in enumerate(records) if record.split == "train"]
    held = set(np.random.default_rng(SEED).permutation(train)[: len(train) // PARTS].tolist())
    note = (
        f"No validation split in the data: {len(held):,} of {len(train):,} training records, drawn with seed {SEED}, "
        "are it."
    )
    return [replace(record, split="valid") if i in held else record for i, record in enumerate(records)], note
