"""Delimited text as people's programs write it: encoding, delimiter and line ends are found from the text itself.

What is unmistakable is accepted and told; what is not ends with one message. Reads the first 50 records twice.
"""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from plmft import InputError
from plmft.data.records import AMINO_ACIDS

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
PROBED = 50  # records that must agree for a delimiter to be believed
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")  # what UTF-8 writes for one letter; in Windows-1252 an odd pair
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?(?:\r\n|\r|\n)', re.IGNORECASE)  # Excel's own first line
LINE_ENDS = {"\r\n": "CRLF", "\n": "LF", "\r": "CR"}
UNNAMED = re.compile(r"column \d+|Unnamed: \d+")
LISTED = 20  # columns that a message names
DATA_LENGTH = 20  # a header cell of so many amino acids is a sequence

Line = tuple[int, list[str]]


def decode(raw: bytes, path: Path) -> tuple[str, list[str]]:
    """Text, and notes on how it was read: UTF-8, UTF-16 by its byte order mark, else Windows-1252.

    Raises: InputError: binary, damaged, or a mixture of encodings.
    """
    notes = []
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = _decoded(raw, "utf-16", path)
        notes.append(f"{path.name}: read as UTF-16, by its byte order mark.")
    else:
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            text = _western(raw, error.start, path)
            line = raw[: error.start].count(b"\n") + 1
            found = next(word for word in text.split() if not word.isascii())
            notes.append(f"{path.name}: read as Windows-1252, for it is not UTF-8 (line {line}: {found[:40]!r}).")
        if raw.startswith(codecs.BOM_UTF8):
            notes.append(f"{path.name}: begins with a byte order mark, which was left out.")
    binary = CONTROL.search(text)
    if binary:
        raise InputError(f"{path}: not text (byte {ord(binary.group())} at {binary.start()}). Write CSV or FASTA.")
    ends = Counter(re.findall(r"\r\n|\n|\r", text))
    if len(ends) > 1:
        told = ", ".join(f"{LINE_ENDS[end]} {n:,}" for end, n in ends.most_common())
        notes.append(f"{path.name}: mixed line ends ({told}), each taken as one.")
    return text, notes


def _western(raw: bytes, at: int, path: Path) -> str:
    mixed = MULTIBYTE.search(raw)
    if mixed:
        lines = [raw[:byte].count(b"\n") + 1 for byte in (at, mixed.start())]
        raise InputError(
            f"{path}: not UTF-8 (line {lines[0]}), and not Windows-1252 either (line {lines[1]}). Save it as UTF-8."
        )
    return _decoded(raw, "cp1252", path)


def _decoded(raw: bytes, encoding: str, path: Path) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: byte {error.start} is no text. Save the file as UTF-8.") from None


def read_delimited(text: str, path: Path, notes: list[str]) -> tuple[list[str], list[Line], str]:
    """Column names, rows with the line that each begins on, and the delimiter; `notes` is added to.

    Raises: InputError: a row of other length than the header, a quote left open, columns of one name, no rows.
    """
    told = SEPARATOR_LINE.match(text)
    text = "\n" + text[told.end() :] if told else text
    delimiter = told[1] if told else _delimiter(text, path)
    usual = "\t" if ".tsv" in path.suffixes else ","
    if delimiter != usual:
        notes.append(f"{path.name}: columns are separated by {DELIMITERS.get(delimiter, repr(delimiter))}.")
    lines = _lines(text, delimiter, path)
    header = next(lines, None)
    if header is None:
        raise InputError(f"{path}: the file is empty.")
    columns = _names(header, path)
    rows, blank = [], 0
    for line, cells in lines:
        if len(cells) != len(columns):
            raise InputError(
                f"{path}, line {line}: {len(cells)} fields, but the header names {len(columns)}. Mend the row, or put "
                f"fields that hold a {DELIMITERS.get(delimiter, repr(delimiter))} in quotes."
            )
        if any(cells):
            rows.append((line, cells))
        else:
            blank += 1
    if not rows:
        raise InputError(f"{path}: a header, but no rows. The columns are {listed(columns)}.")
    if blank:
        notes.append(f"{path.name}: {blank:,} rows without any text were left out.")
    return columns, rows, delimiter


def _lines(text: str, delimiter: str, path: Path) -> Iterator[Line]:
    """Records with the line that each begins on; lines without text are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: {error}. Is a quote left open, or one inside a quoted field not doubled?"
            ) from None
        if cells and (len(cells) > 1 or cells[0].strip()):
            yield line, [cell.strip() for cell in cells]


def _delimiter(text: str, path: Path) -> str:
    """The one that parts the header and, if several do, gives every row the same number of fields."""
    widths = {d: _widths(text, d, path) for d in DELIMITERS}
    parting = [d for d, found in widths.items() if found and found[0] > 1]
    if len(parting) < 2:
        return parting[0] if parting else ","
    agreeing = [d for d in parting if len(set(widths[d])) == 1]
    if len(agreeing) == 1:
        return agreeing[0]
    if agreeing:
        raise InputError(
            f"{path}: {' and '.join(DELIMITERS[d] for d in agreeing)} both part it into columns. Put names and cells "
            "that hold one of them in quotes."
        )
    return max(parting, key=lambda d: widths[d][0])


def _widths(text: str, delimiter: str, path: Path) -> list[int]:
    found: list[int] = []
    try:
        for _, cells in _lines(text, delimiter, path):
            found.append(len(cells))
            if len(found) == PROBED:
                break
    except InputError:
        found.append(0)  # agrees with nothing
    return found


def _names(header: Line, path: Path) -> list[str]:
    line, cells = header
    for cell in cells:
        if len(cell) >= DATA_LENGTH and set(AMINO_ACIDS).issuperset(cell):
            raise InputError(
                f"{path}, line {line}: {cell[:10]}... is a sequence, but the first line must name the columns. "
                "Add a line such as sequence,target."
            )
    names = [cell or f"column {number}" for number, cell in enumerate(cells, 1)]
    check_unique(names, path)
    return names


def check_unique(names: Sequence[str], path: Path) -> None:
    """Raises: InputError: a column's name stands twice."""
    twice = next((name for name, n in Counter(names).items() if n > 1), None)
    if twice is not None:
        at = [str(i) for i, name in enumerate(names, 1) if name == twice][:2]
        raise InputError(f"{path}: the name {twice[:40]!r} stands over columns {' and '.join(at)}. Rename one.")


def listed(names: Sequence[str]) -> str:
    """Names for a message, not too many and none too long."""
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(name[:40] for name in names[:LISTED]) + more
