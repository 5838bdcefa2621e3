"""FLIP's files: sequences, labels and masks that stand apart come together by id, or one message says what is wrong."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.flip import FlipFiles, named_split, read_regression_split, read_residue_labels
from plmft.data.records import IGNORE, Record
from plmft.data.residue_labels import residue_targets
from plmft.data.source import read_bytes

CLASSES = {"H": 0, "E": 1, "C": 2}
FILES = {
    "sequences.fasta": ">b\nMKLV\n>a\nMK\nV\n>c\nMX\n>unused\nMKK\n",
    "sampled.fasta": ">a SET=train VALIDATION=False\nHEC\n>b SET=train VALIDATION=True\nCC\nHH\n>c SET=test\nEE\n",
    "mask.fasta": ">c\n10\n>b\n1111\n>a\n011\n",
}
TABLE = "sequence,target,set,validation\nMKV,1.5,train,\nMKL,-2,train,True\nMKI,3e-1,test,False\n"


def write(folder: Path, **changed: str | None) -> Path:
    """A splits.zip with FILES and a table; `mask=None` leaves mask.fasta out."""
    members = {**FILES, "two_vs_rest.csv": TABLE}
    for name, text in changed.items():
        key = next(member for member in members if member.startswith(name))
        members[key] = text
    with zipfile.ZipFile(folder / "splits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("splits/", "")
        archive.writestr("splits/.DS_Store", b"\x00\xff")
        archive.writestr("__MACOSX/splits/._sampled.fasta", b"\x00\xff")
        for name, text in members.items():
            if text is not None:
                archive.writestr(f"splits/{name}", text)
    return folder / "splits.zip"


def read(path: Path, mask: str | None = "mask.fasta") -> list[Record]:
    return read_residue_labels(FlipFiles.open(path), "sampled.fasta", CLASSES, mask)


def plain(records: list[Record]) -> list[tuple]:
    return [(r.id, r.sequence, r.target.tolist(), r.split) for r in records]


WANTED = [
    ("a", "MKV", [IGNORE, 1, 2], "train"),
    ("b", "MKLV", [2, 2, 0, 0], "valid"),
    ("c", "MX", [1, IGNORE], "test"),
]


def test_labels_meet_their_sequences_and_masks_by_id(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert plain(read(path)) == WANTED
    assert [r.where for r in read(path)] == [f"{path}, sampled.fasta, line {n}" for n in (1, 3, 6)]
    unmasked = read(path, None)
    assert [r.target.tolist() for r in unmasked] == [[0, 1, 2], [2, 2, 0, 0], [1, 1]]
    assert all(r.target.dtype == np.int64 for r in unmasked)


def test_a_folder_that_was_unzipped_is_the_same(tmp_path: Path) -> None:
    path = write(tmp_path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    files = FlipFiles.open(tmp_path / "splits" / "sequences.fasta")
    assert sorted(files.members) == sorted([*FILES, "two_vs_rest.csv"]) == sorted(FlipFiles.open(path).members)
    assert plain(read_residue_labels(files, "sampled.fasta", CLASSES, "mask.fasta")) == WANTED


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sampled": FILES["sampled.fasta"].replace("HEC", "HE")}, "line 1: 'a' has 3 residues but 2 labels"),
        (
            {"sampled": FILES["sampled.fasta"].replace("HEC", "HxC")},
            "line 1: 'a': label 'x' at position 2; known are H",
        ),
        ({"sampled": FILES["sampled.fasta"].replace(">b", ">z")}, "line 3: 'z' has labels but no sequence. Add it"),
        ({"sampled": FILES["sampled.fasta"].replace(">b", ">a")}, "line 3: id 'a' was used before, in"),
        ({"sampled": FILES["sampled.fasta"].replace("=test", "=Nothing")}, "line 6: set 'Nothing', validation ''"),
        (
            {"sampled": FILES["sampled.fasta"].replace(" SET=test", "")},
            "line 6: set '', validation ''. The set is train",
        ),
        ({"sampled": FILES["sampled.fasta"].replace("=True", "=maybe")}, "line 3: set 'train', validation 'maybe'"),
        (
            {"mask": FILES["mask.fasta"].replace("011", "01")},
            "mask.fasta, line 5: 'a' has 3 residues but 2 mask values",
        ),
        (
            {"mask": FILES["mask.fasta"].replace("011", "021")},
            "line 5: 'a' has the mask value '2' at position 2. Write 1",
        ),
        ({"mask": FILES["mask.fasta"].replace(">b", ">z")}, "sampled.fasta, line 3: 'b' has no mask. Add it"),
        ({"mask": None}, "no mask.fasta in it; it holds sampled.fasta, sequences.fasta, two_vs_rest.csv"),
        ({"sequences": "MKV\n"}, "sequences.fasta, line 1: 'MKV' stands before the first header"),
        ({"sequences": ">a\nM\xe9".encode("latin-1")}, "sequences.fasta is damaged ('utf-8' codec"),
    ],
)
def test_files_that_do_not_fit_each_other(tmp_path: Path, changed: dict, words: str) -> None:
    path = write(tmp_path, **changed)
    with pytest.raises(InputError) as error:
        read(path)
    assert words in str(error.value) and str(path) in str(error.value)


def test_a_zip_that_is_damaged_or_locked(tmp_path: Path) -> None:
    path = write(tmp_path)
    whole = path.read_bytes()
    for name, content, words in [
        ("short.zip", whole[:-30], "is damaged or cut short"),
        ("none.zip", b"not a zip", "is damaged or cut short"),
        ("empty.zip", b"", "is damaged or cut short"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=words):
            FlipFiles.open(tmp_path / name)
    at = whole.index(b"splits/sampled.fasta") + len(b"splits/sampled.fasta")  # where its deflated text begins
    for place, byte in ((at, 0x07), (at + 5, whole[at + 5] ^ 0xFF)):  # no deflate at all; another text
        (tmp_path / "flipped.zip").write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"flipped\.zip: sampled\.fasta is damaged .*\. Get the file again"):
            read(tmp_path / "flipped.zip")
    locked = bytearray(whole)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := locked.find(mark, at + 1)) >= 0:
            locked[at + flags] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    with pytest.raises(InputError, match=r"locked\.zip: sequences\.fasta can't be read .*password.*Unzip it"):
        read(tmp_path / "locked.zip")


def test_a_table_of_a_split(tmp_path: Path) -> None:
    path = write(tmp_path)
    records = read_regression_split(FlipFiles.open(path), "two_vs_rest.csv")
    assert [(r.sequence, r.target, r.split) for r in records] == [
        ("MKV", 1.5, "train"),
        ("MKL", -2.0, "valid"),
        ("MKI", 0.3, "test"),
    ]
    assert len({r.id for r in records}) == 3 and records[1].where.endswith("two_vs_rest.csv, line 3")
    with pytest.raises(InputError, match=r"no one_vs_rest\.csv in it; it holds mask\.fasta, .*two_vs_rest\.csv"):
        read_regression_split(FlipFiles.open(path), "one_vs_rest.csv")
    for old, new, words in [
        ("target", "score", "line 2: no column target; the columns are sequence, score, set, validation"),
        ("3e-1", "high", "line 4: the target 'high' is not a number"),
        ("3e-1", "", "line 4: the target is missing"),
        (",test,", ",later,", "line 4: set 'later', validation 'False'"),
    ]:
        path = write(tmp_path, two_vs_rest=TABLE.replace(old, new))
        with pytest.raises(InputError) as error:
            read_regression_split(FlipFiles.open(path), "two_vs_rest.csv")
        assert words in str(error.value)


def test_splits_are_named_by_two_words() -> None:
    assert [named_split(*words, "here") for words in (("train", ""), ("TRAIN", "false"), ("train", "True"))] == [
        "train", "train", "valid",
    ]  # fmt: skip
    assert named_split("test", "True", "here") == "test"  # a mark for validation says nothing of the test


@given(st.data())
def test_targets_are_classes_where_every_mask_is_on(data: st.DataObject) -> None:
    """Against a loop over the residues."""
    labels = data.draw(st.text("HEC", min_size=1, max_size=40))
    words = st.lists(st.sampled_from(("0", "1", "0.0", "1.0")), min_size=len(labels), max_size=len(labels))
    masks = data.draw(st.lists(words, max_size=2))
    wanted = [
        IGNORE if any(float(mask[i]) == 0 for mask in masks) else CLASSES[letter] for i, letter in enumerate(labels)
    ]
    found = residue_targets(labels, len(labels), CLASSES, "here", [(mask, "there") for mask in masks])
    assert found.dtype == np.int64 and found.tolist() == wanted
    with pytest.raises(InputError, match=f"here has {len(labels) + 1} residues but {len(labels)} labels"):
        residue_targets(labels, len(labels) + 1, CLASSES, "here")


def test_members_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    """A damaged member that is not needed does no harm, and reading twice gives the same."""
    files = FlipFiles.open(write(tmp_path))
    assert files.text("mask.fasta") == files.text("mask.fasta") == FILES["mask.fasta"]
    assert read_bytes(files.path).startswith(b"PK")
