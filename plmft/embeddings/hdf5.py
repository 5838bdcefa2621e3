"""HDF5 in two layouts; both open with plain h5py.

`h5`: `ids` (N,), `numbers`, `lengths` (N,), `starts` (N+1,), and `layer_33` (rows, D) for each layer.
`h5_by_id`: for each sequence a dataset of its id, (D,) or (L, D), as UniProt and bio_embeddings give them; (K, D) or
(L, K, D) of several layers. A slash in an id would make a group and is written as %2F (a percent sign as %25); the
attribute `id` holds it as it was. The attribute `about` of the file is JSON.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plmft import InputError
from plmft.embeddings.block import Block, Header, layer_name, side_by_side, starts

if TYPE_CHECKING:
    import h5py

ARRAYS, BY_ID = "arrays", "by_id"


def write(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """Arrays for all sequences. Raises: OSError: the disk's fault."""
    with _new(path) as file:
        _describe(file, header, ARRAYS)
        text = _h5py().string_dtype()
        ids = file.create_dataset("ids", (header.sequences,), text)
        integers = {name: file.create_dataset(name, (header.sequences,), "<i8") for name in ("numbers", "lengths")}
        begins = file.create_dataset("starts", (header.sequences + 1,), "<i8")
        shape = (header.rows, header.width)
        layers = [file.create_dataset(name, shape, header.dtype) for name in header.names]
        sequence = row = 0
        for block in blocks:
            after, last = sequence + len(block.ids), row + len(block.vectors)
            if not block.ids:
                continue
            ids[sequence:after] = block.ids
            for name, dataset in integers.items():
                dataset[sequence:after] = getattr(block, name)
            begins[sequence : after + 1] = row + starts(block.lengths, header.per)
            for number, dataset in enumerate(layers):
                dataset[row:last] = block.vectors[:, number]
            sequence, row = after, last


def write_by_id(path: Path, header: Header, blocks: Iterable[Block]) -> None:
    """A dataset for each sequence. Raises: OSError: the disk's fault."""
    with _new(path) as file:
        _describe(file, header, BY_ID)
        for block in blocks:
            begins = starts(block.lengths, header.per)
            vectors = block.vectors[:, 0] if len(header.layers) == 1 else block.vectors
            for at, id_ in enumerate(block.ids):
                rows = vectors[begins[at] : begins[at + 1]]
                dataset = file.create_dataset(_escaped(id_), data=rows if header.per == "residue" else rows[0])
                dataset.attrs["id"], dataset.attrs["number"] = id_, int(block.numbers[at])
                dataset.attrs["length"] = int(block.lengths[at])


def check_installed() -> None:
    """Raises: InputError: there is no h5py."""
    _h5py()


def about(path: Path) -> dict[str, Any]:
    """What the vectors of a file depend on."""
    with _h5py().File(path, "r") as file:
        return json.loads(file.attrs["about"])


def read(path: Path, layers: tuple[int, ...]) -> Block:
    """The sequences of a file, with these layers of their vectors."""
    with _h5py().File(path, "r") as file:
        if file.attrs["layout"] == BY_ID:
            return _read_by_id(file, json.loads(file.attrs["about"]), layers)
        columns = [file[layer_name(layer)][:] for layer in layers]
        ids = [id_.decode() for id_ in file["ids"][:]]
        return Block(file["numbers"][:], ids, file["lengths"][:], side_by_side(columns))


@contextmanager
def _new(path: Path) -> Iterator["h5py.File"]:
    """Raises: OSError: also where HDF5, which can't close a file on a full disk, gives another error."""
    try:
        with _h5py().File(path, "w") as file:
            yield file
    except RuntimeError as error:
        found = re.search(r"errno = (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def _describe(file: "h5py.File", header: Header, layout: str) -> None:
    file.attrs["about"], file.attrs["layout"] = json.dumps(header.about), layout


def _read_by_id(file: "h5py.File", about: dict[str, Any], layers: tuple[int, ...]) -> Block:
    datasets = sorted(file.values(), key=lambda dataset: dataset.attrs["number"])
    every, width = about["layers"], about["width"]
    wanted = [every.index(layer) for layer in layers]
    rows = [dataset[:].reshape(-1, len(every), width)[:, wanted] for dataset in datasets if layers]
    numbers, lengths = (np.array([d.attrs[name] for d in datasets], np.int64) for name in ("number", "length"))
    empty = np.empty((0, len(layers), width), about["dtype"])
    return Block(numbers, [d.attrs["id"] for d in datasets], lengths, np.concatenate([empty, *rows]))


def _escaped(id_: str) -> str:
    name = id_.replace("%", "%25").replace("/", "%2F")
    return "%2E" if name == "." else name


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError('HDF5 needs h5py. Install it: pip install -e ".[embed]". Or set format=safetensors.') from None
    return h5py
