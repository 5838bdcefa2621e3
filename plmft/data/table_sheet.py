"""A user's file as a sheet of text cells, whatever its format: CSV, TSV, Parquet or FASTA, gzipped or not.

All that follows (columns, values, splits) reads cells and need not know the format. Costs the file's text in memory.
"""

import codecs
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from plmft import InputError
from plmft.data.source import read_bytes
from plmft.data.table_text import check_unique, read_delimited

FORMATS = "CSV, TSV, Parquet or FASTA, plain or gzipped"
FOREIGN = {  # first bytes of files that people take for tables
    b"PK\x03\x04": "is an Excel workbook or a zip file. Save the sheet as CSV (UTF-8), or unzip it",
    b"\xd0\xcf\x11\xe0": "is an Excel workbook. Save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "is gzipped. Let its name end in .gz",
}


Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Row:
    """Cells in the order of the columns; `where` names the file and the line that the row begins on."""

    where: str
    number: int  # from 1, as ids are made of
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """Rows of text cells.

    Args:
        columns: names, no two equal.
        notes: what was decided on reading, a line each.
        delimiter: of a delimited text, else empty.
        fasta: the columns are id, sequence and then the keys of the headers.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    notes: tuple[str, ...] = ()
    delimiter: str = ""
    fasta: bool = False

    def cells(self, column: str) -> list[str]:
        """A column's cells, top to bottom."""
        at = self.columns.index(column)
        return [row.cells[at] for row in self.rows]


def delimited_sheet(text: str, path: Path, notes: list[str]) -> Sheet:
    """Raises: InputError: as read_delimited."""
    columns, rows, delimiter = read_delimited(text, path, notes)
    numbered = [Row(f"{path}, line {line}", n, tuple(cells)) for n, (line, cells) in enumerate(rows, 1)]
    return Sheet(path, tuple(columns), numbered, tuple(notes), delimiter)


def load(path: Path) -> bytes:
    """Raises: InputError: no such file, a folder, empty, or of a format that is no table; and as read_bytes."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.is_file())[:5]
        raise InputError(f"{path} is a folder. Name a file in it{': ' + ', '.join(inside) if inside else ''}.")
    if not path.exists():
        raise InputError(f"{path}: no such file (looked for at {path.absolute()}). Name a {FORMATS} file.")
    raw = read_bytes(path)
    for magic, told in FOREIGN.items():
        if raw.startswith(magic):
            raise InputError(f"{path} {told}. What can be read: {FORMATS}.")
    if raw.lstrip()[:1] in (b"[", b"{"):
        raise InputError(f"{path} is JSON. Write it as CSV. What can be read: {FORMATS}.")
    if not raw.removeprefix(codecs.BOM_UTF8).strip():
        raise InputError(f"{path}: the file is empty.")
    return raw


def parquet_sheet(raw: bytes, path: Path) -> Sheet:
    """Empty cells for null and NaN. Raises: InputError: damaged, no rows, or a column of lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(raw))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: the Parquet file is damaged ({str(error).splitlines()[0]}). Get it again.") from None
    names = table.column_names
    check_unique(names, path)
    if not table.num_rows:
        raise InputError(f"{path}: no rows.")
    columns = [_texts(path, name, table.column(name).to_pylist()) for name in names]
    rows = [Row(f"{path}, row {n}", n, cells) for n, cells in enumerate(zip(*columns, strict=True), 1)]
    return Sheet(path, tuple(names), rows)


def _texts(path: Path, name: str, values: Sequence[Any]) -> list[str]:
    for number, value in enumerate(values, 1):
        if isinstance(value, list | dict | bytes):
            raise InputError(f"{path}, row {number}: column {name!r} holds {type(value).__name__} values. Write text.")
    return ["" if v is None or (isinstance(v, float) and math.isnan(v)) else str(v).strip() for v in values]


def by_id(items: Iterable[tuple[str, str, Found]], remedy: str = "Ids must be unique.") -> dict[str, Found]:
    """From (id, where, value). Raises: InputError: an id twice."""
    found: dict[str, Found] = {}
    first: dict[str, str] = {}
    for id_, where, value in items:
        if id_ in found:
            raise InputError(f"{where}: id {id_!r} was used before, in {first[id_]}. {remedy}")
        found[id_], first[id_] = value, where
    return found
