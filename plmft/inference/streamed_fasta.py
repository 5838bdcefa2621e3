"""FASTA as a stream of entries: the first word of a header is the id, the lines below are the sequence.

Like plmft.data.fasta, which reads a whole text and ends at the first offence; here an entry without id or sequence is
one that is rejected, and the next one follows.
"""

from collections.abc import Iterator

from plmft.inference.sequences import LONGEST, Raw


def fasta_entries(name: str, line: int, header: str, lines: Iterator[tuple[int, str]]) -> Iterator[Raw]:
    """Entries in order. Of a sequence beyond LONGEST residues only so many are held that it is known to be too long.

    Args: name: of the source, for messages. line, header: the first one. lines: those that follow it.
    """
    parts: list[str] = []
    held = 0
    for number, row in lines:
        if row.startswith(">"):
            yield _entry(name, line, header, parts)
            header, line, parts, held = row, number, [], 0
        elif held <= LONGEST:
            residues = "".join(row.split())
            parts.append(residues)
            held += len(residues)
    yield _entry(name, line, header, parts)


def _entry(name: str, line: int, header: str, parts: list[str]) -> Raw:
    words = header[1:].split(maxsplit=1)
    return Raw(words[0] if words else None, "".join(parts), f"{name}, line {line}")
