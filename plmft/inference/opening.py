"""A file or standard input as lines of text, unpacked on the way: gzip, bzip2, xz and zstd are known by their first
bytes, whatever the file is called. Holds one buffer, however large the file is.
"""

import bz2
import gzip
import io
import lzma
import os
import sys
import weakref
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from plmft import InputError

STDIN = "-"
BUFFER = 1 << 18
PROBED = 1 << 12  # bytes that are looked at to know what a file is
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PARQUET = b"PAR1"
OTHERS = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF",
    b"ARROW1": "an Arrow file",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)  # what the unpackers raise


class Damaged(InputError):
    """The bytes end or break within the file."""


def name_of(source: str) -> str:
    """How messages call the source."""
    return "standard input" if source == STDIN else source


class Position:
    """How far a reader is in its file. May be asked by another thread than the reader's."""

    def __init__(self) -> None:
        self._handle: int | None = None
        self._size = 0

    def of(self, file: io.BufferedReader) -> None:
        """From now on of this one."""
        try:
            self._size = os.fstat(file.fileno()).st_size if file.seekable() else 0
        except OSError:  # what stands for standard input in a notebook has no file
            self._size = 0
        if self._size:
            self._handle = os.dup(file.fileno())  # shares the place in the file, and outlives the reader's
            weakref.finalize(self, os.close, self._handle)

    @property
    def share(self) -> float | None:
        """In [0, 1]; None: not known, as of a pipe."""
        if self._handle is None or not self._size:
            return None
        return min(1.0, os.lseek(self._handle, 0, os.SEEK_CUR) / self._size)


def open_bytes(source: str, position: Position | None = None) -> tuple[IO[bytes], bytes]:
    """The unpacked bytes from the start on, and the first few of them.

    Args: position: is told the file.
    Raises: InputError: no such file, a folder, a pipe other than standard input, no right to read it, a damaged or
        empty file.
    """
    packed = _opened(source)
    if position is not None:
        position.of(packed)
    try:
        kind = next((kind for magic, kind in PACKED.items() if packed.peek(8).startswith(magic)), None)
        stream = packed if kind is None else _unpacked(packed, kind)
        first = stream.peek(PROBED)[:PROBED]
    except DAMAGED as error:
        raise damaged(source, 1, error) from None
    if not first:
        raise InputError(f"{name_of(source)}: the file is empty. Give FASTA, CSV, TSV or Parquet.")
    return stream, first


def damaged(source: str, line: int, error: BaseException) -> Damaged:
    """The message for bytes that end or break within the file."""
    told = str(error) or type(error).__name__
    return Damaged(f"{name_of(source)}: damaged or cut short near line {line:,} ({told}). Get the file again.")


def text_lines(source: str, stream: IO[bytes], first: bytes) -> Iterator[tuple[int, str]]:
    """Lines with their numbers from 1, line ends kept. UTF-8, or UTF-16 with a byte order mark; a byte that is no text
    becomes a lone surrogate, which no id and no sequence may hold.

    Raises: InputError: not text; damaged or cut short.
    """
    what = next((what for magic, what in OTHERS.items() if first.startswith(magic)), None)
    wide = first.startswith(UTF16)
    if what or (b"\0" in first and not wide):
        raise InputError(f"{name_of(source)}: {what or 'not text'}. Give FASTA, CSV, TSV or Parquet.")
    encoding = "utf-16" if wide else "utf-8-sig"
    lines = io.TextIOWrapper(stream, encoding, "replace" if wide else "surrogateescape", newline="")
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            yield number, line
    except DAMAGED as error:
        raise damaged(source, number + 1, error) from None


def _opened(source: str) -> io.BufferedReader:
    if source == STDIN:
        return _standard_input()
    path = Path(source).expanduser()
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # to open it may wait
        raise InputError(f"{source}: a pipe or a device, which can be read once. Give it as standard input: input=-.")
    try:
        return path.open("rb", buffering=BUFFER)
    except IsADirectoryError:
        raise InputError(
            f"{source}: a folder. Name one file; `cat {source}/*.fasta | ... input=-` joins them."
        ) from None
    except FileNotFoundError:
        raise InputError(f"{source}: there is no such file. Write - for standard input.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: can't be read ({getattr(error, 'strerror', None) or error}).") from None


def _standard_input() -> io.BufferedReader:
    """Not sys.stdin, which Python closes when it ends: it aborts if a thread waits for that one to say something."""
    try:
        return open(sys.stdin.fileno(), "rb", buffering=BUFFER, closefd=False)
    except (OSError, ValueError):  # what stands for standard input in a notebook has no file
        return sys.stdin.buffer  # type: ignore[return-value]


def _unpacked(packed: io.BufferedReader, kind: str) -> IO[bytes]:
    if kind == "zstd":
        import pyarrow

        unpacked = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd")
        return io.BufferedReader(unpacked, BUFFER)
    openers = {"gzip": gzip.GzipFile, "bzip2": bz2.BZ2File, "xz": lzma.LZMAFile}
    return openers[kind](fileobj=packed) if kind == "gzip" else openers[kind](packed)
