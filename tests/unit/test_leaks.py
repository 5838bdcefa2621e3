"""Counts on made-up splits, where they are known, and the leaks that the published splits are known for."""

import csv
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plmft.data.leaks import LeakReport, find_variants, leak_report
from plmft.data.records import Record
from plmft.data.task import DataPlace
from plmft.tasks import binding, fluorescence, homology, stability
from tests.conftest import random_sequence

FOLDER = Path(os.environ["PLMFT_DATA"]).resolve() if os.environ.get("PLMFT_DATA") else None
REAL = pytest.mark.skipif(
    FOLDER is None or not (FOLDER / "stability" / "stability_test.csv.gz").is_file(),
    reason="PLMFT_DATA names no folder with the published data sets",
)


def record(split: str, number: int, sequence: str, target: object = 1.0) -> Record:
    return Record(f"{split}-{number}", sequence, target, split)


def by_split(records: list[Record]) -> dict[str, list[Record]]:
    return {s: [r for r in records if r.split == s] for s in dict.fromkeys(r.split for r in records)}


@pytest.fixture
def leaky(rng) -> dict[str, list[Record]]:
    a, b, c, d, e = (random_sequence(rng, 60) for _ in range(5))
    return by_split(
        [
            record("train", 0, a, 1.0),
            record("train", 1, a, 2.0),
            record("train", 2, b, 1.0),
            record("train", 3, b, 1.0),
            record("train", 4, c),
            record("valid", 0, c),
            record("valid", 1, d),
            record("test", 0, a),
            record("test", 1, a),
            record("test", 2, b[:30] + "WW" + b[30:]),  # 58 of 60 would do; two insertions
            record("test", 3, d),
            record("test_other", 0, e),
        ]
    )


def test_every_count(leaky) -> None:
    report = leak_report(leaky)
    exact = {pair: n for pair, n in report.exact.items() if n}
    assert exact == {"train/valid": 1, "train/test": 2, "valid/test": 1} and len(report.exact) == 6
    assert report.near == {"train/valid": 1, "train/test": 3, "train/test_other": 0}
    repeats = report.repeats["train"]
    assert (repeats.sequences, repeats.records, repeats.differing) == (2, 4, 1)
    assert report.variants is None and report.rows_left_out == 0
    metrics = report.metrics()
    assert metrics["data/exact_train_test"] == 2.0 and metrics["data/near_train_test"] == 3.0
    assert metrics["data/repeated_train"] == 2.0 and metrics["data/repeated_differing_train"] == 1.0
    assert all(isinstance(value, float) for value in metrics.values())


def test_lines_and_table(leaky) -> None:
    report = replace(leak_report(leaky), seconds=0.25)
    assert report.lines() == [
        "Equal sequences in two splits: train/valid 1 of 2 (50.0%), train/test 2 of 4 (50.0%), valid/test 1 of 4 "
        "(25.0%).",
        "Near duplicates of train, equal ones included: train/valid 1 of 2 (50.0%), train/test 3 of 4 (75.0%) (k-mers, "
        "90% identity over 80% of both sequences; 0.2 s).",
        "More than once in train: 2 sequences (4 records), 1 of them with different targets.",
        "More than once in test: 1 sequences (2 records), 0 of them with different targets.",
    ]
    rows = list(csv.DictReader(io.StringIO(report.table())))
    assert {(r["what"], r["id"], r["other_id"], r["identity"]) for r in rows} == {
        ("exact", "valid-0", "train-4", "1.0"),
        ("exact", "test-0", "train-0", "1.0"),
        ("exact", "test-1", "train-0", "1.0"),
        ("exact", "test-3", "valid-1", "1.0"),
        ("repeated", "train-1", "train-0", "1.0"),
        ("repeated", "train-3", "train-2", "1.0"),
        ("repeated", "test-1", "test-0", "1.0"),
        ("near", "test-2", "train-2", "0.9667"),
    }


def test_rows_are_cut_and_that_is_said(leaky) -> None:
    report = leak_report(leaky, max_rows=3)
    assert len(report.rows) == 3 and report.rows_left_out == 5
    assert report.lines()[-1] == "The table of leaks lists 3 pairs; 5 more are left out."


def same(a: LeakReport, b: LeakReport) -> bool:
    return replace(a, seconds=0) == replace(b, seconds=0)


def test_the_order_of_records_does_not_matter(leaky) -> None:
    assert same(leak_report({s: records[::-1] for s, records in leaky.items()}), leak_report(leaky))


def test_clean_and_lonely_splits(rng) -> None:
    clean = by_split([record(s, i, random_sequence(rng, 50)) for s in ("train", "valid", "test") for i in range(30)])
    lines = leak_report(clean).lines()
    assert lines[0] == "No sequence stands in two splits." and "equal ones included: none (" in lines[1]
    assert len(lines) == 2
    alone = leak_report({"test": clean["test"], "train": []})
    assert alone.exact == {} and alone.near == {} and len(alone.lines()) == 1


def test_arrays_as_targets(rng) -> None:
    sequence = random_sequence(rng, 30)
    targets = (np.zeros(30, np.int64), np.zeros(30, np.int64), np.ones(30, np.int64))
    report = leak_report({"train": [record("train", i, sequence, target) for i, target in enumerate(targets)]})
    assert report.repeats["train"].differing == 1 and report.repeats["train"].records == 3


def test_variants_of_one_protein_are_told_in_a_line(rng) -> None:
    parent = random_sequence(rng, 100)
    sequences = [parent[:i] + ("W" if parent[i] != "W" else "A") + parent[i + 1 :] for i in range(100)]
    sequences[7] = parent[:-2]
    records = [record(("train", "valid", "test")[i % 3], i, s) for i, s in enumerate(sequences)]
    report = leak_report(by_split(records))
    assert report.near == {"train/valid": 33, "train/test": 33} and not report.rows
    assert report.metrics()["data/odd_length"] == 1.0
    assert report.lines()[2:] == [
        "Variants of one protein of 100 residues: a median of 1 residues, at most 1, are not the commonest at their "
        "place. 1 of 100 sequences are not 100 long (98: 1).",
        "Near duplicates are the nature of such a set: counted, not listed.",
    ]
    assert find_variants([random_sequence(rng, 50) for _ in range(40)]) is None
    assert find_variants([]) is None and find_variants(["MKV"] * 19) is None


def test_pairs(rng) -> None:
    a, b, c, d = (random_sequence(rng, 60) for _ in range(4))
    near_a = ("W" if a[30] != "W" else "A").join((a[:30], a[31:]))

    def pair(split: str, number: int, first: str, second: str) -> Record:
        return replace(record(split, number, first, 1), partner=second)

    report = leak_report(
        {
            "train": [pair("train", 0, a, b), pair("train", 1, b, c)],
            "test": [pair("test", 0, b, a), pair("test", 1, b, near_a), pair("test", 2, a, c), pair("test", 3, d, d)],
        }
    )
    assert report.exact == {"train/test": 1}  # the other way round
    assert report.near == {"train/test": 2}
    assert report.proteins == {"train/test": (2, 1, 1)}
    assert [(r.what, r.id, r.other_id) for r in report.rows] == [
        ("exact", "test-0", "train-0"),
        ("near", "test-1", "train-0"),
    ]
    assert "Proteins of train/test: both seen in train 2, one 1, none 1 pairs." in report.lines()
    assert report.metrics()["data/proteins_none_train_test"] == 1.0


def real(task) -> LeakReport:
    return leak_report(by_split(task.read(DataPlace(FOLDER, FOLDER)).records))


@pytest.mark.slow
@REAL
def test_stability_has_the_known_leaks() -> None:
    report = real(stability.stability(None))
    assert report.exact == {"train/valid": 0, "train/test": 26, "valid/test": 0}
    rows = [row for row in report.rows if row.what == "exact"]
    assert len({row.id for row in rows}) == 26
    assert report.repeats["train"].sequences == 43 and report.variants is None


@REAL
def test_homology_and_binding_have_theirs() -> None:
    report = real(homology.homology(None))
    assert report.repeats["train"].sequences == 1 and not any(report.exact.values())
    report = real(binding.binding(None, "any"))
    names = {frozenset((row.id, row.other_id)) for row in report.rows if row.what in ("exact", "repeated")}
    assert frozenset(("P84229", "P84233")) in names
    assert names & {frozenset(p) for p in (("P62801", "P62799"), ("P62801", "P62805"), ("P62799", "P62805"))}


@REAL
def test_brightness_data_are_variants_some_too_short() -> None:
    records = fluorescence.fluorescence(None).read(DataPlace(FOLDER, FOLDER)).records
    variants = find_variants([r.sequence for r in records])
    assert variants.length == 237 and sum(variants.other_lengths.values()) == 2_310
    assert "2,310 of 54,025 sequences are not 237 long (235: 71, 236: 2,239)." in variants.line()
    short = {s: sum(r.split == s and len(r.sequence) != 237 for r in records) for s in ("train", "valid", "test")}
    assert short == {"train": 483, "valid": 127, "test": 1_700}
