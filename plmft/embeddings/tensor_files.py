"""safetensors: `layer_33` (rows, D) for each layer, `numbers`, `lengths` (N,), `starts` (N+1,), and `ids`, the UTF-8
bytes of a JSON list. The metadata holds `about` as JSON. Opens with safetensors everywhere, and without a copy.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from plmft.embeddings.block import Block, Header, layer_name, side_by_side, starts

NAMES = {"float32": "F32", "float16": "F16"}
SPARE = 256  # bytes of the header for the number of bytes that the ids take, known last


def write(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """All at its place as it comes. Raises: OSError: the disk's fault."""
    tensors = _tensors(header)
    ids: list[str] = []
    begin = 8 + -(-(len(_header(header, tensors)) + SPARE) // 8) * 8
    with path.open("wb") as file:

        def put(name: str, at: int, array: np.ndarray) -> None:
            """array: from this row on."""
            dtype, shape, (first, _) = (tensors[name][key] for key in ("dtype", "shape", "data_offsets"))
            typed = np.ascontiguousarray(array, "<i8" if dtype == "I64" else header.dtype)
            file.seek(begin + first + at * typed.itemsize * int(np.prod(shape[1:], dtype=np.int64)))
            file.write(typed)

        sequence = row = 0
        for block in blocks:
            put("numbers", sequence, block.numbers)
            put("lengths", sequence, block.lengths)
            put("starts", sequence, row + starts(block.lengths, header.per))
            for number, name in enumerate(header.names):
                put(name, row, block.vectors[:, number])
            ids += block.ids
            sequence, row = sequence + len(block.ids), row + len(block.vectors)
        text = json.dumps(ids).encode()
        end = max(tensor["data_offsets"][1] for tensor in tensors.values())
        tensors["ids"] = {"dtype": "U8", "shape": [len(text)], "data_offsets": [end, end + len(text)]}
        file.seek(begin + end)
        file.write(text)
        whole = _header(header, tensors).ljust(begin - 8)
        file.seek(0, os.SEEK_SET)
        file.write(len(whole).to_bytes(8, "little") + whole)


def about(path: Path) -> dict[str, Any]:
    """What the vectors of a file depend on."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["about"])


def read(path: Path, layers: tuple[int, ...]) -> Block:
    """The sequences of a file, with these layers of their vectors."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        columns = [file.get_tensor(layer_name(layer)) for layer in layers]
        ids = json.loads(file.get_tensor("ids").tobytes())
        return Block(file.get_tensor("numbers"), ids, file.get_tensor("lengths"), side_by_side(columns))


def _tensors(header: Header) -> dict[str, dict[str, Any]]:
    """Type, shape and place of each; whole numbers first, so that all are aligned."""
    count, vectors = header.sequences, [header.rows, header.width]
    shapes = {"numbers": [count], "lengths": [count], "starts": [count + 1]} | dict.fromkeys(header.names, vectors)
    found, begin = {}, 0
    for name, shape in shapes.items():
        dtype, size = ("I64", 8) if name in ("numbers", "lengths", "starts") else (NAMES[header.dtype], None)
        end = begin + int(np.prod(shape, dtype=np.int64)) * (size or np.dtype(header.dtype).itemsize)
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    return found


def _header(header: Header, tensors: dict[str, Any]) -> bytes:
    return json.dumps({"__metadata__": {"about": json.dumps(header.about)}, **tensors}).encode()
