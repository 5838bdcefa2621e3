"""NumPy: a folder with `layer_33.npy` (rows, D) for each layer, `index.csv` and `about.json`.

The index has a row for each sequence: number, id, length, and start, the row in which it begins. The arrays can be
mapped: `np.load(file, mmap_mode="r")`.
"""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from plmft.embeddings.block import Block, Header, layer_name, side_by_side, starts

INDEX, ABOUT = "index.csv", "about.json"


def write(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Raises: OSError: the disk's fault."""
    path.mkdir()
    (path / ABOUT).write_text(json.dumps(header.about, indent=2) + "\n")
    files = [(path / f"{name}.npy").open("wb") for name in header.names]
    shape = {"descr": np.dtype(header.dtype).newbyteorder("<").str, "fortran_order": False}
    try:
        for file in files:
            np.lib.format.write_array_header_1_0(file, shape | {"shape": (header.rows, header.width)})
        with (path / INDEX).open("w", newline="", encoding="utf-8") as index:
            rows = csv.writer(index, lineterminator="\n")
            rows.writerow(["number", "id", "length", "start"])
            row = 0
            for block in blocks:
                begins = row + starts(block.lengths, header.per)
                rows.writerows(zip(block.numbers.tolist(), block.ids, block.lengths.tolist(), begins.tolist()))  # noqa: B905
                for number, file in enumerate(files):
                    file.write(np.ascontiguousarray(block.vectors[:, number], header.dtype))
                row += len(block.vectors)
    finally:
        for file in files:
            file.close()


def about(path: Path) -> dict[str, Any]:
    """What the vectors depend on."""
    return json.loads((path / ABOUT).read_text())


def read(path: Path, layers: tuple[int, ...]) -> Block:
    """The sequences of a folder, with these layers of their vectors."""
    with (path / INDEX).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers, lengths = (np.array([int(row[name]) for row in rows], np.int64) for name in ("number", "length"))
    columns = [np.load(path / f"{layer_name(layer)}.npy") for layer in layers]
    return Block(numbers, [row["id"] for row in rows], lengths, side_by_side(columns))
