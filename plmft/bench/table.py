"""Rows as a table on the console: what all share is told once above, reasons once below."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plmft.bench.protocol import Row

if TYPE_CHECKING:
    from rich.console import Console

NOTE = "note"
WIDTH_OF_FILES = 300
MOST_DIGITS = 6  # behind the point; smaller figures have an exponent


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All names in the order of their first appearance, conditions (no floats) before figures, the note last."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != NOTE))
    measured = {name for name in names if is_measured(rows, name)}
    ordered = [*(n for n in names if n not in measured), *(n for n in names if n in measured)]
    return ordered + [NOTE] * any(NOTE in row for row in rows)


def is_measured(rows: Sequence[Row], name: str) -> bool:
    """Whether a column has figures, which are floats, or conditions."""
    return any(isinstance(row.get(name), float) for row in rows)


def show(console: "Console", title: str, rows: Sequence[Row], shows: Sequence[str] = ()) -> None:
    """Print the rows. shows: the measured columns to show; empty: all."""
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    names = [name for name in columns_of(rows) if name != NOTE]
    same = {name for name in names if not is_measured(rows, name) and len({str(row.get(name)) for row in rows}) == 1}
    if len(rows) == 1:
        same -= {names[0]}
    common = ", ".join(f"{name} {rows[0][name]}" for name in names if name in same)
    kept = [n for n in names if n not in same and (not shows or n in shows or not is_measured(rows, n))]
    reasons = list(dict.fromkeys(reason for row in rows for reason in _reasons(row)))
    table = Table()
    for name in kept:
        table.add_column(name, justify="right" if is_measured(rows, name) else "left", overflow="fold")
    if reasons:
        table.add_column("note", justify="right")
    for row in rows:
        cells = [_cell(row.get(name)) for name in kept]
        numbers = ", ".join(str(reasons.index(reason) + 1) for reason in _reasons(row))
        table.add_row(*cells, *[numbers] * bool(reasons))
    wide = console if console.is_terminal else Console(file=console.file, width=WIDTH_OF_FILES)
    console.print(f"\n{title}", highlight=False, soft_wrap=True, markup=False)
    wide.print(table)
    if common:
        console.print(f"All rows: {common}", highlight=False, soft_wrap=True, markup=False)
    for number, reason in enumerate(reasons, 1):
        console.print(f"Note {number}: {reason}", highlight=False, soft_wrap=True, markup=False)


def one_reason(text: str) -> str:
    """A text that is a single part of a note, whatever marks it has."""
    return text.replace("; ", ", ")


def _reasons(row: Row) -> list[str]:
    """A note's parts: several reasons are joined by `; `."""
    return str(row[NOTE]).split("; ") if NOTE in row else []


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if value.is_integer():  # a count
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, digits)}f}" if digits <= MOST_DIGITS else f"{value:.3g}"
