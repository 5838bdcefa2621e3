"""Parquet and Arrow (IPC, also called Feather 2): a row for each sequence.

Columns `number`, `id`, `length` and `layer_33` for each layer: (D,) numbers of a sequence, or the (L, D) of its
residues end to end, so `np.reshape(row, (length, -1))`. The schema's metadata holds `about` as JSON. Parquet takes
about 10 ms a MB to write, Arrow 1 ms.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plmft.embeddings.block import Block, Header, layer_name, side_by_side, starts

if TYPE_CHECKING:
    import pyarrow

ROW_BYTES = 64_000_000  # of a row group


def write_parquet(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Raises: OSError: the disk's fault."""
    from pyarrow import parquet

    group = max(1, ROW_BYTES // max(1, header.rows * header.width * 4 // max(1, header.sequences)))
    with parquet.ParquetWriter(path, _schema(header), compression="none", use_dictionary=False) as writer:
        for block in blocks:
            writer.write_table(_table(header, block), row_group_size=group)


def write_arrow(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Raises: OSError: the disk's fault."""
    from pyarrow import ipc

    with ipc.new_file(str(path), _schema(header)) as writer:
        for block in blocks:
            writer.write_table(_table(header, block))


def about_parquet(path: Path) -> dict[str, Any]:
    """What the vectors of a file depend on."""
    from pyarrow import parquet

    return json.loads(parquet.read_schema(path).metadata[b"about"])


def about_arrow(path: Path) -> dict[str, Any]:
    """What the vectors of a file depend on."""
    from pyarrow import ipc

    with ipc.open_file(str(path)) as file:
        return json.loads(file.schema.metadata[b"about"])


def read_parquet(path: Path, layers: tuple[int, ...]) -> Block:
    """The sequences of a file, with these layers of their vectors."""
    from pyarrow import parquet

    return _block(parquet.read_table(path, columns=["number", "id", "length", *map(layer_name, layers)]), layers)


def read_arrow(path: Path, layers: tuple[int, ...]) -> Block:
    """The same of an Arrow file."""
    from pyarrow import ipc

    with ipc.open_file(str(path)) as file:
        return _block(file.read_all(), layers)


def _schema(header: Header) -> "pyarrow.Schema":
    import pyarrow

    number = pyarrow.from_numpy_dtype(np.dtype(header.dtype))
    values = pyarrow.list_(number, header.width) if header.per == "sequence" else pyarrow.large_list(number)
    fields = [("number", pyarrow.int64()), ("id", pyarrow.string()), ("length", pyarrow.int64())]
    fields += [(name, values) for name in header.names]
    return pyarrow.schema(fields, {"about": json.dumps(header.about)})


def _table(header: Header, block: Block) -> "pyarrow.Table":
    import pyarrow

    columns: list[Any] = [block.numbers, block.ids, block.lengths]
    ends = starts(block.lengths, header.per) * header.width
    for number in range(len(header.layers)):
        values = pyarrow.array(block.vectors[:, number].astype(header.dtype, copy=False).reshape(-1))
        columns.append(
            pyarrow.FixedSizeListArray.from_arrays(values, header.width)
            if header.per == "sequence"
            else pyarrow.LargeListArray.from_arrays(pyarrow.array(ends), values)
        )
    return pyarrow.table(columns, _schema(header))


def _block(table: "pyarrow.Table", layers: tuple[int, ...]) -> Block:
    about = json.loads(table.schema.metadata[b"about"])
    columns = []
    for layer in layers:
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[layer_name(layer)].chunks]
        values = np.concatenate(chunks) if chunks else np.empty(0, about["dtype"])
        columns.append(values.reshape(-1, about["width"]))
    numbers, lengths = (table[name].to_numpy() for name in ("number", "length"))
    return Block(numbers, table["id"].to_pylist(), lengths, side_by_side(columns))
