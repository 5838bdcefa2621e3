"""Files are found or refused with one message, whatever is wrong with them."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from plmft import InputError
from plmft.data.download import RemoteFile
from plmft.data.source import Source, read_regression
from plmft.data.task import DataPlace

ROWS = [{"id": "0", "primary": "MKV", "log_fluorescence": [1.5]}, {"id": "1", "primary": "MKL", "log_fluorescence": 2}]
COLUMNS = ("log_fluorescence", "label")


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path) -> list:
    return list(read_regression(path, "train", COLUMNS))


def test_both_layouts_give_the_same_records(tmp_path: Path) -> None:
    text = json.dumps(ROWS)
    files = [
        write(tmp_path / "a.json", text),
        write(tmp_path / "a.json.gz", gzip.compress(text.encode())),
        write(tmp_path / "a.csv", "seq,label\nMKV,1.5\nMKL,2\n"),
        write(tmp_path / "bom.csv", "\ufeffsequence,label,extra\r\nMKV,1.5,x\r\nMKL,2.0,\r\n"),
    ]
    for file in files:
        assert [(r.id, r.sequence, r.target) for r in read(file)] == [("train-0", "MKV", 1.5), ("train-1", "MKL", 2.0)]
        assert str(file) in read(file)[0].where


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)[:-12], "damaged or cut short"),
        ("a.json.gz", b"no gzip at all", "damaged or cut short"),
        ("a.json", '[{"primary": "MKV", ', "not valid JSON at line 1"),
        ("a.json", '{"primary": "MKV"}', "a JSON list"),
        ("a.json", "[3]", "record 0: an object"),
        ("a.json", '[{"primary": "MKV"}]', "record 0: no column log_fluorescence or label; the columns are primary"),
        ("a.json", '[{"primary": "MKV", "log_fluorescence": []}]', r"the target \[\] is not a number"),
        ("a.json", '[{"primary": "MKV", "log_fluorescence": null}]', "record 0: the target is missing"),
        ("a.csv", "seq,label\nMKV,\n", "line 2: the target is missing"),
        ("a.csv", "seq,label\nMKV,high\n", "line 2: the target 'high' is not a number"),
        ("a.csv", "seq,label\nMKV\n", "line 2: fewer fields"),
        ("a.csv", "seq,label\nMKV,1,2\n", "line 2: more fields"),
        ("a.csv", "seq;label\nMKV;1\n", "no column primary or seq or sequence"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "seq,label\nMK\xe9,1\n".encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, name: str, content: bytes | str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        read(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(error.value)


def test_a_field_that_csv_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 3: not readable as CSV \(field larger than field limit"):
        read(write(tmp_path / "a.csv", f"seq,label\nMKV,1\n{'A' * (csv.field_size_limit() + 1)},1\n"))


def source() -> Source:
    splits = ("train", "valid", "test")
    return Source(
        folder="demo",
        names={s: (f"{s}.json", f"{s}.csv") for s in splits},
        remote={s: RemoteFile(f"{s}.csv", f"http://127.0.0.1:9/{s}.csv", sha256="0" * 64) for s in splits},
    )


def test_the_users_folder_is_searched_first_and_never_replaced(tmp_path: Path) -> None:
    place = DataPlace(tmp_path, tmp_path / "cache")
    for split in ("train", "valid"):
        (tmp_path / "demo").mkdir(exist_ok=True)
        write(tmp_path / "demo" / f"{split}.csv", "")
    with pytest.raises(InputError, match=r"holds none of test\.json, test\.csv.*, or leave both out to download\.$"):
        source().paths(place)
    write(tmp_path / "test.json", "")  # the files may also lie in the named folder itself
    assert source().paths(place)["test"] == tmp_path / "test.json"
    assert not (tmp_path / "cache").exists()


def test_a_missing_or_wrong_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        source().paths(DataPlace(tmp_path / "nowhere", tmp_path))
    with pytest.raises(InputError, match="is not a folder"):
        source().paths(DataPlace(write(tmp_path / "file", ""), tmp_path))


def test_optional_files_may_be_absent_and_are_not_asked_for(tmp_path: Path) -> None:
    names = {"train": ("train.csv",), "test_more": ("more.csv",)}
    local = Source("demo", names, {}, optional=("test_more",))
    with pytest.raises(InputError) as error:
        local.paths(DataPlace(None, tmp_path))
    assert str(error.value) == (
        "demo: the data can't be downloaded. Put train.csv into a folder demo, and set data.dir or PLMFT_DATA to the "
        "folder above it."
    )
    with pytest.raises(InputError) as error:
        local.paths(DataPlace(tmp_path, tmp_path))
    assert str(error.value) == (
        f"{tmp_path / 'demo'} holds none of train.csv. Put one there, or set data.dir or PLMFT_DATA to the folder that "
        "has it."
    )
    write(tmp_path / "train.csv", "")
    assert local.paths(DataPlace(tmp_path, tmp_path)) == {"train": tmp_path / "train.csv"}
    write(tmp_path / "more.csv", "")
    assert set(local.paths(DataPlace(tmp_path, tmp_path))) == {"train", "test_more"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "seq,label\n")
    file.chmod(0)
    with pytest.raises(InputError, match="can't be read"):
        read(file)
