"""The kept leak report is the one that would be made, and is made again whenever it can't be trusted."""

from dataclasses import replace

import pytest

import plmft.data.leak_cache as leak_cache
from plmft.data.leak_cache import kept_leak_report
from plmft.data.leaks import leak_report
from plmft.data.records import Record, build_dataset

SEQUENCES = {"train": ["MKTAYIAKQRMKTAYIAKQR", "GAVLIPFWMS"], "valid": ["CCCCCWWWWW"], "test": ["GAVLIPFWMS"]}


def dataset(name="r"):
    records = [
        Record(f"{name}{i}{split}", sequence, float(i), split)
        for split, sequences in SEQUENCES.items()
        for i, sequence in enumerate(sequences)
    ]
    return build_dataset("toy", "sequence_regression", records, source="here", n_classes=0)


@pytest.fixture
def made(monkeypatch):
    """How often a report was made."""
    count = []
    monkeypatch.setattr(leak_cache, "leak_report", lambda splits: count.append(1) or leak_report(splits))
    return count


def test_a_kept_report_is_the_one_that_was_made(tmp_path, made):
    data = dataset()
    first, second = kept_leak_report(data, tmp_path), kept_leak_report(data, tmp_path)
    assert first == second
    assert first == replace(leak_report(data.splits), seconds=first.seconds)
    assert first.exact["train/test"] == 1
    assert len(made) == 1


def test_records_of_other_names_get_a_report_of_their_own(tmp_path, made):
    kept_leak_report(dataset(), tmp_path)
    assert {row.id[0] for row in kept_leak_report(dataset("s"), tmp_path).rows} == {"s"}
    assert len(made) == 2


def test_a_file_cut_short_is_made_anew(tmp_path, made):
    kept = kept_leak_report(dataset(), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert replace(kept_leak_report(dataset(), tmp_path), seconds=kept.seconds) == kept
    assert len(made) == 2


def test_a_folder_that_can_not_be_written_costs_no_run(tmp_path, made):
    place = tmp_path / "a file"
    place.write_text("")
    assert kept_leak_report(dataset(), place).exact["train/test"] == 1
