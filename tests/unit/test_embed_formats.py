"""Files of embeddings: every format gives back what was written, opens with its own library, and tells its damage."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pyarrow.ipc
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file

from plmft import InputError
from plmft.embeddings.block import Block, Header, starts
from plmft.embeddings.formats import FORMATS, open_embeddings

IDS, LENGTHS, WIDTH = ["sp|P1|A/3-9", ".", "50%2F/x", "é"], np.array([3, 1, 4, 2]), 5


def write(
    path: Path, kind: str, per: str = "sequence", layers: tuple[int, ...] = (6,), dtype: str = "float32"
) -> np.ndarray:
    """Two blocks of two sequences; returns the (rows, K, D) vectors."""
    about = {"layers": list(layers), "width": WIDTH, "dtype": dtype, "per": per, "model": "m"}
    begins = starts(LENGTHS, per)
    vectors = np.random.default_rng(0).normal(size=(begins[-1], len(layers), WIDTH)).astype(dtype)
    blocks = [
        Block(np.arange(a, b), IDS[a:b], LENGTHS[a:b], vectors[begins[a] : begins[b]]) for a, b in ((0, 2), (2, 4))
    ]
    FORMATS[kind].write(path, Header(about, layers, WIDTH, dtype, per, 4, int(begins[-1])), blocks)
    return vectors


def place(folder: Path, kind: str) -> Path:
    return folder / f"found{FORMATS[kind].suffix}"


@pytest.mark.parametrize("layers, dtype", [((6,), "float32"), ((0, 3, 6), "float16")], ids=["one", "three"])
@pytest.mark.parametrize("per", ["sequence", "residue"])
@pytest.mark.parametrize("kind", FORMATS)
def test_what_was_written_is_read(kind, per, layers, dtype, tmp_path) -> None:
    path = place(tmp_path, kind)
    vectors = write(path, kind, per, layers, dtype)
    for number, layer in enumerate(layers):
        found = open_embeddings(path, layer)
        assert found.ids == IDS
        assert found.about["layer"] == layer and found.about["model"] == "m"
        wanted = vectors[:, number].astype(np.float32)
        if per == "sequence":
            assert found.vectors.dtype == np.float32
            assert np.array_equal(found.vectors, wanted)
        else:
            assert [len(rows) for rows in found.vectors] == LENGTHS.tolist()
            assert np.array_equal(np.concatenate(list(found.vectors)), wanted)
            assert np.array_equal(np.concatenate(list(found.vectors)), wanted)  # a second time, too
    assert np.array_equal(FORMATS[kind].read(path, layers).vectors, vectors)


def test_hdf5_opens_with_h5py(tmp_path) -> None:
    vectors = write(tmp_path / "a.h5", "h5", "residue")
    with h5py.File(tmp_path / "a.h5") as file:
        assert [id_.decode() for id_ in file["ids"]] == IDS
        assert np.array_equal(file["layer_6"][file["starts"][2] : file["starts"][3]], vectors[4:8, 0])
        assert json.loads(file.attrs["about"])["model"] == "m"


@pytest.mark.parametrize("per, shape", [("sequence", (WIDTH,)), ("residue", (4, WIDTH))])
def test_hdf5_by_id_has_a_dataset_a_sequence(per, shape, tmp_path) -> None:
    write(tmp_path / "a.h5", "h5_by_id", per)
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file) == 4 and file["50%252F%2Fx"].shape == shape
        assert sorted(dataset.attrs["id"] for dataset in file.values()) == sorted(IDS)


def test_tables_open_with_pyarrow(tmp_path) -> None:
    for kind, read in (
        ("parquet", pyarrow.parquet.read_table),
        ("arrow", lambda p: pyarrow.ipc.open_file(p).read_all()),
    ):
        vectors = write(tmp_path / f"s{kind}", kind)
        table = read(tmp_path / f"s{kind}")
        assert table.column_names == ["number", "id", "length", "layer_6"] and table["id"].to_pylist() == IDS
        assert np.array_equal(np.stack(table["layer_6"].to_numpy()), vectors[:, 0])
        vectors = write(tmp_path / f"r{kind}", kind, "residue")
        row = read(tmp_path / f"r{kind}").slice(2, 1)
        rows = np.array(row["layer_6"].to_pylist()[0], np.float32).reshape(row["length"][0].as_py(), -1)
        assert np.array_equal(rows, vectors[4:8, 0])


def test_numpy_opens_with_numpy(tmp_path) -> None:
    vectors = write(tmp_path / "a", "npy", "residue")
    with (tmp_path / "a" / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == IDS and [row["start"] for row in rows] == ["0", "3", "4", "8"]
    assert np.array_equal(np.load(tmp_path / "a" / "layer_6.npy", mmap_mode="r"), vectors[:, 0])


def test_safetensors_opens_with_safetensors(tmp_path) -> None:
    vectors = write(tmp_path / "a.safetensors", "safetensors", "residue", (0, 6), "float16")
    found = load_file(tmp_path / "a.safetensors")
    assert np.array_equal(found["layer_6"], vectors[:, 1])
    assert found["starts"].tolist() == [0, 3, 4, 8, 10] and json.loads(found["ids"].tobytes()) == IDS


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_cut_off_is_told(kind, tmp_path) -> None:
    path = place(tmp_path, kind)
    write(path, kind)
    file = path / "layer_6.npy" if kind == "npy" else path
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        open_embeddings(path)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no embeddings"),
        (lambda path: path.write_text("ids"), "no file of embeddings"),
    ],
    ids=["nothing", "folder", "file"],
)
def test_what_is_none_is_told(make, told, tmp_path) -> None:
    make(tmp_path / "x.csv")
    with pytest.raises(InputError, match=told):
        open_embeddings(tmp_path / "x.csv")


def test_of_several_layers_one_is_chosen(tmp_path) -> None:
    write(tmp_path / "a.h5", "h5", layers=(0, 6))
    with pytest.raises(InputError, match=r"several layers.*0, 6"):
        open_embeddings(tmp_path / "a.h5")
    with pytest.raises(InputError, match="no layer 3"):
        open_embeddings(tmp_path / "a.h5", 3)
    assert open_embeddings(tmp_path / "a.h5", -1).about["layer"] == 6
