"""A frozen backbone's vectors, computed once and kept on disk for later epochs, heads, seeds and runs.

One folder holds all sequences that were read in the same way: weights, architecture, tokenizer, layer, precision,
pooling and windows make its name. A sequence is found by the SHA-256 of its tokens, so another split, limit or task
that has it finds it, too. Costs one forward pass a sequence, and 2·D bytes a residue on disk.

Residues are kept in float16: an error of at most 2⁻¹¹ of a value (plus 2⁻²⁵). A sequence with a value beyond float16's
65,504 is kept in float32: clipped or infinite it would be another vector. Pooled vectors are small, and float32.
Files are written by one process each and never changed (`embedding_shards`), so runs may write at once.
"""

import errno
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from plmft import InputError
from plmft.data.packing import EncodedSplit, PackedBatch, cut
from plmft.data.whole_file import write_whole
from plmft.models.embedding import Embedder
from plmft.models.embedding_key import CacheKey
from plmft.models.embedding_shards import KEY_BYTES, SUFFIX, BrokenShard, Shard, ShardWriter, clear_parts, key_prefixes

SHARD_BYTES, SHARD_S = 256_000_000, 60.0  # a killed run loses what it computed in the last minute
SPARE_BYTES = 256_000_000  # of the disk, left free for what else a run writes
LARGEST_HALF = float(torch.finfo(torch.float16).max)
CHUNK = 256  # records that are packed at once to read their tokens


@dataclass(frozen=True)
class Sequences:
    """The sequences of a split: `keys` (S, 32) uint8, `tokens` (S,) int64 counts. Pairs stand side by side."""

    keys: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, split: EncodedSplit) -> "Sequences":
        """Reads all tokens once."""
        keys, tokens = [], []
        for begin in range(0, len(split), CHUNK):
            batch = split.pack(np.arange(begin, min(begin + CHUNK, len(split))))
            ids, start = batch.tokens.numpy().astype("<i2"), 0
            for length in batch.lengths:
                keys.append(hashlib.sha256(ids[start : start + length]).digest())
                start += length
            tokens.extend(batch.lengths)
        return cls(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES), np.array(tokens, dtype=np.int64))


@dataclass(frozen=True)
class Places:
    """Where each of S sequences lies: number of the shard or -1, first row, number of rows. (S,) int64 each."""

    shards: np.ndarray
    starts: np.ndarray
    rows: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """(S,) bool."""
        return self.shards < 0


class EmbeddingCache:
    """The vectors that one key names, in `root`/<digest>.

    Raises: OSError: the folder can't be made or written.
    """

    def __init__(self, root: Path, key: CacheKey) -> None:
        self.key, self.folder = key, root / key.digest[:32]
        self.broken = 0  # shards that were cut off or changed, and therefore removed
        self._shards: list[Shard] = []
        self._known: set[str] = set()
        self._make_folder()
        clear_parts(self.folder)
        self.refresh()

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "key.json"
        if not file.exists():
            write_whole(file, (json.dumps(asdict(self.key), indent=2) + "\n").encode())

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shard in self._shards)

    def refresh(self) -> None:
        """Look for shards that others have written. One that is broken is removed."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            try:
                self._shards.append(Shard(path))
            except BrokenShard:
                self._remove(path)
            except FileNotFoundError:  # another process has just removed it as broken
                continue

    def _remove(self, path: Path) -> None:
        self.broken += 1
        path.unlink(missing_ok=True)

    def find(self, sequences: Sequences) -> Places:
        """Where they lie. What is found was read once and is as it was written; a shard that isn't is removed."""
        count = len(sequences.keys)
        places = Places(np.full(count, -1), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64))
        for number, shard in enumerate(self._shards):
            open_ = np.flatnonzero(places.missing)
            if not len(open_):
                break
            found = shard.find(sequences.keys[open_])
            here, found = open_[found >= 0], found[found >= 0]
            if not shard.sound(found):
                self._remove(shard.path)
                shard.forget()
                continue
            places.shards[here] = number
            places.starts[here], places.rows[here] = shard.starts[found], shard.rows[found]
        return places

    def vectors(self, places: Places, numbers: np.ndarray) -> Tensor:
        """(rows, W) of these sequences, end to end. Raises: OSError: a shard can no longer be read."""
        shards = [self._shards[i] for i in places.shards[numbers]]
        ends = np.cumsum(places.rows[numbers])
        dtypes = {shard.dtype for shard in shards}
        found = np.empty((ends[-1], shards[0].width), max(dtypes, key=lambda dtype: dtype.itemsize))
        for shard, start, end, rows in zip(
            shards, places.starts[numbers].tolist(), ends.tolist(), places.rows[numbers].tolist(), strict=True
        ):
            into = found[end - rows : end]
            if shard.dtype == found.dtype:
                shard.read(start, into)
            else:  # one of the others has values beyond half precision
                narrow = np.empty(into.shape, shard.dtype)
                shard.read(start, narrow)
                into[:] = narrow
        return torch.from_numpy(found)

    def check_room(self, sequences: Iterable[Sequences], width: int, *, pooled: bool) -> None:
        """Raises: OSError: the vectors that these still lack, `width` numbers each, would fill the disk."""
        rows = 0
        for those in sequences:
            missing = self.find(those).missing
            rows += int(missing.sum() if pooled else those.tokens[missing].sum())
        needed, free = rows * width * np.dtype(self.key.stored).itemsize, shutil.disk_usage(self.folder).free
        if rows and needed + SPARE_BYTES > free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.3g} GB of them, and {free / 1e9:.3g} GB free in {self.folder}")

    def fill(
        self,
        split: EncodedSplit,
        sequences: Sequences,
        embedder: Embedder,
        *,
        tokens_per_batch: int,
        passed: Callable[[PackedBatch], None] = lambda batch: None,
        waiting: Callable[[], None] = lambda: None,
        rank: int = 0,
        world: int = 1,
    ) -> int:
        """Compute what is missing, longest first; returns how many sequences that were.

        Processes that share the work each take their part of the sequences, by key; all wait for one another after.
        Args: passed: called after each forward pass. waiting: called once where another run fills the same.
        Raises: OSError: no room, or the disk's fault; what was written before is kept. InputError: NaN.
        """
        if not self.find(sequences).missing.any():  # also where the folder is another's, and read-only
            return 0
        with self._turn(sequences, waiting) if rank == 0 else nullcontext():
            numbers = self._missing(sequences, rank, world)
            parts = len(sequences.keys) // max(1, len(split))
            with self._writing() as write:
                for part in cut(sequences.tokens[numbers], tokens_per_batch):
                    batch = _pack(split, numbers[part], parts)
                    vectors = embedder(batch).cpu()
                    _check_finite(vectors)
                    rows = 1 if embedder.pool is not None else list(batch.lengths)
                    for number, found in zip(numbers[part], vectors.split(rows), strict=True):
                        write(sequences.keys[number].tobytes(), found)
                    passed(batch)
        self.refresh()
        return len(numbers)

    def _missing(self, sequences: Sequences, rank: int, world: int) -> np.ndarray:
        """(M,) numbers of the sequences to compute, each once, longest first."""
        mine = key_prefixes(sequences.keys) % np.uint64(world) == rank
        open_ = np.flatnonzero(self.find(sequences).missing & mine)
        _, first = np.unique(sequences.keys[open_], axis=0, return_index=True)
        open_ = open_[np.sort(first)]
        return open_[np.argsort(-sequences.tokens[open_], kind="stable")]

    @contextmanager
    def _turn(self, sequences: Sequences, waiting: Callable[[], None]) -> Iterator[None]:
        """Two runs that start at once do not compute the same: the second waits, or goes on as soon as all is there."""
        with (self.folder / "filling.lock").open("a") as file:
            told = False
            while self.find(sequences).missing.any():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self.refresh()
                    break
                except BlockingIOError:
                    told = told or waiting() is None
                    time.sleep(0.5)
                    self.refresh()
                except OSError:  # a file system without locks: computing twice does no harm
                    break
            yield

    @contextmanager
    def _writing(self) -> Iterator[Callable[[bytes, Tensor], None]]:
        """A function that keeps one sequence's vectors. On a full disk, what is not yet a shard is given up."""
        writers: dict[np.dtype, tuple[ShardWriter, float]] = {}

        def write(key: bytes, vectors: Tensor) -> None:
            dtype = np.dtype(self.key.stored)
            if dtype == np.float16 and vectors.abs().amax() > LARGEST_HALF:
                dtype = np.dtype(np.float32)
            if dtype not in writers:
                writers[dtype] = ShardWriter(self.folder, vectors.shape[1], dtype), time.monotonic()
            writer, since = writers[dtype]
            writer.add(key, (vectors.half() if dtype == np.float16 else vectors).numpy())
            if writer.size > SHARD_BYTES or time.monotonic() - since > SHARD_S:
                writer.close()
                del writers[dtype]

        try:
            yield write
        except OSError:
            for writer, _ in writers.values():
                writer.discard()
            raise
        except BaseException:
            self._close(writers)  # interrupted: what is done is kept
            raise
        self._close(writers)

    @staticmethod
    def _close(writers: dict[np.dtype, tuple[ShardWriter, float]]) -> None:
        for writer, _ in writers.values():
            try:
                writer.close()
            except OSError:
                writer.discard()
                raise


def _pack(split: EncodedSplit, numbers: np.ndarray, parts: int) -> PackedBatch:
    """These sequences as a batch of their own; `parts` sequences make a record. Its targets mean nothing."""
    batch = split.pack(numbers // parts)
    if parts == 1:
        return batch
    lengths = np.array(batch.lengths)
    kept = np.arange(len(numbers)) * parts + numbers % parts
    starts, lengths = (np.cumsum(lengths) - lengths)[kept], lengths[kept]
    ends = np.cumsum(lengths)
    taken = torch.from_numpy(np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths))
    return replace(
        batch,
        tokens=batch.tokens[taken],
        positions=batch.positions[taken],
        is_residue=batch.is_residue[taken],
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        lengths=tuple(lengths.tolist()),
        specials=batch.specials // parts,
    )


def _check_finite(vectors: Tensor) -> None:
    if not torch.isfinite(vectors).all():
        raise InputError("The backbone gives NaN or infinity. Set hardware.precision=fp32, or check the weights.")
