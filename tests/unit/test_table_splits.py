"""The words of a split column; and what becomes of a table that has none."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plmft import InputError
from plmft.data.table_splits import Splitting, named_splits
from plmft.data.table_values import Cells
from tests.conftest import random_sequence
from tests.unit.test_table import load, said

WORDS = ("train", "Training", "valid", "VALIDATION", "val", "dev", "test", "testing", "Holdout", "test_cb513")
CLUSTERS = Splitting("cluster", (0.8, 0.1, 0.1), 0)
SPLITS = ("train", "train", "valid", "valid", "valid", "valid", "test", "test", "test", "test_cb513")


def column(*texts: str, name: str = "set") -> Cells:
    return Cells(name, [f"my.csv, line {line}" for line in range(2, 2 + len(texts))], texts)


def test_words() -> None:
    assert named_splits(column(*WORDS), None, "my.csv") == list(SPLITS)


def test_flips_second_column() -> None:
    cells = column("train", "train", "test", "train")
    for words in (("", "True", "", "False"), ("0", "1", "0", ""), ("no", "YES", "false", "False")):
        found = named_splits(cells, column(*words, name="validation"), "my.csv")
        assert found == ["train", "valid", "test", "train"]
    # of no use where the first column tells them all
    assert named_splits(column("train", "val", "test"), column("7", "8", "9"), "my.csv") == ["train", "valid", "test"]


@pytest.mark.parametrize(
    ("texts", "validation", "words"),
    [
        (
            ("train", "a", "b", "a", "test"),
            None,
            "my.csv, line 3: column 'set': unknown words: 'a' (2 rows), 'b' (1 rows). Allowed: train (training), valid "
            "(validation, val, dev), test (testing, holdout), test_<name>. Rename them, or set task.split=none to "
            "split anew.",
        ),
        (("train", "", "test", ""), None, "my.csv, line 3: column 'set' is empty in 2 rows, here first. Write train"),
        (("train", "valid"), None, "my.csv: column 'set' has no test rows (train 1, valid 1). Mark some, or set"),
        (("train", "train"), None, "my.csv: column 'set' has no test rows (train 2)"),
        (("test", "valid"), None, "my.csv: column 'set' has no train rows"),
        (("train", "test"), ("maybe", ""), "my.csv, line 2: column 'validation': 'maybe' is neither True nor False"),
        (("train", "test"), ("", "True"), "my.csv, line 3: column 'validation': 'True', but the row is in test"),
    ],
)
def test_bad_words(texts: tuple, validation: tuple | None, words: str) -> None:
    with pytest.raises(InputError) as error:
        named_splits(column(*texts), column(*validation, name="validation") if validation else None, "my.csv")
    assert words in str(error.value), error.value


@pytest.fixture
def families(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """60 families of three relatives, two residues in a hundred apart: (family, sequence)."""
    monkeypatch.setenv("PATH", "")  # k-mers see these relatives, too
    found = []
    for family in range(60):
        parent = random_sequence(rng, 100)
        for position in (10, 50, 90):
            found.append((family, parent[:position] + "W" + parent[position + 1 :]))
    return found


def crossing(of_row: list[int], splits: list[str]) -> int:
    """Families that stand in several splits."""
    return sum(len({s for f, s in zip(of_row, splits, strict=True) if f == family}) > 1 for family in set(of_row))


def csv_of(header: str, rows: Iterable[Sequence[object]]) -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def test_without_a_split_column_families_stay_together(tmp_path: Path, families: list) -> None:
    text = csv_of("sequence,y", ((s, "bind" if f % 4 else "not") for f, s in families))
    how = Splitting("cluster", (0.6, 0.2, 0.2), 3)
    loaded = load(tmp_path / "a.csv", text, "classification", splitting=how)
    splits = [r.split for r in loaded.records]
    assert crossing([f for f, _ in families], splits) == 0
    assert [splits.count(s) for s in ("train", "valid", "test")] == [108, 36, 36]
    rare = [r.split for r in loaded.records if r.target == 1]  # each split has its share of each class
    assert [rare.count(s) for s in ("train", "valid", "test")] == [27, 9, 9]
    assert "No split column: split by 60 sequence clusters (k-mers" in said(loaded)
    again = load(tmp_path / "a.csv", text, "classification", splitting=how)
    assert [r.split for r in again.records] == splits
    other = load(tmp_path / "a.csv", text, "classification", splitting=replace(how, seed=4))
    assert [r.split for r in other.records] != splits
    at_random = load(tmp_path / "a.csv", text, "classification", splitting=replace(how, by="random"))
    assert crossing([f for f, _ in families], [r.split for r in at_random.records]) > 0
    assert "split at random" in said(at_random)


def test_validation_is_taken_out_of_train_by_family(tmp_path: Path, families: list) -> None:
    rows = [(s, f, "test" if f < 20 else "train") for f, s in families]
    loaded = load(tmp_path / "a.csv", csv_of("sequence,y,set", rows), splitting=CLUSTERS)
    splits = [r.split for r in loaded.records]
    assert [s == "test" for s in splits] == [f < 20 for f, _ in families]
    assert crossing([f for f, _ in families], splits) == 0
    assert 9 <= splits.count("valid") <= 15  # 120 / 9
    assert "No validation split: taken out of train, split by 40 sequence clusters" in said(loaded)


def test_no_protein_of_a_test_pair_has_a_relative_in_train(tmp_path: Path, families: list) -> None:
    """Pairs join families two by two."""
    rows = [(s, families[(i + 3) % 6 + i // 6 * 6][1], i % 2) for i, (_, s) in enumerate(families)]
    how = Splitting("cluster", (0.6, 0.2, 0.2), 0)
    loaded = load(tmp_path / "a.csv", csv_of("seq1,seq2,y", rows), "pairs", splitting=how)
    family = {s: f for f, s in families}
    where = [(family[s], r.split) for r in loaded.records for s in (r.sequence, r.partner)]
    assert crossing([f for f, _ in where], [s for _, s in where]) == 0
    assert {s for _, s in where} == {"train", "valid", "test"}


def test_variants_of_one_protein_cannot_be_split_by_cluster(tmp_path: Path, families: list) -> None:
    parent = families[0][1]
    rows = [(parent[:i] + "C" + parent[i + 1 :], i) for i in range(0, 100, 3)]
    with pytest.raises(InputError, match=r"a\.csv: No split of .* Set task\.split_by=random"):
        load(tmp_path / "a.csv", csv_of("sequence,y", rows), splitting=CLUSTERS)


def test_what_is_only_scored_needs_no_split_and_no_train_rows(tmp_path: Path, families: list) -> None:
    parent, path = families[0][1], tmp_path / "a.csv"
    variants = [(parent[:i] + "C" + parent[i + 1 :], i) for i in range(0, 100, 3)]
    for rows in (variants, variants[:3]):
        loaded = load(path, csv_of("sequence,y", rows), splitting=CLUSTERS, purpose="all", split="set")
        assert {r.split for r in loaded.records} == {"test"} and len(loaded.records) == len(rows)
        assert "split" not in said(loaded)
    with pytest.raises(InputError, match=r"No split of .* records=all\."):
        load(path, csv_of("sequence,y", variants), splitting=CLUSTERS, purpose="test")
    tests = csv_of("sequence,y,set", [(s, "a", "test") for s, _ in variants])
    for purpose in ("test", "all"):
        loaded = load(path, tests, "classification", splitting=CLUSTERS, purpose=purpose)
        assert ([r.split for r in loaded.records], loaded.classes) == (["test"] * len(variants), ("a",))
    with pytest.raises(InputError, match="has no train rows"):
        load(path, csv_of("sequence,y,set", [(s, y, "test") for s, y in variants]), splitting=CLUSTERS)
    mixed = csv_of("sequence,y,set", [(s, f % 7, "train" if f < 50 else "test") for f, s in families])
    kept = [load(path, mixed, splitting=CLUSTERS, purpose=purpose).records for purpose in ("train", "test")]
    assert [r.split for r in kept[0]] == [r.split for r in kept[1]], "a run's own records stay the same"


def test_rare_classes_and_labels_are_in_train_first(tmp_path: Path, families: list) -> None:
    """A class of one family can't be tested, but a run does not end over it."""
    rows = [(s, {7: "odd", 8: "few"}.get(f, "usual")) for f, s in families]
    for kind, text in (
        ("classification", csv_of("sequence,y", rows)),
        ("multilabel", csv_of("sequence,y", ((s, f"{y};all" if i % 2 else y) for i, (s, y) in enumerate(rows)))),
    ):
        for seed in range(5):
            loaded = load(tmp_path / "a.csv", text, kind, splitting=Splitting("cluster", (0.8, 0.1, 0.1), seed))
            assert {r.split for r, (f, _) in zip(loaded.records, families, strict=True) if f in (7, 8)} == {"train"}
