"""One file of the parts of a finished job, written a part at a time."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.embeddings.block import Block, Header
from plmft.embeddings.formats import FORMATS, checked
from plmft.inference.parts import told_differences, unknown

INPUT, CHUNK, SEQUENCES, REJECTED = "input_digest", "chunk", "sequences", "rejected"


def join(parts: Iterable[Path], file: Path, kind: str, header: Header) -> None:
    """Write `file` from the parts, in their order. Raises: OSError: no room. InputError: a damaged part."""
    FORMATS[kind].write(file, header, _blocks(parts, kind, header.layers))


def _blocks(parts: Iterable[Path], kind: str, layers: tuple[int, ...]) -> Iterator[Block]:
    for part in parts:
        yield checked(part, lambda path: FORMATS[kind].read(path, layers))


def finished(file: Path, kind: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a file that is there tells of itself; None: there is none.

    Raises: InputError: it holds something else, or was made otherwise.
    """
    if not file.exists():
        return None
    try:
        known = checked(file, FORMATS[kind].about)
    except InputError:
        raise unknown(file) from None
    differ = told_differences(known, {**known, **identity})
    if differ:
        raise InputError(
            f"{file} was made otherwise, and is not replaced ({differ}). Name another output, or remove it."
        )
    return known


def residues(part: Path, kind: str) -> int:
    """That a part holds."""
    return int(checked(part, lambda path: FORMATS[kind].read(path, ())).lengths.sum())
