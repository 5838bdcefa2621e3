"""Files of the embedding cache: each is written once, by one process, and never changed.

A shard is a safetensors file: `vectors` (rows, W), and for each sequence its `keys` (S, 32), number of `rows` (S,) and
CRC-32 `checks` (S,). It is written under another name and moved to its own when it is whole and on the disk, so a kill
or a full disk leaves no half of one. Rows are read at their offset into the caller's memory, not mapped: mapped pages
would count in the process's peak memory, and a file that is cut off behind its back would kill it (SIGBUS).
"""

import contextlib
import errno
import fcntl
import json
import os
import time
import uuid
import zlib
from pathlib import Path

import numpy as np

KEY_BYTES = 32  # SHA-256
HEADER_BYTES = 1024  # length and header, filled up with blanks; vectors begin here
SUFFIX, PART = ".safetensors", ".part"
YOUNG_S = 60.0  # a part so new may not have its writer's lock yet
NAMES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32"}


class BrokenShard(Exception):
    """A shard that is cut off or was changed."""


class ShardWriter:
    """Writes one shard of vectors of one width and type.

    Raises: OSError: no room, or no right to write; then `discard`.
    """

    def __init__(self, folder: Path, width: int, dtype: np.dtype) -> None:
        self._path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
        self._part = self._path.with_suffix(PART)
        self._width, self._dtype = width, np.dtype(dtype)
        self._keys: list[bytes] = []
        self._rows: list[int] = []
        self._checks: list[int] = []
        self._file = self._part.open("w+b")
        with contextlib.suppress(OSError):  # some network disks have no locks; nor does `clear_parts` get one there
            fcntl.flock(self._file, fcntl.LOCK_EX)  # held while this process lives: `clear_parts` leaves it alone
        self._file.write(bytes(HEADER_BYTES))

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def add(self, key: bytes, vectors: np.ndarray) -> None:
        """vectors: (rows, W)."""
        data = np.ascontiguousarray(vectors, dtype=self._dtype)
        self._file.write(data)
        self._keys.append(key)
        self._rows.append(len(data))
        self._checks.append(zlib.crc32(data))

    def close(self) -> None:
        """Make it a shard that others see."""
        index = {
            "keys": np.frombuffer(b"".join(self._keys), np.uint8).reshape(-1, KEY_BYTES),
            "rows": np.array(self._rows, dtype="<i8"),
            "checks": np.array(self._checks, dtype="<i8"),
        }
        size = self._file.tell() - HEADER_BYTES
        header = {
            "__metadata__": {"index_crc32": str(_crc(index))},
            "vectors": _entry(NAMES[self._dtype], [sum(self._rows), self._width], 0, size),
        }
        for name, array in index.items():
            header[name] = _entry("U8" if name == "keys" else "I64", array.shape, size, size + array.nbytes)
            self._file.write(array)
            size += array.nbytes
        text = json.dumps(header).encode().ljust(HEADER_BYTES - 8)
        self._file.seek(0)
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._part, self._path)
        self._file.close()

    def discard(self) -> None:
        """Remove what was written."""
        self._part.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what a full disk did not take
            self._file.close()


class Shard:
    """One shard, open for reading.

    Args: path: its file; the file may be unlinked while it is read.
    Attributes:
        dtype, width: of its vectors. keys: (S, 32) uint8. rows, starts: (S,) int64, how many and where the first is.
        size: bytes of the file.
    Raises: BrokenShard. OSError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._read_index()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenShard(f"{path}: {error}") from None

    def _read_index(self) -> None:
        length = int.from_bytes(self._file.read(8), "little")
        if length != HEADER_BYTES - 8:
            raise ValueError("no header")
        header = json.loads(self._file.read(length))
        vectors = header["vectors"]
        self.dtype = next(dtype for dtype, name in NAMES.items() if name == vectors["dtype"])
        self.width = int(vectors["shape"][1])
        self.size = HEADER_BYTES + max(entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__")
        if os.fstat(self._file.fileno()).st_size != self.size:
            raise ValueError("cut off")
        index = {}
        for name, dtype in (("keys", np.uint8), ("rows", "<i8"), ("checks", "<i8")):
            begin, end = header[name]["data_offsets"]
            self._file.seek(HEADER_BYTES + begin)
            index[name] = np.frombuffer(self._file.read(end - begin), dtype).reshape(header[name]["shape"])
        if str(_crc(index)) != header["__metadata__"]["index_crc32"]:
            raise ValueError("its index was changed")
        self.keys, self.rows, self._checks = index["keys"], index["rows"], index["checks"]
        self.starts = np.cumsum(self.rows) - self.rows
        self._sound = np.zeros(len(self.rows), dtype=bool)
        prefixes = key_prefixes(self.keys)
        self._order = np.argsort(prefixes, kind="stable")
        self._sorted = prefixes[self._order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """(K,) int64: the number of each sequence here, -1 where it is not. keys: (K, 32) uint8."""
        if not len(self._sorted):
            return np.full(len(keys), -1)
        at = np.searchsorted(self._sorted, key_prefixes(keys)).clip(max=len(self._sorted) - 1)
        numbers = self._order[at]
        return np.where((self.keys[numbers] == keys).all(1), numbers, -1)

    def sound(self, numbers: np.ndarray) -> bool:
        """True if the vectors of these sequences are as they were written. Reads each of them once."""
        for number in np.unique(numbers[~self._sound[numbers]]):
            found = np.empty((self.rows[number], self.width), self.dtype)
            try:
                self.read(int(self.starts[number]), found)
            except OSError:
                return False
            if zlib.crc32(found) != self._checks[number]:
                return False
            self._sound[number] = True
        return True

    def read(self, start: int, into: np.ndarray) -> None:
        """Fill (rows, W) of this shard's type with the rows from `start` on. Raises: OSError: cut off, unreadable."""
        where = HEADER_BYTES + start * self.width * self.dtype.itemsize
        if os.preadv(self._file.fileno(), [into], where) != into.nbytes:  # a file on a disk is never read by halves
            raise OSError(errno.EIO, f"{self.path} was cut off while it was read")

    def forget(self) -> None:
        """Find nothing here any more; what was found before can still be read."""
        self._sorted = self._sorted[:0]


def clear_parts(folder: Path) -> None:
    """Remove what writers that were killed have left: their files' locks ended with them."""
    for part in folder.glob(f"*{PART}"):
        try:
            with part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(file.fileno()).st_mtime > YOUNG_S:
                    part.unlink(missing_ok=True)
        except OSError:  # its writer lives, or another process was faster
            continue


def key_prefixes(keys: np.ndarray) -> np.ndarray:
    """(K,) uint64, the first 8 bytes: enough to sort by. keys: (K, 32) uint8."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64)[:, 0]


def _entry(dtype: str, shape: tuple[int, ...] | list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _crc(index: dict[str, np.ndarray]) -> int:
    total = 0
    for array in index.values():
        total = zlib.crc32(array, total)
    return total
