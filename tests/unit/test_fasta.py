"""FASTA: headers, sequences over several lines, and what is no FASTA; as a sheet with labels and masks beside it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.fasta import Entry, read_fasta
from plmft.data.records import IGNORE
from plmft.data.table import Table, read_table
from plmft.data.table_columns import Chosen
from tests.unit.test_table import SPLITTING, by_row, load, said

LABELS = ">a SET=train VALIDATION=False\nHEC\n>b set=train validation=True\nHHC\n>c SET=test\nEEC\n"
SEQUENCES = ">c\nMKI\n>a\nMK\nV\n>b\nMKL\n>d\nMKK\n"
MASK = ">b\n111\n>a\n101\n>c\n001\n"


def residues(folder: Path, labels: str = LABELS, sequences: str = SEQUENCES, mask: str | None = MASK, **options):
    """The three files read."""
    for name, text in (("labels", labels), ("sequences", sequences), ("mask", mask)):
        (folder / f"{name}.fasta").write_text(text or "")
    beside = (folder / "labels.fasta", folder / "mask.fasta" if mask else None)
    return read_table(Table(folder / "sequences.fasta", "residue_classes", Chosen(), SPLITTING, *beside, **options))


@given(
    st.lists(
        st.tuples(
            st.text("abcXYZ019|.-", min_size=1),
            st.dictionaries(st.sampled_from(("SET", "Target", "x_1")), st.text("abc1.-;", max_size=4)),
            st.text("ACDEFGH", min_size=1, max_size=200),
        ),
        min_size=1,
    ),
    st.integers(1, 80),
)
def test_entries_read_back(entries: list, width: int) -> None:
    text, wanted = "", []
    for id_, attributes, sequence in entries:
        line = text.count("\n") + 1
        lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
        text += "\n".join([" ".join([f">{id_}", *(f"{k}={v}" for k, v in attributes.items())]), *lines]) + "\n\n"
        wanted.append(Entry(id_, {k.upper(): v for k, v in attributes.items()}, sequence, f"f, line {line}"))
    assert list(read_fasta(text, "f")) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MKV\n>a\nMKL\n", "f, line 1: 'MKV' stands before the first header"),
        (">a\n>b\nMKL\n", "f, line 1: 'a' has no sequence below its header"),
        (">a\nMKL\n>\nMKL\n", "f, line 3: the header has no id"),
        ("\n", "f: no entry"),
    ],
)
def test_what_is_no_fasta(text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        list(read_fasta(text, "f"))
    assert words in str(error.value)


def test_targets_and_splits_in_the_header(tmp_path: Path) -> None:
    text = ">a TARGET=1.5 SET=train\nMK\nV\n>b target=-2 set=train validation=TRUE\nMKL\n>c TARGET=3 SET=test\nmki\n"
    loaded = load(tmp_path / "a.fasta", text.replace("mki", "MKI"))
    assert by_row(loaded) == [("a", "MKV", 1.5, "train"), ("b", "MKL", -2.0, "valid"), ("c", "MKI", 3.0, "test")]
    assert [r.where[-6:] for r in loaded.records] == ["line 1", "line 4", "line 6"]
    words = text.replace("1.5", "x;y").replace("-2", "y").replace("=3", "=")
    with pytest.raises(InputError, match=r"line 6: column 'sequence': 'm' at position 1"):
        load(tmp_path / "a.fa", words, "multilabel")
    loaded = load(tmp_path / "a.fa", words.replace("mki", "MKI"), "multilabel")
    assert loaded.classes == ("x", "y") and [r.target.tolist() for r in loaded.records] == [[1, 1], [0, 1], [0, 0]]


def test_labels_beside_sequences(tmp_path: Path) -> None:
    """E stands at masked residues alone, so it is no class."""
    loaded = residues(tmp_path)
    assert loaded.classes == ("C", "H")
    assert [(r.id, r.sequence, r.target.tolist(), r.split) for r in loaded.records] == [
        ("a", "MKV", [1, IGNORE, 0], "train"),
        ("b", "MKL", [1, 1, 0], "valid"),
        ("c", "MKI", [IGNORE, IGNORE, 0], "test"),
    ]
    assert "1 sequences have no labels in labels.fasta: left out" in said(loaded)
    assert loaded.records[1].where == f"{tmp_path / 'labels.fasta'}, line 3"


def test_labels_in_the_header(tmp_path: Path) -> None:
    """biotrainer's newer form: all in one file."""
    text = ">a TARGET=HE- SET=train MASK=111\nMKV\n>b TARGET=EHH SET=val MASK=110\nMKL\n"
    text += ">c TARGET=EHH SET=test MASK=011\nMKI\n"
    loaded = load(tmp_path / "a.fasta", text, "residue_classes", unlabelled="-.")
    assert [r.target.tolist() for r in loaded.records] == [[1, 0, IGNORE], [0, 1, IGNORE], [IGNORE, 1, 1]]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"labels": LABELS.replace("HHC", "HH")},
            "line 3: column 'labels': 'b' has 3 residues but 2 labels",
        ),
        ({"labels": LABELS.replace(">b", ">x")}, "labels.fasta, line 3: 'x' has labels but no sequence in"),
        ({"labels": LABELS.replace(">b", ">a")}, "labels.fasta, line 3: id 'a' was used before, in"),
        ({"sequences": SEQUENCES + ">a\nMKV\n"}, "sequences.fasta, line 10: id 'a' was used before, in"),
        ({"mask": MASK.replace("101", "10")}, "mask.fasta, line 3: 'a' has 3 residues but 2 mask values"),
        ({"mask": MASK.replace("101", "102")}, "mask.fasta, line 3: 'a' has the mask value '2' at position 3"),
        ({"mask": MASK.replace(">b", ">x")}, "labels.fasta, line 3: 'b' has no mask in"),
        ({"mask": MASK.replace("1", "0")}, "leaves no residue with a label. A mask has 1 where a label counts"),
        ({"mask": MASK.replace("001", "000")}, "labels.fasta, line 5: no residue of the test split has a label"),
        ({"labels": LABELS.replace(" SET=test", "")}, "line 5: column 'SET' is empty. Write train, valid or test"),
        ({"labels": "id,label\na,HEC\n"}, "labels.fasta: not FASTA"),
    ],
)
def test_files_that_do_not_fit_each_other(tmp_path: Path, changed: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        residues(tmp_path, **changed)
    assert words in str(error.value), error.value


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a mask goes with task\.labels"):
        load(tmp_path / "a.fasta", SEQUENCES, "residue_classes", mask=tmp_path / "m")
    with pytest.raises(InputError, match=r"task\.labels=.* go with task\.kind=residue_classes and a FASTA"):
        load(tmp_path / "a.fasta", SEQUENCES, "regression", labels=tmp_path / "m")
    with pytest.raises(InputError, match=r"which is the target column\? Set task\.target\. Headers need words such as"):
        load(tmp_path / "a.fasta", SEQUENCES)
