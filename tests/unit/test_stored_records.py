"""Records come back from disk as they were, and what is read of them does not stay in memory."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.data.packing import EncodedSplit
from plmft.data.records import Kind, Record, build_dataset
from plmft.data.stored_records import StoredRecords, on_disk
from plmft.models.tokenizer import ESM
from tests.unit.any_kind import TARGETS, assert_equal_batches, made


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(list(TARGETS)), st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(0, 99), st.data()
)
def test_any_chunks_and_any_order(kind: Kind, lengths: list[int], seed: int, data: st.DataObject) -> None:
    records = made(kind, lengths, seed)
    index = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=12)))
    rows = data.draw(st.integers(1, 4))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        whole = EncodedSplit(records, ESM, kind)
        for module in ("encoding", "stored_records"):
            patch.setattr(f"plmft.data.{module}.ROWS", rows)
        stored = StoredRecords(records, Path(folder))
        assert_records_equal(list(stored), records)
        assert_records_equal([stored[int(i)] for i in index], [records[i] for i in index])
        parts = EncodedSplit(stored, ESM, kind, Path(folder))
        assert_equal_batches(whole.pack(index), parts.pack(index))


def assert_records_equal(ours: list[Record], theirs: list[Record]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert replace(one, target=None) == replace(other, target=None) and one.where == other.where
        assert type(one.target) is type(other.target)
        if isinstance(other.target, np.ndarray):
            assert one.target.dtype == other.target.dtype
        np.testing.assert_array_equal(one.target, other.target)


@pytest.mark.parametrize("seed", range(3))
def test_records_come_back_whatever_is_in_their_names(seed: int, tmp_path: Path) -> None:
    strange = ["", "Ω\n", 'a\tb"', "with\0nul\0s", "\udcff", "7" * 300]
    records = [replace(r, id=name) for r, name in zip(made("sequence_regression", [3] * 6, seed), strange, strict=True)]
    records[2] = replace(records[2], target=3)  # a whole number among the others
    stored = StoredRecords(records, tmp_path)
    assert list(stored) == records and not list(tmp_path.iterdir())
    assert stored[1:4] == tuple(records[1:4]) and stored[::-2] == tuple(records[::-2]) and stored[4:1] == ()
    assert stored[-1] == records[-1] and len(stored) == 6
    with pytest.raises(IndexError):
        stored[6]


def test_a_data_set_on_disk_is_the_same_data_set(tmp_path: Path) -> None:
    records = [replace(r, split=s) for r, s in zip(made("contacts", [9] * 3), ("train", "valid", "test"), strict=True)]
    dataset = build_dataset("x", "contacts", records, source="x")
    stored = on_disk(dataset, tmp_path / "new")
    assert (stored.digest, stored.counts, stored.unlabelled) == (dataset.digest, dataset.counts, dataset.unlabelled)
    assert list(stored.tests) == ["test"] and not list((tmp_path / "new").iterdir())


def test_resident_memory_does_not_grow_while_all_is_read(tmp_path: Path) -> None:
    """The tokens take 12 MB and the records 6 MB; one read of all, whatever the order, maps offsets alone."""
    records = made("sequence_regression", [3000] * 20) * 100
    stored = StoredRecords(records, tmp_path)
    split = EncodedSplit(stored, ESM, "sequence_regression", tmp_path)
    low = resident_file_mb()
    for number in np.random.default_rng(0).permutation(2000):
        split.pack(np.array([number]))
        assert stored[int(number)].id == records[number].id
    assert sum(len(record.sequence) for record in stored) == 6_000_000
    assert resident_file_mb() - low < 3


def resident_file_mb() -> float:
    """Pages of files that this process has mapped."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024 / 1e6
    pytest.skip("this system does not tell")
