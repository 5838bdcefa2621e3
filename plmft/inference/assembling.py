"""One file of the parts of a finished job: Parquet, CSV, FASTA of residue classes, or the contacts' arrays as .npz.

Reads a part at a time and writes under another name first, so that the file appears whole or not at all. The bytes
depend on the parts alone.
"""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from plmft import InputError
from plmft.inference.answers import LISTS

SUFFIXES = (".parquet", ".csv", ".csv.gz", ".fasta", ".fasta.gz", ".npz")
ONLY = {".fasta": "residue_classification", ".npz": "contacts"}  # what has one answer for each residue, or pairs
ROW_GROUP = 65_536  # rows
ROW_GROUP_BYTES = 64 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)  # of the entries of a ZIP archive: the bytes must not depend on the day
LINE = 60  # residues of a FASTA's line


def suffix_of(output: Path) -> str:
    """The known suffix of the output; "": a folder of Parquet parts. Raises: InputError: another suffix."""
    suffixes = [s.lower() for s in output.suffixes]
    suffix = "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])
    if suffix and suffix not in SUFFIXES:
        raise InputError(
            f"output={output}: no known kind of file. Known are {', '.join(SUFFIXES)}; without a suffix it is a folder "
            "of Parquet files."
        )
    return suffix


def check_kind(suffix: str, kind: str) -> None:
    """Raises: InputError: a model of this kind has no answer that such a file can hold."""
    wanted = ONLY.get(suffix.removesuffix(".gz"), kind)
    if kind != wanted:
        raise InputError(
            f"output: {suffix} is for models of the kind {wanted}, and this one is {kind}. Write .parquet or .csv."
        )


def assemble(parts: Sequence[Path], draft: Path, suffix: str) -> None:
    """Write `draft` from one or more parts, in their order. Raises: OSError: no room."""
    WRITERS[suffix](parts, pq.read_schema(parts[0]), draft)


def _tables(parts: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for part in parts:
        yield pq.read_table(part, schema=schema, partitioning=None)


def _parquet(parts: Sequence[Path], schema: pa.Schema, draft: Path) -> None:
    held: list[pa.Table] = []
    with pq.ParquetWriter(draft, schema) as writer:
        for table in _tables(parts, schema):
            held.append(table)
            if sum(t.num_rows for t in held) >= ROW_GROUP or sum(t.nbytes for t in held) >= ROW_GROUP_BYTES:
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held.clear()
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks())


def _csv(parts: Sequence[Path], schema: pa.Schema, draft: Path) -> None:
    pairs = "first" in schema.names
    with _text(draft) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "id", "prediction"] if pairs else schema.names)
        for table in _tables(parts, schema):
            rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
            writer.writerows((n, i, _pairs_text(*lists)) for n, i, *lists in rows) if pairs else writer.writerows(rows)


def _pairs_text(first: Sequence[int], second: Sequence[int], probability: Sequence[float]) -> str:
    """As Tuned.predict writes them: 3-41:0.912;5-39:0.874."""
    return ";".join(f"{i}-{j}:{p:.3f}" for i, j, p in zip(first, second, probability, strict=True))


def _fasta(parts: Sequence[Path], schema: pa.Schema, draft: Path) -> None:
    with _text(draft) as file:
        for table in _tables(parts, schema):
            for id_, classes in zip(table["id"].to_pylist(), table["prediction"].to_pylist(), strict=True):
                lines = (classes[at : at + LINE] for at in range(0, len(classes), LINE))
                file.write(f">{id_}\n{chr(10).join(lines)}\n")


def _npz(parts: Sequence[Path], schema: pa.Schema, draft: Path) -> None:
    """ids (N,), offsets (N+1,) and the pairs of all sequences end to end: first, second, probability (P,)."""
    counts = np.concatenate([[0], *(t["first"].combine_chunks().value_lengths() for t in _tables(parts, schema))])
    offsets = np.cumsum(counts.astype(np.int64))
    longest = max((len(i) for t in _tables(parts, schema) for i in t["id"].to_pylist()), default=1)
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        ids = (np.array(t["id"].to_pylist(), f"<U{longest}") for t in _tables(parts, schema))
        _array(archive, "ids", np.dtype(f"<U{longest}"), len(offsets) - 1, ids)
        _array(archive, "offsets", offsets.dtype, len(offsets), iter([offsets]))
        for name, kind in LISTS.items():
            values = (t[name].combine_chunks().flatten().to_numpy() for t in _tables(parts, schema))
            _array(archive, name, np.dtype(kind.value_type.to_pandas_dtype()), int(offsets[-1]), values)


def _array(archive: zipfile.ZipFile, name: str, dtype: np.dtype, length: int, chunks: Iterator[np.ndarray]) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy", EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        npy.write_array_header_1_0(
            file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
        )
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())


@contextmanager
def _text(draft: Path) -> Iterator[IO[str]]:
    """UTF-8 text, packed if the name ends in .gz; the archive holds no time."""
    with draft.open("wb") as file:
        packed: Any = gzip.GzipFile("", "wb", 6, file, mtime=0) if draft.suffix == ".gz" else file
        text = io.TextIOWrapper(packed, "utf-8", newline="")
        yield text
        text.flush()
        text.detach()
        if packed is not file:
            packed.close()


WRITERS: dict[str, Callable[[Sequence[Path], pa.Schema, Path], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".csv.gz": _csv,
    ".fasta": _fasta,
    ".fasta.gz": _fasta,
    ".npz": _npz,
}
