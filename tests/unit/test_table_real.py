"""FLIP's own files, read as a user's: the same records as the tasks that are made for them read."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from plmft import InputError
from plmft.data.flip import FlipFiles, read_regression_split, read_residue_labels
from plmft.data.records import Record
from plmft.data.table import Table, read_table
from plmft.data.table_columns import Chosen
from tests.unit.test_table import SPLITTING

DATA = os.environ.get("PLMFT_DATA")
FOLDER = Path(DATA).resolve() if DATA else None


def unpacked(name: str, to: Path, *members: str) -> FlipFiles:
    """Write members of a data set's zip into a folder."""
    path = (FOLDER or Path()) / name / "splits.zip"
    if FOLDER is None or not path.is_file():
        pytest.skip(f"PLMFT_DATA names no folder with {name}/splits.zip")
    archive = zipfile.ZipFile(io.BytesIO(path.read_bytes()))
    for member in members:
        (to / member).write_bytes(archive.read(f"splits/{member}"))
    return FlipFiles.open(path)


def kept(records: list[Record]) -> set[tuple]:
    return {(r.sequence, r.split, r.target) for r in records}


def test_gb1(tmp_path: Path) -> None:
    files = unpacked("gb1", tmp_path, "three_vs_rest.csv", "three_vs_rest.fasta")
    table = read_table(Table(tmp_path / "three_vs_rest.csv", "regression", Chosen(), SPLITTING)).records
    assert len(table) == 8_733 and kept(table) == kept(read_regression_split(files, "three_vs_rest.csv"))
    fasta = read_table(Table(tmp_path / "three_vs_rest.fasta", "regression", Chosen(), SPLITTING)).records
    assert [(r.sequence, r.split) for r in fasta] == [(r.sequence, r.split) for r in table]
    np.testing.assert_allclose([r.target for r in fasta], [r.target for r in table], rtol=1e-12)


def test_secondary_structure(tmp_path: Path) -> None:
    files = unpacked("secondary_structure", tmp_path, "sequences.fasta", "sampled.fasta", "mask.fasta")
    beside = (tmp_path / "sampled.fasta", tmp_path / "mask.fasta")
    loaded = read_table(Table(tmp_path / "sequences.fasta", "residue_classes", Chosen(), SPLITTING, *beside))
    assert loaded.classes == ("C", "E", "H")
    assert any(note.startswith("186,876 residues of") for note in loaded.notes)
    numbers = {letter: number for number, letter in enumerate(loaded.classes)}
    wanted = read_residue_labels(files, "sampled.fasta", numbers, "mask.fasta")
    assert len(loaded.records) == len(wanted) == 9_712 + 1_080 + 364
    for ours, theirs in zip(loaded.records, wanted, strict=True):
        assert (ours.id, ours.sequence, ours.split) == (theirs.id, theirs.sequence, theirs.split)
        assert ours.target.tobytes() == theirs.target.tobytes()


def test_flaws_of_binding_are_told(tmp_path: Path) -> None:
    """A class that train lacks; and ids that stand twice in another split of the same data."""
    unpacked("binding", tmp_path, "sequences.fasta", "from_publication.fasta", "one_vs_many.fasta")
    for labels, words in (
        (
            "from_publication.fasta",
            r"line 2181: column 'labels': '7' is in test \(7 rows in all\) but nowhere in train",
        ),
        ("one_vs_many.fasta", r"line 2137: id 'Q5LL55' was used before, in .*one_vs_many\.fasta, line 1\."),
    ):
        with pytest.raises(InputError, match=words):
            read_table(Table(tmp_path / "sequences.fasta", "residue_classes", Chosen(), SPLITTING, tmp_path / labels))
