"""FASTA, with `KEY=VALUE` words in the header as FLIP and biotrainer write them. Costs one pass over the text."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from plmft import InputError

ATTRIBUTE = re.compile(r"(\w+)=(\S*)")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the first word of the header, its `KEY=VALUE` words with keys in upper case, and the text below."""

    id: str
    attributes: dict[str, str]
    text: str
    where: str  # file and line of the header


def read_fasta(text: str, name: str) -> Iterator[Entry]:
    """Entries in order; white space within a sequence and lines without text are left out.

    Args: name: of the file, for messages.
    Raises: InputError: text before the first header, a header without an id, an entry without text, no entry at all.
    """
    header, line, parts = "", 0, []
    for number, row in enumerate(text.splitlines(), 1):
        if row.startswith(">"):
            if line:
                yield _entry(header, parts, f"{name}, line {line}")
            header, line, parts = row[1:], number, []
        elif row.strip():
            if not line:
                raise InputError(f"{name}, line {number}: {row.strip()[:40]!r} stands before the first header ('>').")
            parts.append("".join(row.split()))
    if not line:
        raise InputError(f"{name}: no entry. A FASTA file has headers that begin with '>'.")
    yield _entry(header, parts, f"{name}, line {line}")


def _entry(header: str, parts: list[str], where: str) -> Entry:
    words = header.split()
    if not words:
        raise InputError(f"{where}: the header has no id. Write one after '>'.")
    if not parts:
        raise InputError(f"{where}: {words[0]!r} has no sequence below its header.")
    return Entry(words[0], {key.upper(): value for key, value in ATTRIBUTE.findall(header)}, "".join(parts), where)
