"""What cells say, by kind; and each bad cell's message with line, column, value and remedy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import IGNORE, build_dataset
from plmft.data.table import KINDS
from plmft.data.table_values import Cells, class_names, numbers
from tests.unit.test_table import SEQUENCES, by_row, load, rows_of, said

ROWS = rows_of(1, 2, 3, 4)
RESIDUES = "sequence,target,split\nMKV,HE.,train\nGWD,EHH,train\nMKK,HHH,valid\nMST,EEE,test\n"


def test_classes_are_named_by_the_data(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.csv", rows_of("b", "a", "b", "a"), "classification")
    assert loaded.classes == ("a", "b") and [r.target for r in loaded.records] == [1, 0, 1, 0]
    assert "Column 'target': 2 classes (a 2, b 2)." in said(loaded)
    loaded = load(tmp_path / "a.csv", rows_of("10", "9", "9", "10"), "classification")
    assert loaded.classes == ("9", "10")
    loaded = load(tmp_path / "a.csv", rows_of("Nucleus", "nucleus", "nucleus", "Nucleus"), "classification")
    assert "'Nucleus' and 'nucleus' differ in case alone: kept apart" in said(loaded)


def test_pairs_hold_both_sequences(tmp_path: Path) -> None:
    text = "seq1,seq2,target,split\nMKV,MST,1,train\nMKV,GWD,0,train\nMKK,MST,0,valid\nMKK,MKK,1,test\n"
    loaded = load(tmp_path / "a.csv", text, "pairs")
    assert loaded.classes == ("0", "1")
    assert [(r.sequence, r.partner, r.target) for r in loaded.records][:2] == [("MKV", "MST", 1), ("MKV", "GWD", 0)]
    build_dataset("table", "pair_classification", loaded.records, source="", n_classes=2)


def test_labels_of_residues(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.csv", RESIDUES, "residue_classes")
    assert loaded.classes == ("E", "H")
    assert [r.target.tolist() for r in loaded.records] == [[1, 0, IGNORE], [0, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert "1 residues of 12 have no label." in said(loaded)
    assert load(tmp_path / "a.csv", RESIDUES, "residue_classes", unlabelled="").classes == (".", "E", "H")
    masked = RESIDUES.replace("split", "split,mask").replace("train", "train,110").replace("valid", "valid,001")
    loaded = load(tmp_path / "a.csv", masked.replace("test\n", "test,111\n"), "residue_classes")
    assert [r.target.tolist() for r in loaded.records][:3] == [[1, 0, IGNORE], [0, 1, IGNORE], [IGNORE, IGNORE, 1]]


def test_sequences_are_cleaned_and_it_is_told(tmp_path: Path) -> None:
    text = 'sequence,target,split\n"mk\nv ",1,train\nmk l*,2,valid\nmki,3,test\n'
    loaded = load(tmp_path / "a.csv", text)
    assert [r.sequence for r in loaded.records] == ["MKV", "MKL", "MKI"]
    for told in ("out of 2 sequences", "a stop (*) at the end of 1 sequences", "in lower case: read as upper case"):
        assert told in said(loaded)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_target(tmp_path: Path, kind: str) -> None:
    """Refused, or left out and counted, ids and lines kept; no labels at all are a set of labels too."""
    text = "seq1,seq2,y,split\nMKV,MKV,{},train\nMKL,MKL,,train\nMKK,MKK,{},train\nMKI,MKI,{},valid\nMST,MST,{},test\n"
    text = text.format(*("HHE", "EHE", "EHH", "HHH") if kind == "residue_classes" else (1, 0, 1, 0))
    text = text if kind == "pairs" else text.replace("seq1,seq2", "seq,other")
    path = tmp_path / "a.csv"
    if kind == "multilabel":
        loaded = load(path, text, kind)
        assert loaded.records[1].target.tolist() == [0, 0] and "1 rows have no label" in said(loaded)
        return
    with pytest.raises(InputError, match=r"a\.csv, line 3: column 'y' is empty\. Fill it in, .*task\.missing=drop"):
        load(path, text, kind)
    loaded = load(path, text, kind, missing="drop")
    assert [r.id for r in loaded.records] == ["row-1", "row-3", "row-4", "row-5"]
    assert loaded.records[1].where.endswith("line 4") and "1 rows without a value in column 'y'" in said(loaded)


@given(st.lists(st.floats(-1e9, 1e9, allow_nan=False), min_size=1))
def test_numbers_with_either_mark(values: list[float]) -> None:
    texts = [repr(value) for value in values]
    assert numbers(Cells("y", [""] * len(texts), texts), ",")[0] == values
    commas = [text.replace(".", ",") for text in texts]
    assert numbers(Cells("y", [""] * len(texts), commas), ";")[0] == values


@given(st.sets(st.integers(-99, 99), min_size=2), st.sets(st.text("ab1", min_size=1), min_size=2))
def test_class_names_are_sorted(whole: set[int], words: set[str]) -> None:
    assert class_names(map(str, whole), "y", "f") == tuple(map(str, sorted(whole)))
    if not all(word.isdigit() for word in words):
        assert class_names(words, "y", "f") == tuple(sorted(words))


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("regression", rows_of(1, "high", 3, 4), "line 3: column 'target': 'high' is not a number. Mend it"),
        (
            "regression",
            rows_of("a", "b", "a", "b"),
            "line 2: column 'target': 'a' is not a number. No row of",
        ),
        ("regression", rows_of(1, "1_0", 3, 4), "'1_0' is not a number"),
        ("regression", rows_of(1, "-inf", 3, 4), "line 3: column 'target': -inf is not finite"),
        ("regression", rows_of(1, "1e999", 3, 4), "line 3: column 'target': 1e999 is too large"),
        (
            "regression",
            rows_of(1.5, '"2,5"', 3, 4),
            "line 3: column 'target': '2,5' is not a number. Other rows",
        ),
        ("regression", rows_of('"1,500"', '"2,500"', 3, 4), "'1,500' may mean thousands or a decimal comma"),
        ("regression", rows_of("", "NA", 3, 4), "line 2: column 'target' is empty in 2 rows, here first"),
        (
            "regression",
            ROWS.replace("MST", "M-T"),
            "line 3: column 'sequence': '-' at position 2 of 'M-TN",
        ),
        (
            "regression",
            ROWS.replace("MST", "M*T"),
            "'*' at position 2 of 'M*TNPKPQRK' is not an amino acid",
        ),
        ("regression", ROWS.replace("MST", "M1T"), "'1' at position 2"),
        (
            "regression",
            ROWS.replace("MST", "mst"),
            "'m' at position 1 of 'mstNPKPQRK' is not an amino acid",
        ),
        (
            "regression",
            ROWS.replace(SEQUENCES[1], "*"),
            "line 3: column 'sequence' has no sequence",
        ),
        ("classification", rows_of("a", "a", "a", "a"), "column 'target' holds the class 'a' alone. At least two"),
        (
            "classification",
            rows_of("a", "b", "b", "c"),
            "line 5: column 'target': 'c' is in test (1 rows in all) but",
        ),
        (
            "multilabel",
            rows_of("a", "b", "a|d", "a;d"),
            "line 4: column 'target': 'd' is in valid (2 rows in all) but",
        ),
        (
            "multilabel",
            rows_of('"a,b"', '"b"', "b", "b"),
            "line 2: column 'target': 'a,b' is one label. Part",
        ),
        (
            "residue_classes",
            RESIDUES.replace("EHH", "EH"),
            "line 3: column 'target': 'row-2' has 3 residues but 2",
        ),
        ("residue_classes", RESIDUES.replace("EHH", "E H"), "'row-2' has a blank at position 2"),
        ("residue_classes", RESIDUES.replace("HHH", "..."), "line 4: no residue of the valid split has a label"),
        ("residue_classes", RESIDUES.replace("EEE", "EEG"), "line 5: column 'target': 'G' is in test (1 rows in all)"),
    ],
)
def test_a_bad_cell_is_refused(tmp_path: Path, kind: str, content: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path / "a.csv", content, kind)
    assert str(tmp_path / "a.csv") in str(error.value) and words in str(error.value), error.value


def test_a_mask_that_masks_everything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"task\.unlabelled=EH\. leaves no residue with a label"):
        load(tmp_path / "a.csv", RESIDUES, "residue_classes", unlabelled="EH.")


def test_ids(tmp_path: Path) -> None:
    text = "id,sequence,y,set\na,MKV,1,train\nb,MKL,2,val\na,MKI,3,test\n"
    with pytest.raises(InputError) as error:
        load(tmp_path / "a.csv", text)
    file = tmp_path / "a.csv"
    assert str(error.value) == (
        f"{file}, line 4: id 'a' was used before, in {file}, line 2. Make ids unique, or set task.id=none to "
        "number the rows."
    )
    assert [row[0] for row in by_row(load(file, text, id="none"))] == ["row-1", "row-2", "row-3"]
    with pytest.raises(InputError, match=r"line 3: column 'id' is empty\. Fill it in, or set task\.id=none"):
        load(file, text.replace("b,", ","))


def test_targets_are_of_the_kinds_type(tmp_path: Path) -> None:
    """As the core asks for it."""
    loaded = load(tmp_path / "a.csv", rows_of("a;b", "b", "a", "b"), "multilabel")
    assert all(r.target.dtype == np.int8 for r in loaded.records)
    assert load(tmp_path / "a.csv", RESIDUES, "residue_classes").records[0].target.dtype == np.int64
