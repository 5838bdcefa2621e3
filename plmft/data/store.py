"""Named arrays in one file: written once, checked when it is opened, then read a stretch at a time.

The format is safetensors, so other programs read the files, too. Opening reads a file through once for its checksums
(about 1 s a GB, from the disk's cache); after that a stretch takes 1 µs. Offsets and counts are memory-mapped; rows are
read in: of a map the kernel counts up to 2 MB around each place that is touched as the process's memory
(Linux 6.18, ext4), and memory is to stay flat in the data's size.
"""

import errno
import json
import math
import mmap
import os
import secrets
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from plmft import InputError

Shapes = Mapping[str, tuple[np.dtype, tuple[int, ...]]]
Chunk = Mapping[str, np.ndarray]

CODES = {
    **{"BOOL": "?", "U8": "u1", "U16": "<u2", "U32": "<u4", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"},
    **{"F16": "<f2", "F32": "<f4", "F64": "<f8"},
}
NAMES = {np.dtype(code): name for name, code in CODES.items()}
BLOCK = 1 << 20  # bytes that are read at a time
LEFT_BEHIND_S = 86400.0  # the age from which an unfinished file has lost its writer


class StoredArrays(Mapping[str, np.ndarray]):
    """The arrays of a file, read-only, each a view of its mapped pages; `take` reads without mapping.

    Args:
        file: open for reading; it may be closed, renamed or removed afterwards.
    Raises: ValueError: the file is cut short, or was not written by write_arrays.
    """

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._sums, self._places = _read_header(file)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"no header ({error})") from error
        self._file, self._name = os.dup(file.fileno()), file.name
        weakref.finalize(self, os.close, self._file)
        self._arrays = {
            name: np.frombuffer(mapped, dtype, math.prod(shape), offset).reshape(shape)
            for name, (dtype, shape, offset) in self._places.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def take(self, name: str, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """The rows from each start up to its stop, end to end, as a new array; starts, stops: (N,) int64.

        Raises: OSError: the file can't be read any more.
        """
        dtype, (_, *width), offset = self._places[name]
        rows = np.empty((int((stops - starts).sum()), *width), dtype)
        if not rows.size:
            return rows
        view, size, at = memoryview(rows).cast("B"), dtype.itemsize * math.prod(width), 0
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            end = at + (stop - start) * size
            if os.preadv(self._file, [view[at:end]], offset + start * size) != end - at:
                raise OSError(errno.EIO, "cut short while it was read", str(self._name))
            at = end
        return rows

    def check(self) -> None:
        """Raises: ValueError: an array is not what was written."""
        for name, (dtype, shape, offset) in self._places.items():
            end, found = offset + dtype.itemsize * math.prod(shape), 0
            while block := os.pread(self._file, min(end - offset, BLOCK), offset):
                found, offset = zlib.crc32(block, found), offset + len(block)
            if found != self._sums[name]:
                raise ValueError(f"array {name} is damaged")


class HeldArrays(dict[str, np.ndarray]):
    """The same in memory."""

    def take(self, name: str, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """The rows from each start up to its stop, end to end, as a new array; starts, stops: (N,) int64."""
        column = self[name]
        return np.concatenate([column[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)])


def write_arrays(file: BinaryIO, shapes: Shapes, chunks: Iterable[Chunk]) -> None:
    """Write arrays of known shapes, of which each chunk brings the next rows.

    Raises: OSError: no room. ValueError: the chunks don't fill the shapes.
    """
    shapes = dict(sorted(shapes.items(), key=lambda item: -item[1][0].itemsize))  # so that each is aligned
    sums, starts = dict.fromkeys(shapes, 0), {}
    at = len(_header(shapes, sums))
    for name, (dtype, shape) in shapes.items():
        starts[name] = at
        at += dtype.itemsize * math.prod(shape)
    places = dict(starts)
    for chunk in chunks:
        for name, rows in chunk.items():
            data = np.ascontiguousarray(rows, shapes[name][0]).reshape(-1).view(np.uint8)
            sums[name] = zlib.crc32(data, sums[name])
            file.seek(places[name])
            file.write(data)  # not through a map: a full disk would be a signal there, not an error
            places[name] += len(data)
    if list(places.values()) != [*list(starts.values())[1:], at]:
        raise ValueError(f"the chunks end at {places}, but the arrays begin at {starts} and end at {at}")
    file.seek(0)
    file.write(_header(shapes, sums))
    file.flush()


def collect_arrays(shapes: Shapes, chunks: Iterable[Chunk]) -> HeldArrays:
    """The same arrays in memory."""
    arrays = HeldArrays({name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()})
    places = dict.fromkeys(shapes, 0)
    for chunk in chunks:
        for name, rows in chunk.items():
            arrays[name][places[name] : places[name] + len(rows)] = rows
            places[name] += len(rows)
    return arrays


def cached_arrays(folder: Path, key: str, shapes: Shapes, chunks: Iterable[Chunk]) -> StoredArrays:
    """The arrays of this key, written first where they are missing or damaged.

    Any number of processes may ask at once: each writes a file of its own and puts it in place whole.
    Raises: InputError: the folder can't be written, or the disk is full. A run whose tokens find no room has none for
        its checkpoints either, so it ends here rather than go on with everything in memory.
    """
    path = folder / f"{key}.safetensors"
    part = folder / f".{key}-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        if (found := _opened(path)) is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(folder)
        try:
            with open(part, "xb") as file:
                write_arrays(file, shapes, chunks)
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        if (found := _opened(path)) is None:
            raise InputError(f"{path}: what was just written can't be read again. Check the disk.")
        return found
    except OSError as error:
        raise no_room(folder, shapes, error) from error


def no_room(folder: Path, shapes: Shapes, error: OSError) -> InputError:
    """What to tell where arrays can't be written."""
    size = sum(dtype.itemsize * math.prod(shape) for dtype, shape in shapes.values())
    return InputError(
        f"{folder}: can't keep {size / 1e6:.3g} MB of data there ({error.strerror or error}). Make room or mend its "
        "permissions, or set PLMFT_RUNS to another folder."
    )


def _opened(path: Path) -> StoredArrays | None:
    """The arrays of a file, or None if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            arrays = StoredArrays(file)
        arrays.check()
        return arrays
    except (FileNotFoundError, ValueError):
        return None


def _remove_left_behind(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        try:
            if time.time() - part.stat().st_mtime > LEFT_BEHIND_S:
                part.unlink()
        except FileNotFoundError:  # its writer has ended, or another process removes it
            pass


def _header(shapes: Shapes, sums: Mapping[str, int]) -> bytes:
    """Of one length for any sums, so that it can be written last."""
    described: dict[str, object] = {"__metadata__": {name: f"{value:08x}" for name, value in sums.items()}}
    at = 0
    for name, (dtype, shape) in shapes.items():
        end = at + dtype.itemsize * math.prod(shape)
        described[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _read_header(file: BinaryIO) -> tuple[dict[str, int], dict[str, tuple[np.dtype, tuple[int, ...], int]]]:
    """Checksums, and dtype, shape and place of each array. Raises: ValueError, KeyError, TypeError: it is no header."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= size - 8:
        raise ValueError(f"{size} bytes don't hold a header of {length}")
    described = json.loads(file.read(length))
    sums = {name: int(value, 16) for name, value in described.pop("__metadata__").items()}
    places, end = {}, 8 + length
    for name, array in described.items():
        dtype, shape = np.dtype(CODES[array["dtype"]]), tuple(array["shape"])
        places[name] = (dtype, shape, 8 + length + array["data_offsets"][0])
        end = max(end, 8 + length + array["data_offsets"][1])
    if end != size or sums.keys() != places.keys():
        raise ValueError(f"{size} bytes, not {end}, or arrays without a checksum")
    return sums, places
