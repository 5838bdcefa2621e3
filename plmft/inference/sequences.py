"""Sequences from a file or a pipe, one at a time, in order: FASTA, CSV, TSV or Parquet, known by the content.

What is wrong with the file as a whole ends with one message; what is wrong with one sequence is handed on as Rejected,
and the next one follows. Holds one sequence and 8 bytes an id, however long the file is. About 5 µs a sequence.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from plmft import InputError
from plmft.data.records import LETTERS
from plmft.inference.opening import PARQUET, STDIN, Position, name_of, open_bytes, text_lines
from plmft.inference.seen import Seen

LONGEST = 1_000_000  # residues; what is longer is a genome, not a protein
HINTS = {
    "*": "it marks a stop: leave it out",
    "-": "it marks a gap: give the sequence without the alignment's gaps",
    ".": "it marks a gap: give the sequence without the alignment's gaps",
}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table. `id` None: rows are called by their number. `partner` None: there is none."""

    id: str | None = "id"
    sequence: str = "sequence"
    partner: str | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """A sequence that a model can take. `number` is its 0-based position in the input, rejected ones counted."""

    number: int
    id: str
    sequence: str
    partner: str = ""  # of a pair


@dataclass(frozen=True, slots=True)
class Rejected:
    """A sequence that no model can take, with its place ("proteins.fasta, line 12") and why."""

    number: int
    id: str
    place: str
    reason: str


@dataclass(frozen=True, slots=True)
class Raw:
    """An entry as it stands in the file, not checked. A text is None where a cell is empty."""

    id: str | None
    sequence: str | None
    place: str
    partner: str | None = ""


def read_sequences(
    source: str,
    *,
    columns: Columns = Columns(),
    refuse: Callable[[str], str | None] | None = None,
    position: Position | None = None,
) -> Iterator[Given | Rejected]:
    """Every entry of the source, in order. The first one is read at once, so that most mistakes are told early.

    Args:
        source: a path, or "-" for standard input; may be packed by gzip, bzip2, xz or zstd.
        columns: of a table; a FASTA has none.
        refuse: why a model can't take a sequence of known letters (see too_long), or None if it can.
        position: is kept at where the reader is in the file.
    Raises: InputError: no such file, a pipe by its name, empty, damaged or cut short, no text, a column that is not
        there, a row of other length than the header, FASTA where pairs are wanted. What is wrong further down is told
        when the iterator gets there.
    """
    entries, seen = _entries(source, columns, position), Seen()
    first = next(entries)  # there is one, or an error
    return (_checked(n, raw, columns, seen, refuse) for n, raw in enumerate(itertools.chain([first], entries)))


def too_long(context: int | None, model: str, way_out: str = "") -> Callable[[str], str | None]:
    """For `refuse`: sequences of more residues than the model's context. None: any length will do."""

    def refuse(sequence: str) -> str | None:
        if context is None or len(sequence) <= context:
            return None
        return f"{len(sequence)} residues; {model} takes {context}{way_out}"

    return refuse


def _entries(source: str, columns: Columns, position: Position | None) -> Iterator[Raw]:
    from plmft.inference.tables import parquet_entries, table_entries

    stream, first = open_bytes(source, position)
    if first.startswith(PARQUET):
        if source == STDIN:
            raise InputError("Parquet can't be read from standard input, for it is read from its end. Name the file.")
        yield from parquet_entries(source, stream, columns)
        return
    from plmft.inference.streamed_fasta import fasta_entries

    lines = text_lines(source, stream, first)
    name = name_of(source)
    line, row = next(((line, row) for line, row in lines if row.strip()), (0, ""))
    if not line:
        raise InputError(f"{name}: nothing but empty lines. Give FASTA, CSV, TSV or Parquet.")
    if row.startswith(">"):
        if columns.partner is not None:
            raise _no_pairs(name, columns)
        yield from fasta_entries(name, line, row, lines)
    else:
        yield from table_entries(name, line, row, lines, columns)


def _no_pairs(name: str, columns: Columns) -> InputError:
    wanted = ", ".join(name for name in (columns.id, columns.sequence) if name is not None)
    return InputError(
        f"{name}: the model takes pairs, and FASTA holds none. Give CSV, TSV or Parquet with the columns {wanted} and "
        f"{columns.partner}, or name others by columns.id, columns.sequence and columns.partner."
    )


def _checked(
    number: int, raw: Raw, columns: Columns, seen: Seen, refuse: Callable[[str], str | None] | None
) -> Given | Rejected:
    id_ = raw.id or ""
    reason = _wrong_id(raw.id) or _wrong_sequence(raw.sequence, "sequence", refuse)
    if not reason and columns.partner is not None:
        reason = _wrong_sequence(raw.partner, "partner", refuse)
    if not reason and seen.add(id_):  # an id counts as used only where its sequence was taken
        reason = "the id stands before in the input; ids must be unique"
    if reason:
        return Rejected(number, _printable(id_), raw.place, reason)
    return Given(number, id_, raw.sequence or "", raw.partner or "")


def _wrong_id(text: str | None) -> str | None:
    if not text:
        return "it has no id"
    if _printable(text) != text:
        return "its id is not UTF-8 text"
    return None


def _wrong_sequence(text: str | None, what: str, refuse: Callable[[str], str | None] | None) -> str | None:
    if not text:
        return f"the {what} is empty"
    if len(text) > LONGEST:
        return f"more than {LONGEST:,} residues: no protein is that long"
    if not LETTERS.issuperset(text):
        at, letter = next((at, letter) for at, letter in enumerate(text, 1) if letter not in LETTERS)
        hint = HINTS.get(letter) or ("write sequences in upper case" if letter.upper() in LETTERS else "")
        told = f"{_printable(letter)!r} at position {at} of the {what} is no amino acid"
        return f"{told}; {hint}" if hint else told
    return refuse(text) if refuse is not None else None


def _printable(text: str) -> str:
    """Bytes that are no UTF-8 as \\x.. ."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
