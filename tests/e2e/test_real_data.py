"""TAPE's avGFP split, all of it: nothing is dropped, nothing is shared, and its digest is that of its records."""

import csv
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from plmft.data.records import SPLITS, DataSet, build_dataset, fit_to_context
from plmft.data.task import DataPlace
from plmft.tasks import fluorescence

DATA = os.environ.get("PLMFT_DATA")
FOLDER = Path(DATA).resolve() if DATA else None  # before a test changes the environment
pytestmark = pytest.mark.skipif(
    FOLDER is None or not (FOLDER / "fluorescence" / "fluorescence_test.json.gz").is_file(),
    reason="PLMFT_DATA names no folder with TAPE's fluorescence data",
)


def read(folder: Path) -> DataSet:
    loaded = fluorescence.read(DataPlace(folder, folder / "cache"))
    records, source = loaded.records, loaded.source
    return build_dataset("fluorescence", "sequence_regression", records, source=source)


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    return read(FOLDER)


def test_every_record_is_there(dataset: DataSet) -> None:
    assert dataset.counts == {"train": 21_446, "valid": 5_362, "test": 27_217}
    for split in SPLITS:
        rows = json.loads(gzip.decompress((FOLDER / "fluorescence" / f"fluorescence_{split}.json.gz").read_bytes()))
        wanted = Counter((row["primary"], *row["log_fluorescence"]) for row in rows)
        assert Counter((record.sequence, record.target) for record in dataset.splits[split]) == wanted


def test_short_sequences_are_kept(dataset: DataSet) -> None:
    """2,310 lost stop codons from their text: they are data, if odd ones, and no reader may drop them."""
    short = {split: sum(len(r.sequence) in (235, 236) for r in records) for split, records in dataset.splits.items()}
    assert short == {"train": 483, "valid": 127, "test": 1_700}
    assert {len(r.sequence) for records in dataset.splits.values() for r in records} == {235, 236, 237}
    assert fit_to_context(dataset, 1022, "refuse", "any") is dataset


def test_no_sequence_is_shared(dataset: DataSet) -> None:


def test_the_digest_is_that_of_the_records_and_not_of_the_files(dataset: DataSet, tmp_path: Path) -> None:
    again = read(FOLDER)
    assert again.digest == dataset.digest and again.splits == dataset.splits
    for split in SPLITS:
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "seq"])
            table.writerows((repr(r.target), r.sequence) for r in reversed(again.splits[split]))
    assert read(tmp_path).digest == dataset.digest
    lines = (tmp_path / "valid.csv").read_text().splitlines()
    (tmp_path / "valid.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert read(tmp_path).digest != dataset.digest
