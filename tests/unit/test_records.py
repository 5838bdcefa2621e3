"""Every row is checked, and every message names the row, the value and the way out (field notes 2, 3, 4, 12)."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import IGNORE, DataSet, Record, build_dataset, fit_to_context, limit


def regression(sequence: str = "MKV", target: object = 1.0, id: str = "a", split: str = "train") -> Record:
    return Record(id, sequence, target, split, f"file.json, record of {id}")


def whole(*extra: Record, n: int = 4) -> list[Record]:
    usual = [
        regression("MKVL" + "AG" * i, float(i), f"{split}-{i}", split)
        for split in ("train", "valid", "test")
        for i in range(n)
    ]
    return [*usual, *extra]


def build(*extra: Record, n: int = 4) -> DataSet:
    return build_dataset("demo", "sequence_regression", whole(*extra, n=n), source="here")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (regression("MKBJ*"), ["'*' at position 5", "Allowed", "record of a"]),
        (regression("MKv"), ["'v' at position 3", "upper case"]),
        (regression(""), ["empty"]),
        (regression("MK", None), ["None", "not a number"]),
        (regression("MK", "0.5"), ["'0.5'", "not a number"]),
        (regression("MK", float("nan")), ["nan", "finite"]),
        (regression("MK", float("inf")), ["inf", "finite"]),
        (regression("MK", True), ["True", "not a number"]),
        (regression("MK", id="train-1"), ["'train-1' was used before", "record of train-1"]),
        (regression("MK", id="train-1", split="test"), ["used before (train and test)"]),
    ],
)
def test_bad_record_is_refused(record: Record, words: list[str]) -> None:
    with pytest.raises(InputError) as error:
        build(record)
    for word in words:
        assert word in str(error.value)


def test_residue_labels_must_fit() -> None:
    bad = [
        (np.array([0, 1]), "3 residues but 2 labels"),
        (np.array([0, 1, 3]), "class 3 at position 3"),
        (np.array([0, -1, 1]), "class -1 at position 2"),
    ]
    for target, words in bad:
        with pytest.raises(InputError, match=words):
            build_dataset("demo", "residue_classification", [regression("MKV", target)], source="here", n_classes=3)


LABELS = np.array([0, 1, 1], np.int8)


@pytest.mark.parametrize(
    ("kind", "good", "bad", "words"),
    [
        ("sequence_classification", 2, 3, r"class 3 of 'a' is not known \(0 to 2\)"),
        ("sequence_classification", 0, -1, "class -1 of 'a' is not known"),
        ("sequence_multilabel", LABELS, LABELS[:2], "'a' needs 3 labels of 0 or 1"),
        ("sequence_multilabel", LABELS, LABELS * 2, "'a' needs 3 labels of 0 or 1"),
        ("contacts", np.zeros((3, 3), np.float32), np.zeros((2, 3), np.float32), "3 residues but coordinates of 2"),
    ],
)
def test_targets_must_fit_their_kind(kind: str, good: object, bad: object, words: str) -> None:
    options = {"source": "here", "n_classes": 3, "needs": ("train",)}
    build_dataset("demo", kind, [regression("MKV", good)], **options)
    with pytest.raises(InputError, match=words):
        build_dataset("demo", kind, [regression("MKV", bad)], **options)


def test_a_pair_needs_two_good_sequences() -> None:
    options = {"source": "here", "n_classes": 2, "needs": ("train",)}
    pair = replace(regression("MKV", 1), partner="AC")
    assert build_dataset("demo", "pair_classification", [pair], **options).counts == {"train": 1}
    with pytest.raises(InputError, match="'a' has one sequence"):
        build_dataset("demo", "pair_classification", [regression("MKV", 1)], **options)
    with pytest.raises(InputError, match=r"'\*' at position 2"):
        build_dataset("demo", "pair_classification", [replace(pair, partner="A*")], **options)


def test_further_test_sets_stand_beside_the_first() -> None:
    data = build(regression("WWWW", 3.0, "w", "test_other"))
    assert list(data.tests) == ["test", "test_other"] and data.counts["test_other"] == 1
    assert limit(data, {"test": 1}, seed=0).counts == {"train": 4, "valid": 4, "test": 1, "test_other": 1}


def test_what_has_no_label_is_counted() -> None:
    records = [
        Record("a", "MKV", np.array([0, IGNORE, IGNORE]), "train"),
        Record("b", "MKVA", np.array([0, 1, 1, IGNORE]), "test"),
        Record("c", "MKVAA", np.array([0, 1, 1, 1, 1]), "valid"),
    ]
    data = build_dataset("demo", "residue_classification", records, source="here", n_classes=2)
    assert data.unlabelled == {"train": 2, "test": 1}
    coordinates = np.zeros((3, 3), np.float32)
    coordinates[1, 2] = np.nan
    data = build_dataset("d", "contacts", [regression("MKV", coordinates)], source="here", needs=("train",))
    assert data.unlabelled == {"train": 1}


def test_a_split_that_is_masked_throughout_is_refused() -> None:
    masked = [Record(s, "MKV", np.full(3, IGNORE), s, "") for s in ("train", "test")]
    good = Record("v", "MKV", np.array([0, IGNORE, 1]), "valid", "")
    with pytest.raises(InputError, match="here: nothing in the train split has a label: all are masked"):
        build_dataset("demo", "residue_classification", [*masked, good], source="here", n_classes=2)
    unresolved = [regression("MKV", np.full((3, 3), np.nan, np.float32))]
    with pytest.raises(InputError, match="nothing in the train split has a label"):
        build_dataset("demo", "contacts", unresolved, source="here", needs=("train",))
    none = [Record("a", "MKV", np.zeros(2, np.int8), "train")]  # no label of several is an answer, too
    assert build_dataset("demo", "sequence_multilabel", none, source="here", n_classes=2, needs=("train",)).counts


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match="no records in the valid split"):
        build_dataset("demo", "sequence_regression", [regression(), regression(id="b", split="test")], source="here")


def test_equal_sequences_across_splits_are_kept() -> None:
    data = build(regression("WWW", id="x"), regression("WWW", id="y", split="test"))
    assert data.counts == {"train": 5, "valid": 4, "test": 5}


def test_digest_is_of_the_records_not_of_the_file() -> None:
    data, same = build(), build_dataset("other", "sequence_regression", whole()[::-1], source="elsewhere")
    assert data.digest == same.digest and data.splits == same.splits
    renamed = [replace(r, id="x" + r.id, where="") for r in whole()]
    assert build_dataset("demo", "sequence_regression", renamed, source="").digest == data.digest
    other = [replace(r, target=r.target + 1e-9) if r.id == "test-2" else r for r in whole()]
    assert build_dataset("demo", "sequence_regression", other, source="").digest != data.digest
    moved = [replace(r, split="valid") if r.id == "test-2" else r for r in whole()]
    assert build_dataset("demo", "sequence_regression", moved, source="").digest != data.digest


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("AB", min_size=1, max_size=3), st.text("AB", max_size=2), st.integers(-1, 12))))
def test_digest_is_of_the_sorted_lines(rows: list[tuple[str, str, int]]) -> None:
    """As it is defined, and in any order of the records; so is the order in which they stand."""
    records = [
        Record(str(n), sequence, target / 4, ("train", "test")[n % 2], partner=partner)
        for n, (sequence, partner, target) in enumerate(rows)
    ]
    one = build_dataset("x", "sequence_regression", records, source="x", needs=())
    other = build_dataset("x", "sequence_regression", records[::-1], source="x", needs=())
    lines = [sorted(f"{s}\t{':'.join(r.sequences)}\t{r.target!r}\n" for r in one.splits[s]) for s in one.splits]
    wanted = hashlib.sha256("".join(line for split in lines for line in split).encode()).hexdigest()
    assert one.digest == other.digest == wanted
    assert one.splits == other.splits
    for found in one.splits.values():
        assert list(found) == sorted(found, key=lambda r: (r.sequence, r.partner, repr(r.target), r.id))


def test_limit_draws_a_seeded_subset() -> None:
    data = build(n=30)
    some = limit(data, {"train": 5, "valid": None, "test": 100}, seed=1)
    assert some.counts == {"train": 5, "valid": 30, "test": 30}
    assert some.subset and some.digest != data.digest
    assert limit(data, {"train": 5}, seed=1).splits == some.splits
    assert limit(data, {"train": 5}, seed=2).splits != some.splits
    assert limit(data, {}, seed=1) is data


@pytest.mark.parametrize("length", [9, 10, 11])
def test_length_policy_at_the_limit(length: int) -> None:
    sequence = ("MKVLAGYWTS" + "P")[:length]
    labels = np.arange(length) % 3
    records = [Record(f"{s}", sequence, labels, s, f"row {s}") for s in ("train", "valid", "test")]
    data = build_dataset("demo", "residue_classification", records, source="here", n_classes=3)
    if length <= 10:
        assert fit_to_context(data, 10, "refuse", "m") is data
        return
    with pytest.raises(InputError, match=r"11 residues, but m takes 10; 3 sequences are too long.*length_policy=crop"):
        fit_to_context(data, 10, "refuse", "m")
    windowed = fit_to_context(data, 10, "window", "m")
    assert windowed.windowed == {"train": 1, "valid": 1, "test": 1} and windowed.splits == data.splits
    cropped = fit_to_context(data, 10, "crop", "m")
    assert cropped.cropped == {"train": 1, "valid": 1, "test": 1}
    assert cropped.splits["test"][0].sequence == sequence[:10]
    assert cropped.splits["test"][0].target.tolist() == labels[:10].tolist()
    assert fit_to_context(data, None, "refuse", "m") is data
