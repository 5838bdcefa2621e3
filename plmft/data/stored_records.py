"""Records on disk, made again one by one as they are asked for, so that a run's memory does not grow with its data.

As Python objects a record takes some 700 bytes beside its sequence and target; to make it again takes 3 µs. The files
have no names: they go when the process does, however that ends.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np

from plmft.data.records import DataSet, Record
from plmft.data.store import Chunk, Shapes, StoredArrays, no_room, write_arrays

ROWS = 1024  # records that are written or read at a time


def on_disk(dataset: DataSet, folder: Path) -> DataSet:
    """The same data set with its records in unnamed files of `folder`.

    Raises: InputError: the folder can't be written, or the disk is full.
    """
    splits = {split: StoredRecords(records, folder) if records else () for split, records in dataset.splits.items()}
    return replace(dataset, splits=splits)


class StoredRecords(Sequence[Record]):
    """The records of one split, equal to those given: one or more, all with targets of one kind.

    Raises: InputError: see on_disk.
    """

    def __init__(self, records: Sequence[Record], folder: Path) -> None:
        self._split, self._dtype = records[0].split, _target_dtype(records)
        shapes = _shapes(records, self._dtype)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                write_arrays(file, shapes, _chunks(records))
                self._columns = StoredArrays(file)
        except OSError as error:
            raise no_room(folder, shapes, error) from error

    def __len__(self) -> int:
        return len(self._columns["text_ends"])

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Record, ...]: ...
    def __getitem__(self, at: int | slice) -> Record | tuple[Record, ...]:
        if isinstance(at, slice):
            numbers = range(len(self))[at]
            if numbers.step == 1 and numbers:
                return tuple(self._run(numbers.start, numbers.stop))
            return tuple(self[number] for number in numbers)
        number = range(len(self))[at]
        return self._run(number, number + 1)[0]

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), ROWS):
            yield from self._run(start, min(start + ROWS, len(self)))

    def _run(self, start: int, stop: int) -> list[Record]:
        """The records from `start` up to `stop`."""
        made = []
        for text, target in zip(self._rows("text", start, stop), self._targets(start, stop), strict=True):
            sequence, partner, where, id_ = text.tobytes().decode("utf-8", "surrogatepass").split("\0", 3)
            made.append(Record(id_, sequence, target, self._split, where, partner))
        return made

    def _targets(self, start: int, stop: int) -> Iterator[Any]:
        if self._dtype is None:
            return iter([None] * (stop - start))
        if "target_ends" in self._columns:
            return (rows.astype(self._dtype) for rows in self._rows("target", start, stop))
        return iter(self._read("target", start, stop).tolist())

    def _rows(self, name: str, start: int, stop: int) -> Iterator[np.ndarray]:
        """The stretch of a flat column that belongs to each record."""
        ends = self._read(f"{name}_ends", max(0, start - 1), stop).tolist()
        first = ends.pop(0) if start else 0
        column, begin = self._read(name, first, ends[-1]), first
        for end in ends:
            yield column[begin - first : end - first]
            begin = end

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._columns.take(name, np.array([start]), np.array([stop]))


def _texts(records: Sequence[Record]) -> Iterator[bytes]:
    """The id stands last, as the only one that may hold a NUL."""
    for r in records:
        yield "\0".join((r.sequence, r.partner, r.where, r.id)).encode("utf-8", "surrogatepass")


def _target_dtype(records: Sequence[Record]) -> np.dtype | None:
    """Of the targets as they are given; None: there are none."""
    first = records[0].target
    if first is None or isinstance(first, np.ndarray):
        return None if first is None else first.dtype
    whole = all(isinstance(record.target, int | np.integer) for record in records)
    return np.dtype(np.int64 if whole else np.float64)


def _shapes(records: Sequence[Record], dtype: np.dtype | None) -> Shapes:
    integers, n = np.dtype(np.int64), len(records)
    shapes = {"text": (np.dtype(np.uint8), (sum(map(len, _texts(records))),)), "text_ends": (integers, (n,))}
    first = records[0].target
    if isinstance(first, np.ndarray):
        rows = sum(len(record.target) for record in records)
        shapes |= {"target": (_kept(dtype), (rows, *first.shape[1:])), "target_ends": (integers, (n,))}
    elif dtype is not None:
        shapes["target"] = (dtype, (n,))
    return shapes


def _kept(dtype: np.dtype) -> np.dtype:
    """Class numbers of residues fit into two bytes."""
    return np.dtype(np.int16) if dtype.kind == "i" and dtype.itemsize > 2 else dtype


def _chunks(records: Sequence[Record]) -> Iterator[Chunk]:
    text_end = target_end = 0
    remaining = iter(records)
    while chunk := list(islice(remaining, ROWS)):
        texts, targets = list(_texts(chunk)), [record.target for record in chunk]
        text_ends = text_end + np.cumsum([len(text) for text in texts])
        rows = {"text": np.frombuffer(b"".join(texts), np.uint8), "text_ends": text_ends}
        if isinstance(targets[0], np.ndarray):
            target_ends = target_end + np.cumsum([len(target) for target in targets])
            rows |= {"target": np.concatenate(targets), "target_ends": target_ends}
            target_end = target_ends[-1]
        elif targets[0] is not None:
            rows["target"] = np.array(targets)
        text_end = text_ends[-1]
        yield rows
