"""Delimited text and Parquet as streams of entries. Only the named columns of a Parquet file are read."""

import csv
from collections.abc import Iterator, Sequence
from typing import IO, Any

from plmft import InputError
from plmft.data.table_text import DELIMITERS, listed
from plmft.inference.opening import DAMAGED
from plmft.inference.sequences import LONGEST, Columns, Raw

ROWS = 1024  # of a Parquet file, held at once
CELL = 16 * LONGEST  # characters: what is longer than a protein is rejected alone; a quote left open ends here


def table_entries(
    name: str, line: int, header: str, lines: Iterator[tuple[int, str]], columns: Columns
) -> Iterator[Raw]:
    """Rows in order. The delimiter is the one of comma, semicolon and tab that parts the header into the columns.

    Args: name: of the source, for messages. line, header: the first line. lines: those that follow it.
    Raises: InputError: a column that is not there, a row of other length, no rows, a quote left open.
    """
    csv.field_size_limit(max(CELL, csv.field_size_limit()))  # else 131,072, of the whole process
    delimiter = max(DELIMITERS, key=lambda d: (_score(_split(header, d), columns), header.count(d)))
    names = _split(header, delimiter)
    places = _places(name, names, columns, fasta="The text begins with no '>', so it is no FASTA either. ")
    reader = csv.reader((row for _, row in lines), delimiter=delimiter, strict=True)
    rows, at = 0, 0
    try:
        while True:
            at = line + reader.line_num + 1
            cells = next(reader, None)
            if cells is None:
                break
            if not any(cells):
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{name}, line {at}: {len(cells)} fields, but the header names {len(names)}. Mend the row."
                )
            rows += 1
            yield _raw([cells[i].strip() if i is not None else None for i in places], rows, f"{name}, line {at}")
    except csv.Error as error:
        raise InputError(f"{name}, line {at}: {error}. Is a quote left open?") from None
    if not rows:
        raise InputError(f"{name}: a header, but no rows. The columns are {listed(names)}.")


def parquet_entries(source: str, stream: IO[bytes], columns: Columns) -> Iterator[Raw]:
    """Rows in order, some ROWS at a time. Raises: InputError: damaged, a column that is not there, no rows."""
    from pyarrow.parquet import ParquetFile

    rows = 0
    try:
        file = ParquetFile(stream)
        names = file.schema_arrow.names
        _places(source, names, columns)
        wanted = [name for name in (columns.id, columns.sequence, columns.partner) if name is not None]
        for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys(wanted))):
            for row in batch.to_pylist():
                rows += 1
                cells = [_text(row[c]) if c else None for c in (columns.id, columns.sequence, columns.partner)]
                yield _raw(cells, rows, f"{source}, row {rows}")
    except InputError:  # a ValueError, too
        raise
    except DAMAGED as error:
        raise InputError(f"{source}: no readable Parquet ({str(error)[:200]}). Write it again.") from None
    if not rows:
        raise InputError(f"{source}: no rows. The columns are {listed(names)}.")


def _split(header: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter))]
    except csv.Error:
        return []


def _score(names: Sequence[str], columns: Columns) -> int:
    return sum(name in names for name in (columns.id, columns.sequence, columns.partner))


def _places(source: str, names: Sequence[str], columns: Columns, fasta: str = "") -> list[int | None]:
    """Where id, sequence and partner stand."""
    found: list[int | None] = []
    for what in ("id", "sequence", "partner"):
        column = getattr(columns, what)
        if column is not None and column not in names:
            rows = " (null: rows are called by their numbers)" if what == "id" else ""
            raise InputError(
                f"{source}: there is no column {column!r}. The columns are {listed(names)}. {fasta}"
                f"Set columns.{what}=NAME{rows}."
            )
        if column is not None and list(names).count(column) > 1:
            raise InputError(f"{source}: the name {column!r} stands over several columns. Rename them.")
        found.append(None if column is None else list(names).index(column))
    return found


def _raw(cells: Sequence[str | None], row: int, place: str) -> Raw:
    id_, sequence, partner = cells
    return Raw(str(row) if id_ is None else id_, sequence, place, partner)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
