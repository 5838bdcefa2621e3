"""Write neighbours as they are found: a row a neighbour, the whole file or none of it."""

import csv
import gzip
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from plmft import InputError
from plmft.data.whole_file import check_free

SUFFIXES = (".tsv", ".csv", ".tsv.gz", ".csv.gz", ".parquet")
DIGITS = 6


class Write(Protocol):
    """Takes the names of Q queries, and ids and scores of the hits of each, nearest first."""

    def __call__(self, queries: Sequence[str], hits: Sequence[Sequence[str]], scores: Sequence[np.ndarray]) -> None: ...


def check_output(output: Path, inputs: dict[str, str | None]) -> None:
    """Raises: InputError: a format that can't be written, a file that is there or one of `inputs`, no folder."""
    if not output.name.endswith(SUFFIXES):
        raise InputError(f"output={output}: hits are written as {', '.join(SUFFIXES)}. Let the name end in one.")
    for key, path in inputs.items():
        if path is not None and output.exists() and Path(path).expanduser().exists() and output.samefile(path):
            raise InputError(f"output={output} is the file of {key}. Name another one.")
    if output.is_dir():
        raise InputError(f"output={output} is a folder. Name a file.")
    check_free("output", output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output={output}: its folder can't be made ({error.strerror}). Name another one.") from None


@contextmanager
def hits_file(output: Path | None, score: str) -> Iterator[Write]:
    """Where hits go; moved to its place when all are written. None: to the terminal.

    Args: score: name of its column.
    Raises: InputError: no room, or no right.
    """
    names = ("query", "rank", "hit", score)
    if output is None:
        with _text(sys.stdout, "\t", names) as write:
            yield write
        return
    part = output.with_name(f".{output.name}.{secrets.token_hex(8)}.part")
    try:
        with _open(part, output.name, names) as write:
            yield write
        os.replace(part, output)
    except OSError as error:
        raise InputError(f"output={output}: can't be written ({error.strerror or error}).") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _open(part: Path, name: str, names: Sequence[str]) -> Iterator[Write]:
    if name.endswith(".parquet"):
        with _parquet(part, names) as write:
            yield write
        return
    delimiter = "\t" if ".tsv" in name[-7:] else ","
    if name.endswith(".gz"):
        with gzip.open(part, "wt", newline="") as file, _text(file, delimiter, names) as write:
            yield write
    else:
        with part.open("w", newline="") as file, _text(file, delimiter, names) as write:
            yield write


@contextmanager
def _text(file: IO[str], delimiter: str, names: Sequence[str]) -> Iterator[Write]:
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)

    def write(queries: Sequence[str], hits: Sequence[Sequence[str]], scores: Sequence[np.ndarray]) -> None:
        for query, found, values in zip(queries, hits, scores, strict=True):
            for rank, (hit, value) in enumerate(zip(found, values, strict=True), 1):
                writer.writerow((query, rank, hit, f"{value:.{DIGITS}f}"))

    yield write


@contextmanager
def _parquet(part: Path, names: Sequence[str]) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = (pa.string(), pa.int32(), pa.string(), pa.float32())
    schema = pa.schema(list(zip(names, types, strict=True)))
    with pq.ParquetWriter(part, schema) as writer:

        def write(queries: Sequence[str], hits: Sequence[Sequence[str]], scores: Sequence[np.ndarray]) -> None:
            counts = [len(found) for found in hits]
            columns = [
                np.repeat(np.array(queries, object), counts),
                [rank for count in counts for rank in range(1, count + 1)],
                [hit for found in hits for hit in found],
                np.concatenate([np.zeros(0, np.float32), *scores]),
            ]
            arrays = [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write
