"""Which split each row is in: the words of a column, or, without one, by clusters of similar sequences.

A split is never made up of rows that the user put elsewhere, but for a validation split that is taken out of train.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plmft import InputError
from plmft.data.records import Split
from plmft.data.table_values import Cells

WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "holdout"), "test"),
}
FURTHER_TEST = re.compile(r"test_\w+")
TRUE, FALSE = ("true", "1", "yes"), ("", "false", "0", "no")
LISTED = 10
ALLOWED = "train (training), valid (validation, val, dev), test (testing, holdout), test_<name>"
ANEW = "set task.split=none to split anew"


@dataclass(frozen=True)
class Splitting:
    """How rows are split where the file does not say: by clusters or at random, and the shares of the three splits."""

    by: Literal["cluster", "random"]
    fractions: tuple[float, float, float]
    seed: int


def named_splits(
    cells: Cells, validation: Cells | None, path: str, needs: Sequence[Split] = ("train", "test")
) -> list[Split]:
    """From the words of the split column; FLIP's second column makes validation of what the first calls train.

    Raises: InputError: an empty cell, an unknown word, no row of a split in `needs`.
    """
    words = [text.strip().lower() for text in cells.texts]
    empty = [row for row, word in enumerate(words) if not word]
    if empty:
        raise cells.first(empty, "is empty", f"Write train, valid or test, or {ANEW}.")
    unknown = Counter(word for word in words if word not in WORDS and not FURTHER_TEST.fullmatch(word))
    if unknown:
        told = ", ".join(f"{word!r} ({n:,} rows)" for word, n in unknown.most_common(LISTED))
        more = f" and {len(unknown) - LISTED:,} more words" if len(unknown) > LISTED else ""
        first = words.index(next(iter(unknown)))
        raise cells.bad(first, f"unknown words: {told}{more}. Allowed: {ALLOWED}. Rename them, or {ANEW}.")
    splits = [WORDS.get(word, word) for word in words]
    if validation is not None and "valid" not in splits:
        splits = _with_validation(splits, validation)
    for split in needs:
        if split not in splits:
            held = ", ".join(f"{name} {n:,}" for name, n in Counter(splits).items())
            raise InputError(f"{path}: column {cells.column!r} has no {split} rows ({held}). Mark some, or {ANEW}.")
    return splits


def _with_validation(splits: list[Split], cells: Cells) -> list[Split]:
    found = []
    for row, (split, text) in enumerate(zip(splits, cells.texts, strict=True)):
        word = text.strip().lower()
        if word not in TRUE + FALSE:
            raise cells.bad(row, f"{text!r} is neither True nor False. Mend it, or rename the column.")
        if word in TRUE and split != "train":
            raise cells.bad(row, f"{text!r}, but the row is in {split}. Validation is taken out of train: mend one.")
        found.append("valid" if word in TRUE else split)
    return found


def split_rows(
    units: Sequence[str | tuple[str, str]], classes: Sequence[str] | None, how: Splitting, path: str
) -> tuple[list[Split], str]:
    """All rows anew, by their one sequence or their two. Returns: splits and what is to be told.

    Raises: InputError: one cluster holds so much that a split would be all but empty.
    """
    from plmft.data.splitting import split_at_random, split_by_cluster

    split = split_by_cluster if how.by == "cluster" else split_at_random
    try:
        return split(units, classes, fractions=how.fractions, seed=how.seed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def take_validation(
    splits: list[Split],
    units: Sequence[str | tuple[str, str]],
    classes: Sequence[str] | None,
    how: Splitting,
    path: str,
) -> tuple[list[Split], str]:
    """`splits` with a validation split taken out of train, in the ratio of their fractions; as split_rows."""
    train = [row for row, split in enumerate(splits) if split == "train"]
    share = how.fractions[1] / (how.fractions[0] + how.fractions[1])
    of_train = None if classes is None else [classes[row] for row in train]
    among = [units[row] for row in train]
    found, note = split_rows(among, of_train, replace(how, fractions=(1 - share, share, 0.0)), path)
    taken = dict(zip(train, found, strict=True))
    note = f"No validation split: taken out of train, {note.removeprefix('No split column: ')}"
    return [taken.get(row, split) for row, split in enumerate(splits)], note
