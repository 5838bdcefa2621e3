"""Files of embeddings: the formats that they are written in, and the one reader of all.

    found = open_embeddings("embeddings")     # a folder of parts, of one or of many shards, or one file
    found.ids, found.vectors                  # in the order of the input; (N, D) float32
    for residues in found.vectors: ...        # (L, D) float32 for each sequence, where residues were kept

A part is read when it is needed; vectors of sequences are held in memory, those of residues a part at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.embeddings import arrow, hdf5, numpy_files, tensor_files
from plmft.embeddings.block import Block, Header, starts
from plmft.embeddings.choices import FILES


@dataclass(frozen=True)
class Format:
    """How files are written and read. `suffix`: of a file; empty: it is a folder."""

    suffix: str
    write: Callable[[Path, Header, Iterable[Block]], None]
    read: Callable[[Path, tuple[int, ...]], Block]
    about: Callable[[Path], dict[str, Any]]


FORMATS = {
    "h5": Format(".h5", hdf5.write, hdf5.read, hdf5.about),
    "h5_by_id": Format(".h5", hdf5.write_by_id, hdf5.read, hdf5.about),
    "parquet": Format(".parquet", arrow.write_parquet, arrow.read_parquet, arrow.about_parquet),
    "arrow": Format(".arrow", arrow.write_arrow, arrow.read_arrow, arrow.about_arrow),
    "npy": Format("", numpy_files.write, numpy_files.read, numpy_files.about),
    "safetensors": Format(".safetensors", tensor_files.write, tensor_files.read, tensor_files.about),
}
Reader = Callable[[tuple[int, ...]], Block]  # of one file: with these layers


@dataclass(frozen=True)
class Embeddings:
    """Vectors of N sequences, in the order of the input.

    Args:
        ids: N. vectors: (N, D) float32; or an iterable of N arrays (L, D), one row a residue.
        about: what they depend on: model, weights, layer, pooling, precision; see docs/embedding.md.
    """

    ids: list[str]
    vectors: "np.ndarray | ResidueVectors"
    about: dict[str, Any]


class ResidueVectors:
    """(L, D) float32 of each sequence, in the order of the input; a part of each shard is in memory at a time."""

    def __init__(self, files: list[tuple[int, Reader]], places: list[tuple[int, int]], layer: int) -> None:
        self._files, self._places, self._layer = files, places, layer

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[np.ndarray]:
        held: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}  # by shard
        for file, row in self._places:
            shard, read = self._files[file]
            if held.get(shard, (-1,))[0] != file:
                held.pop(shard, None)
                block = read((self._layer,))
                held[shard] = file, block.vectors[:, 0], starts(block.lengths, "residue")
            _, vectors, begins = held[shard]
            yield vectors[begins[row] : begins[row + 1]].astype(np.float32)


def open_embeddings(path: str | Path, layer: int | None = None, *, incomplete: bool = False) -> Embeddings:
    """Read what plmft.embed wrote.

    Args:
        path: its folder or file. layer: which of several. incomplete: read what there is of a job that has not ended.
    Raises: InputError: nothing there, something else, a layer that it has not, a damaged file, an unfinished job.
    """
    path = Path(path).expanduser()
    files = _files(path, incomplete)
    if not files:
        raise InputError(f"{path}: no sequence was embedded.")
    known = checked(files[0][1], files[0][2].about)
    layer = _layer(path, known["layers"], layer)
    files = [(shard, _reader(file, kind)) for shard, file, kind in files]
    about = known | {"layer": layer}
    return _residues(files, about) if known["per"] == "residue" else _sequences(files, about)


def _files(path: Path, incomplete: bool) -> list[tuple[int, Path, Format]]:
    """(shard, file, format) in the order of shards and chunks."""
    from plmft.inference.parts import incomplete_shards, list_parts, read_identity

    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder. Make it: python -m plmft.embed output={path} ...")
    if path.is_file():
        if path.suffix.lower() not in FILES:
            raise InputError(f"{path}: no file of embeddings. Known are {', '.join(FILES)}, and folders.")
        return [(1, path, FORMATS[FILES[path.suffix.lower()]])]
    if (path / numpy_files.INDEX).is_file():
        return [(1, path, FORMATS["npy"])]
    identity = read_identity(path)
    if identity is None or identity.get("format") not in FORMATS:
        raise InputError(f"{path}: no embeddings. Name the output of plmft.embed.")
    missing = incomplete_shards(path)
    if missing and not incomplete:
        shards = identity.get("shards", 1)
        raise InputError(
            f"{path}: the job has not ended; missing is the end of {', '.join(f'{i}/{shards}' for i in missing[:8])}. "
            "Give its command again; it goes on where it was."
        )
    return [(shard, file, FORMATS[identity["format"]]) for shard, _, _, file in list_parts(path)]


def _layer(path: Path, layers: list[int], wanted: int | None) -> int:
    if wanted is None and len(layers) == 1:
        return layers[0]
    if wanted == -1:
        return layers[-1]
    if wanted not in layers:
        told = "holds several layers" if wanted is None else f"has no layer {wanted}"
        raise InputError(f"{path} {told}. Choose one: {', '.join(map(str, layers))}.")
    return wanted


def _reader(file: Path, kind: Format) -> Reader:
    return lambda layers: checked(file, lambda path: kind.read(path, layers))


def checked(file: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` gives. Raises: InputError: it isn't what was written."""
    from safetensors import SafetensorError

    try:
        return read(file)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, SafetensorError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{file}: no embeddings, or damaged ({type(error).__name__}: {told:.120}). Remove it and give the command "
            "that made it again."
        ) from error


def _sequences(files: list[tuple[int, Reader]], about: dict[str, Any]) -> Embeddings:
    blocks = [read((about["layer"],)) for _, read in files]
    numbers = np.concatenate([block.numbers for block in blocks])
    ids = [id_ for block in blocks for id_ in block.ids]
    vectors = np.empty((len(ids), about["width"]), np.float32)
    places = np.empty(len(ids), np.int64)
    places[np.argsort(numbers, kind="stable")] = np.arange(len(ids))
    row = 0
    for block in blocks:
        vectors[places[row : row + len(block.ids)]] = block.vectors[:, 0]
        row += len(block.ids)
    return Embeddings([ids[i] for i in np.argsort(places)], vectors, about)


def _residues(files: list[tuple[int, Reader]], about: dict[str, Any]) -> Embeddings:
    found = []
    for file, (_, read) in enumerate(files):
        block = read(())
        found += [
            (number, id_, file, row) for row, (number, id_) in enumerate(zip(block.numbers, block.ids, strict=True))
        ]
    found.sort(key=lambda entry: entry[0])
    vectors = ResidueVectors(files, [(file, row) for _, _, file, row in found], about["layer"])
    return Embeddings([id_ for _, id_, _, _ in found], vectors, about)
