"""A table of labels beside embeddings: which columns, and which row belongs to which vector, by id alone.

Rows are never matched by their order. Costs the file's text in memory.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plmft import InputError
from plmft.data.table import read_sheet
from plmft.data.table_columns import IDS, NONE, SEQUENCES, SPLIT_NAMES, TARGETS
from plmft.data.table_sheet import Sheet, by_id
from plmft.data.table_text import listed
from plmft.data.table_values import Cells

Named = str | int | None  # a column; None: guess


@dataclass(frozen=True)
class LabelTable:
    """The rows of a file by id.

    Args: id: the column of ids. rows: id to row number. notes: what was decided on reading, a line each.
    """

    sheet: Sheet
    id: str
    rows: dict[str, int]
    notes: tuple[str, ...]

    def cells(self, column: str, rows: Sequence[int]) -> Cells:
        """A column's cells in the order of `rows`."""
        texts = self.sheet.cells(column)
        return Cells(column, [self.sheet.rows[row].where for row in rows], [texts[row] for row in rows])

    def target(self, key: str, named: Named) -> str:
        """The column that `key` asks for: the named one, else by its name, else the only one that is left.

        Raises: InputError: there is none, or several may be meant.
        """
        found = self._column(key, named, TARGETS)
        if found is not None:
            return found
        known = {*IDS, *SPLIT_NAMES, *SEQUENCES, "validation"}
        left = [column for column in self.sheet.columns if _plain(column) not in known]
        if len(left) != 1:
            raise InputError(f"{self.sheet.path}: which column holds the labels? Set {key}. {_columns(self.sheet)}")
        return left[0]

    def split(self, named: Named) -> str | None:
        """The column of splits; None: there is none, or `named` is none."""
        return None if named == NONE else self._column("split", named, SPLIT_NAMES)

    def guessed(self, names: Sequence[str]) -> str | None:
        """The first column with one of these names, or None."""
        return next((column for column in self.sheet.columns if _plain(column) in names), None)

    def _column(self, key: str, named: Named, names: Sequence[str]) -> str | None:
        if named is not None:
            return named_column(self.sheet, key, str(named))
        found = [column for column in self.sheet.columns if _plain(column) in names]
        if len(found) > 1:
            either = " or ".join(map(repr, found[:5]))
            raise InputError(f"{self.sheet.path}: the {key} column may be {either}. Set {key}. {_columns(self.sheet)}")
        return found[0] if found else None


def read_labels(path: Path, id_column: Named) -> LabelTable:
    """A CSV, TSV, Parquet or FASTA file.

    Raises: InputError: no such file, not a table, no column of ids, an empty id or one that stands twice.
    """
    sheet = read_sheet(path)
    column = named_column(sheet, "id", str(id_column)) if id_column is not None else _id_column(sheet)
    ids = sheet.cells(column)
    empty = [number for number, text in enumerate(ids) if not text.strip()]
    if empty:
        cells = Cells(column, [row.where for row in sheet.rows], ids)
        raise cells.first(empty, "is empty", "Fill it in, or remove the row.")
    rows = by_id(
        ((text.strip(), sheet.rows[number].where, number) for number, text in enumerate(ids)),
        "Give each sequence one row.",
    )
    return LabelTable(sheet, column, rows, sheet.notes)


def named_column(sheet: Sheet, key: str, wanted: str) -> str:
    """The column of that name, in any case. Raises: InputError: there is none; the nearest is told."""
    same = [name for name in sheet.columns if name == wanted] or [
        name for name in sheet.columns if name.casefold() == wanted.casefold()
    ]
    if len(same) == 1:
        return same[0]
    folded = {name.casefold(): name for name in sheet.columns}
    near = difflib.get_close_matches(wanted.casefold(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    raise InputError(f"{key}={wanted}: {sheet.path} has no such column.{hint} {_columns(sheet)}")


def matched(ids: Sequence[str], table: LabelTable) -> tuple[list[int], list[int], list[str]]:
    """Numbers of the vectors that have a row, these rows, and notes that count what stands on one side alone.

    In the order of the file.

    Raises: InputError: no id stands on both sides; an example of each is told.
    """
    known = {id_: number for number, id_ in enumerate(ids)}
    pairs = [(known[id_], row) for id_, row in table.rows.items() if id_ in known]
    if not pairs:
        raise InputError(
            f"{table.sheet.path}: none of its {len(table.rows):,} ids is among the {len(ids):,} of the embeddings. "
            f"There: {next(iter(table.rows))!r:.60}; in the embeddings: {ids[0] if ids else '':.60}. Set id=COLUMN, "
            "or write the ids alike."
        )
    notes = []
    without_vector, without_row = len(table.rows) - len(pairs), len(ids) - len(pairs)
    if without_vector:
        first = next(id_ for id_ in table.rows if id_ not in known)
        notes.append(f"{without_vector:,} rows of {table.sheet.path.name} have no embedding (first: {first:.60}).")
    if without_row:
        first = next(id_ for id_ in ids if id_ not in table.rows)
        notes.append(f"{without_row:,} embeddings have no row in {table.sheet.path.name} (first: {first:.60}).")
    return [number for number, _ in pairs], [row for _, row in pairs], notes


def _id_column(sheet: Sheet) -> str:
    if sheet.fasta:
        return sheet.columns[0]
    for name in IDS:
        for column in sheet.columns:
            if _plain(column) == name:
                return column
    raise InputError(f"{sheet.path}: which column holds the ids of the sequences? Set id. {_columns(sheet)}")


def _plain(column: str) -> str:
    return re.sub(r"[\W_]", "", column.casefold())


def _columns(sheet: Sheet) -> str:
    return f"The {'keys of the headers' if sheet.fasta else 'columns'} are: {listed(sheet.columns)}."
