"""Labels of embedded sequences as records by split, checked as those of a task are."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.data.records import Kind, Record
from plmft.data.table import KINDS
from plmft.data.table_columns import NUMBER, SEQUENCES
from plmft.data.table_splits import Splitting, named_splits, split_rows, take_validation
from plmft.data.table_values import (
    Cells,
    class_names,
    clean_sequences,
    label_sets,
    missing_rows,
    numbers,
    residue_labels,
    residue_target,
    tell_classes,
)
from plmft.embeddings.labels import LabelTable, Named, matched, read_labels

Vectors = np.ndarray | list[np.ndarray]
UNLABELLED = "."
FEW = 20  # whole numbers, if not more than so many differ, may be classes
KEYS = re.compile(r"\btask\.(?=(?:kind|target|missing|split|seed)\b)")  # options of a task that the probe has, too


@dataclass(frozen=True)
class Labelled:
    """Records of embedded sequences.

    Args:
        rows: (n,) int64, the vector of each record. classes: names by number; empty for numbers.
        splits: names of splits to numbers of records.
    """

    kind: Kind
    records: list[Record]
    rows: np.ndarray
    classes: tuple[str, ...]
    splits: dict[str, list[int]]
    notes: list[str]


@dataclass(frozen=True)
class Asked:
    """Which columns, and how they are read; see conf/embed_probe.yaml."""

    labels: Path
    target: Named
    split: Named
    id: Named
    kind: str
    missing: str
    splitting: Splitting


def read_labelled(ids: Sequence[str], vectors: Vectors, asked: Asked) -> Labelled:
    """One record for each id that stands on both sides.

    Args: vectors: (N, D), or a list of N arrays (L, D), a row a residue.
    Raises: InputError: what is wrong with the file, its columns, values or splits.
    """
    try:
        return _read(ids, vectors, asked)
    except InputError as error:
        raise InputError(KEYS.sub("", str(error))) from None


def _read(ids: Sequence[str], vectors: Vectors, asked: Asked) -> Labelled:
    table = read_labels(asked.labels, asked.id)
    column = table.target("target", asked.target)
    at, rows, notes = matched(ids, table)
    kind = _kind(table.cells(column, rows), asked.kind, residues=not isinstance(vectors, np.ndarray))
    cells = table.cells(column, rows)
    missing = set(missing_rows(cells, kind))
    if missing and asked.missing == "refuse":
        raise cells.first(sorted(missing), "is empty", "Fill it in, or leave out such rows: missing=drop.")
    if len(missing) == len(rows):
        raise cells.first(sorted(missing), "is empty", "No row has a target; is target right?")
    if missing:
        notes.append(f"{len(missing):,} rows without a value in column {column!r} were left out (missing=drop).")
    kept = [n for n in range(len(rows)) if n not in missing]
    at, rows = [at[n] for n in kept], [rows[n] for n in kept]
    own = [vectors[number] for number in at]
    names = [ids[number] for number in at]
    if kind == "residue_classes":
        values, words, classes, told = _residues(table.cells(column, rows), [len(v) for v in own], names, table)
    else:
        values, words, classes, told = _targets(table.cells(column, rows), kind, table)
    splits, told_splits = _splits(table, rows, own, words if kind == "classification" else None, asked)
    letters = _letters(table, rows, own) if kind == "residue_classes" else [""] * len(rows)
    records = [
        Record(name, sequence, value, split, table.sheet.rows[row].where)
        for name, sequence, value, split, row in zip(names, letters, values, splits, rows, strict=True)
    ]
    _check_seen(records, words, splits, column)
    by_split = {s: [n for n, found in enumerate(splits) if found == s] for s in _ordered(splits)}
    every = [*_guessed(table, column, asked), *table.notes, *notes, *told, *told_splits]
    return Labelled(KINDS[kind], records, np.array(at), classes, by_split, every)  # type: ignore[index]


def _guessed(table: LabelTable, target: str, asked: Asked) -> list[str]:
    """A note on the columns that were not named."""
    found = {"id": table.id if asked.id is None else None, "target": target if asked.target is None else None}
    found["split"] = table.split(None) if asked.split is None else None
    told = ", ".join(f"{key}={column}" for key, column in found.items() if column is not None)
    return [f"{table.sheet.path.name}: {told} (guessed)."] if told else []


def _kind(cells: Cells, wanted: str, *, residues: bool) -> str:
    """What `auto` means for these cells. Raises: InputError: few whole numbers may be either; of the other vectors."""
    if residues != (wanted == "residue_classes") and (residues, wanted) != (True, "auto"):
        held, other = ("residue", "sequence") if residues else ("sequence", "residue")
        raise InputError(f"kind={wanted}: the embeddings hold a vector a {held}. Embed with per={other} for it.")
    if residues or wanted != "auto":
        return "residue_classes" if residues else wanted
    missing = set(missing_rows(cells, "regression"))
    filled = [text for n, text in enumerate(cells.texts) if n not in missing]
    if not filled or not all(map(NUMBER.fullmatch, filled)):
        return "classification"
    different = set(filled)
    if len(different) <= FEW and all(re.fullmatch(r"[+-]?\d+", text, re.ASCII) for text in different):
        raise InputError(
            f"Column {cells.column!r} holds {len(different)} different whole numbers: classes or quantities? Set "
            "kind=classification or kind=regression."
        )
    return "regression"


def _targets(
    cells: Cells, kind: str, table: LabelTable
) -> tuple[list[Any], list[tuple[str, ...]], tuple[str, ...], list[str]]:
    """Targets, the words in each, names of the classes, notes."""
    path = str(table.sheet.path)
    if kind == "regression":
        values, notes = numbers(cells, table.sheet.delimiter)
        return values, [()] * len(values), (), notes
    words = label_sets(cells) if kind == "multilabel" else [(text.strip(),) for text in cells.texts]
    every = [word for found in words for word in found]
    names = class_names(every, cells.column, path)
    number = {name: n for n, name in enumerate(names)}
    notes = tell_classes(Counter(every), names, cells.column, "labels" if kind == "multilabel" else "classes")
    if kind == "classification":
        return [number[word] for (word,) in words], words, names, notes
    values = [np.isin(np.arange(len(names)), [number[word] for word in found]).astype(np.int8) for found in words]
    return values, words, names, notes


def _residues(
    cells: Cells, lengths: Sequence[int], ids: Sequence[str], table: LabelTable
) -> tuple[list[Any], list[tuple[str, ...]], tuple[str, ...], list[str]]:
    """As _targets, of a letter a residue; `.` where there is no label. Raises: InputError: of another length."""
    labels = residue_labels(cells, ["X" * length for length in lengths], None, ids, UNLABELLED)
    counts = Counter("".join(labels))
    without = counts.pop(" ", 0)
    names = class_names(counts, cells.column, str(table.sheet.path))
    number = {name: n for n, name in enumerate(names)}
    notes = tell_classes(counts, names, cells.column, "residue classes")
    notes += [f"{without:,} residues of {sum(lengths):,} have no label."] if without else []
    words = [tuple(sorted(set(text) - {" "})) for text in labels]
    return [residue_target(text, number) for text in labels], words, names, notes


def _letters(table: LabelTable, rows: Sequence[int], vectors: Sequence[np.ndarray]) -> list[str]:
    """The sequences, which the baseline reads; X for each residue where the file has none of that length."""
    column = table.guessed(SEQUENCES)
    found = clean_sequences(table.cells(column, rows))[0] if column else [""] * len(rows)
    return [text if len(text) == len(v) else "X" * len(v) for text, v in zip(found, vectors, strict=True)]


def _splits(
    table: LabelTable,
    rows: Sequence[int],
    vectors: Sequence[np.ndarray],
    words: Sequence[tuple[str, ...]] | None,
    asked: Asked,
) -> tuple[list[str], list[str]]:
    """As the file says, else anew: by clusters of its sequences, or at random, equal embeddings kept together."""
    path, classes = str(table.sheet.path), None if words is None else [word for (word,) in words]
    column = table.split(asked.split)
    if column is not None:
        validation = table.guessed(("validation",))
        flags = table.cells(validation, rows) if validation else None
        splits = named_splits(table.cells(column, rows), flags, path)
        if "valid" in splits:
            return splits, []
        units, how = _units(table, rows, vectors, asked.splitting)
        splits, note = take_validation(splits, units, classes, how, path)
        return splits, [note]
    units, how = _units(table, rows, vectors, asked.splitting)
    splits, note = split_rows(units, classes, how, path)
    return splits, [note]


def _units(
    table: LabelTable, rows: Sequence[int], vectors: Sequence[np.ndarray], how: Splitting
) -> tuple[list[str], Splitting]:
    """What must not be parted: similar sequences, where the file has them, else equal vectors."""
    column = table.guessed(SEQUENCES)
    if column is not None:
        return clean_sequences(table.cells(column, rows))[0], how
    digests = [hashlib.sha256(np.ascontiguousarray(vector)).hexdigest() for vector in vectors]
    return digests, Splitting("random", how.fractions, how.seed)


def _check_seen(
    records: Sequence[Record], words: Sequence[tuple[str, ...]], splits: Sequence[str], column: str
) -> None:
    """Raises: InputError: a class that train lacks, which nothing could learn."""
    seen = {word for found, split in zip(words, splits, strict=True) if split == "train" for word in found}
    for record, found in zip(records, words, strict=True):
        unseen = [word for word in found if word not in seen]
        if unseen:
            raise InputError(
                f"{record.where}: column {column!r}: {unseen[0]!r:.60} is in {record.split} but nowhere in train. Put "
                "some into train, merge it with another class, or remove it."
            )


def _ordered(splits: Sequence[str]) -> list[str]:
    first = ("train", "valid", "test")
    return [s for s in first if s in splits] + sorted(set(splits).difference(first))
