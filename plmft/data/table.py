"""A user's own file as records: columns, values and splits are found, checked, and what was decided is told.

The file's text stands in memory twice; FLIP's 8,733 variants of GB1 take 0.6 s without a split by clusters.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from plmft import InputError
from plmft.data.records import Kind, Record, Split
from plmft.data.table_columns import NONE, Chosen, Columns, find_columns
from plmft.data.table_fasta import fasta_sheet, with_labels
from plmft.data.table_sheet import Row, Sheet, by_id, delimited_sheet, load, parquet_sheet
from plmft.data.table_splits import Splitting, named_splits, split_rows, take_validation
from plmft.data.table_text import decode
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
from plmft.data.task import Loaded, Purpose

TableKind = Literal["regression", "classification", "multilabel", "residue_classes", "pairs"]
KINDS: dict[TableKind, Kind] = {
    "regression": "sequence_regression",
    "classification": "sequence_classification",
    "multilabel": "sequence_multilabel",
    "residue_classes": "residue_classification",
    "pairs": "pair_classification",
}


@dataclass(frozen=True)
class Table:
    """Which file, and how it is read.

    Args:
        labels, mask: FASTA files of residue labels, and of 1 and 0, beside a FASTA of sequences.
        unlabelled: letters that stand where a residue has no label.
        missing: what becomes of rows without a target.
        splitting: how rows are split where the file does not say.
        purpose: as of plmft.data.task.DataPlace.
    """

    file: Path
    kind: TableKind
    columns: Chosen
    splitting: Splitting
    labels: Path | None = None
    mask: Path | None = None
    unlabelled: str = "."
    missing: Literal["refuse", "drop"] = "refuse"
    purpose: Purpose = "train"

    @property
    def least_classes(self) -> int:
        """What a classification must have; a model that is scored has its own."""
        return 2 if self.purpose == "train" else 1


@dataclass(frozen=True)
class _Targets:
    """`words` are the class names in each row's target; empty for numbers."""

    values: list[Any]
    words: list[tuple[str, ...]]
    classes: tuple[str, ...] | None
    notes: list[str]


def read_table(table: Table) -> Loaded:
    """Records of all splits; all are `test` where the purpose is `all`. Ids are those of the file, or row-1, row-2, ...

    Raises: InputError: whatever is wrong with the file or does not fit the options; the message names file, line,
        column, value and remedy.
    """
    sheet = _sheet(table)
    columns, notes = find_columns(sheet, table.kind, _chosen(sheet, table))
    sheet, dropped = _without_missing(sheet, columns, table)
    notes = [*sheet.notes, *notes, *dropped]
    ids = _ids(sheet, columns)
    sequences, told = clean_sequences(_cells(sheet, columns.sequence))
    partners, told_partners = clean_sequences(_cells(sheet, columns.partner)) if columns.partner else ([], [])
    targets = _READERS[table.kind](sheet, columns, sequences, ids, table)
    units = list(zip(sequences, partners, strict=True)) if partners else sequences
    splits, told_splits = _splits(sheet, columns, units, targets, table)
    _check_labelled(sheet, table, splits, targets)
    if table.purpose == "train":  # else a model knows its classes, whatever this file's train holds
        _check_seen(_cells(sheet, columns.target), targets.words, splits, given=columns.split is not None)
    records = [
        Record(ids[n], sequences[n], targets.values[n], splits[n], row.where, partners[n] if partners else "")
        for n, row in enumerate(sheet.rows)
    ]
    notes += [*told, *told_partners, *targets.notes, *told_splits]
    return Loaded(records, str(table.file), classes=targets.classes, notes=tuple(notes))


def read_sheet(path: Path) -> Sheet:
    """A file of any format. Raises: InputError: no such file, a folder, not a table, damaged, empty or ragged."""
    raw = load(path)
    if raw.startswith(b"PAR1"):
        return parquet_sheet(raw, path)
    text, notes = decode(raw, path)
    return (fasta_sheet if text.lstrip().startswith(">") else delimited_sheet)(text, path, notes)


def _sheet(table: Table) -> Sheet:
    sheet = read_sheet(table.file)
    if table.mask and not table.labels:
        raise InputError(f"task.mask={table.mask}: a mask goes with task.labels, which is not set.")
    if not table.labels:
        return sheet
    if table.kind != "residue_classes" or not sheet.fasta:
        raise InputError(
            f"task.labels={table.labels}: labels of residues go with task.kind=residue_classes and a FASTA of "
            f"sequences as task.file, not with {table.kind} and {table.file.name}."
        )
    return with_labels(sheet, table.labels, table.mask)


def _chosen(sheet: Sheet, table: Table) -> Chosen:
    """The columns as they were named; without one of splits that isn't there, where none is needed."""
    named = str(table.columns.split).casefold()
    if table.purpose != "all" or named in (NONE, *(name.casefold() for name in sheet.columns)):
        return table.columns
    return replace(table.columns, split=None)


def _cells(sheet: Sheet, column: str) -> Cells:
    return Cells(column, [row.where for row in sheet.rows], sheet.cells(column))


def _without_missing(sheet: Sheet, columns: Columns, table: Table) -> tuple[Sheet, list[str]]:
    cells = _cells(sheet, columns.target)
    missing = missing_rows(cells, table.kind)
    if not missing:
        return sheet, []
    if table.missing == "refuse":
        raise cells.first(missing, "is empty", "Fill it in, remove the row, or leave out such rows: task.missing=drop.")
    if len(missing) == len(sheet.rows):
        raise cells.first(missing, "is empty", "No row has a target; is task.target right?")
    gone = set(missing)
    rows = [row for n, row in enumerate(sheet.rows) if n not in gone]
    note = f"{len(missing):,} rows without a value in column {columns.target!r} were left out (task.missing=drop)."
    return replace(sheet, rows=rows), [note]


def _ids(sheet: Sheet, columns: Columns) -> list[str]:
    if columns.id is None:
        return [f"row-{row.number}" for row in sheet.rows]
    cells = _cells(sheet, columns.id)
    remedy = "" if sheet.fasta else f", or set task.id={NONE} to number the rows"
    empty = [n for n, text in enumerate(cells.texts) if not text]
    if empty:
        raise cells.first(empty, "is empty", f"Fill it in{remedy}.")
    by_id(
        ((text, where, text) for text, where in zip(cells.texts, cells.where, strict=True)),
        f"Make ids unique{remedy}.",
    )
    return list(cells.texts)


def _numbers(sheet: Sheet, columns: Columns, sequences: list[str], ids: list[str], table: Table) -> _Targets:
    values, notes = numbers(_cells(sheet, columns.target), sheet.delimiter)
    return _Targets(values, [()] * len(values), None, notes)


def _classes(sheet: Sheet, columns: Columns, sequences: list[str], ids: list[str], table: Table) -> _Targets:
    texts = _cells(sheet, columns.target).texts
    names = class_names(texts, columns.target, str(sheet.path), table.least_classes)
    number = {name: n for n, name in enumerate(names)}
    notes = tell_classes(Counter(texts), names, columns.target, "classes")
    return _Targets([number[text] for text in texts], [(text,) for text in texts], names, notes)


def _label_sets(sheet: Sheet, columns: Columns, sequences: list[str], ids: list[str], table: Table) -> _Targets:
    sets = label_sets(_cells(sheet, columns.target))
    counts = Counter(label for labels in sets for label in set(labels))
    names = class_names(counts, columns.target, str(sheet.path), table.least_classes)
    number = {name: n for n, name in enumerate(names)}
    values = []
    for labels in sets:
        value = np.zeros(len(names), np.int8)
        value[[number[label] for label in labels]] = 1
        values.append(value)
    notes = tell_classes(counts, names, columns.target, "labels, parted by ; or |")
    without = sum(not labels for labels in sets)
    notes += [f"Column {columns.target!r}: {without:,} rows have no label."] if without else []
    return _Targets(values, sets, names, notes)


def _residues(sheet: Sheet, columns: Columns, sequences: list[str], ids: list[str], table: Table) -> _Targets:
    masks = sheet.cells(columns.mask) if columns.mask else None
    labels = residue_labels(_cells(sheet, columns.target), sequences, masks, ids, table.unlabelled)
    counts = Counter("".join(labels))
    without = counts.pop(" ", 0)
    if not counts:
        by = f"the mask ({table.mask or columns.mask})" if masks else f"task.unlabelled={table.unlabelled}"
        raise InputError(f"{sheet.path}: {by} leaves no residue with a label. A mask has 1 where a label counts.")
    names = class_names(counts, columns.target, str(sheet.path), table.least_classes)
    number = {name: n for n, name in enumerate(names)}
    notes = tell_classes(counts, names, columns.target, "residue classes")
    notes += [f"{without:,} residues of {without + sum(counts.values()):,} have no label."] if without else []
    words = [tuple(sorted(set(text) - {" "})) for text in labels]
    return _Targets([residue_target(text, number) for text in labels], words, names, notes)


Reader = Callable[[Sheet, Columns, list[str], list[str], Table], _Targets]
_READERS: dict[TableKind, Reader] = {
    "regression": _numbers,
    "classification": _classes,
    "multilabel": _label_sets,
    "residue_classes": _residues,
    "pairs": _classes,
}


def _splits(
    sheet: Sheet, columns: Columns, units: Sequence[str | tuple[str, str]], targets: _Targets, table: Table
) -> tuple[list[Split], list[str]]:
    if table.purpose == "all":
        return ["test"] * len(units), []
    classes = _rarest(targets.words) if table.kind in ("classification", "multilabel", "pairs") else None
    if columns.split is None:
        return _split_anew(sheet, units, classes, table)
    validation = _cells(sheet, columns.validation) if columns.validation else None
    needs = ("train", "test") if table.purpose == "train" else ("test",)
    splits = named_splits(_cells(sheet, columns.split), validation, str(sheet.path), needs)
    if "valid" in splits or "train" not in splits:
        return splits, []
    splits, note = take_validation(splits, units, classes, table.splitting, str(sheet.path))
    return splits, [note]


def _split_anew(
    sheet: Sheet, units: Sequence[str | tuple[str, str]], classes: Sequence[str] | None, table: Table
) -> tuple[list[Split], list[str]]:
    try:
        splits, note = split_rows(units, classes, table.splitting, str(sheet.path))
    except InputError as error:
        if table.purpose == "train":
            raise
        raise InputError(f"{error} To score every record, whatever its split: records=all.") from None
    return splits, [note]


def _rarest(words: Sequence[tuple[str, ...]]) -> list[str]:
    """The class of each row, or the rarest of its labels, so that a split has its share of those, too."""
    counts = Counter(word for found in words for word in found)
    return [min(found, key=lambda word: (counts[word], word), default="") for found in words]


def _check_seen(cells: Cells, words: Sequence[tuple[str, ...]], splits: Sequence[Split], *, given: bool) -> None:
    """Raises: InputError: a class that train lacks, which nothing could learn."""
    seen = {word for found, split in zip(words, splits, strict=True) if split == "train" for word in found}
    unseen = {word: n for n, found in reversed(list(enumerate(words))) for word in found if word not in seen}
    if not unseen:
        return
    word, row = min(unseen.items(), key=lambda pair: pair[1])
    rows = sum(word in found for found in words)
    more = f"; so are {len(unseen) - 1:,} other classes" if len(unseen) > 1 else ""
    remedy = "Put some into train" if given else "Give it more rows, another task.seed, or a split column"
    raise cells.bad(
        row,
        f"{word!r} is in {splits[row]} ({rows:,} rows in all) but nowhere in train{more}. {remedy}, merge it with "
        "another class, or remove it.",
    )


def _check_labelled(sheet: Sheet, table: Table, splits: Sequence[Split], targets: _Targets) -> None:
    """Raises: InputError: all residues of a split are without a label."""
    if table.kind != "residue_classes":
        return
    labelled = {split for split, words in zip(splits, targets.words, strict=True) if words}
    for split in dict.fromkeys(splits):
        if split not in labelled:
            row: Row = sheet.rows[splits.index(split)]
            raise InputError(f"{row.where}: no residue of the {split} split has a label. Mend the labels or the mask.")
