"""Columns are guessed where only one can be meant; else the user is asked, with the columns and the key."""

from pathlib import Path

import pytest

from plmft import InputError
from plmft.data.table_columns import PAIRS, SEQUENCES, Chosen, Columns, find_columns
from plmft.data.table_sheet import Sheet, delimited_sheet

SEQUENCE, OTHER = "MKVLAAGIWGDE", "MSTNPKPQRKWY"
LABELS = "HHHEEECCCHHE"


def sheet(header: str, *rows: str) -> Sheet:
    return delimited_sheet("\n".join([header, *rows]) + "\n", Path("my.csv"), [])


def found(header: str, *rows: str, kind: str = "regression", **chosen: object) -> Columns:
    return find_columns(sheet(header, *rows), kind, Chosen(**chosen))[0]


@pytest.mark.parametrize("name", ["sequence", "SEQ", "Primary", "protein_sequence", "AA Sequence", "aa-seq", "Peptide"])
def test_known_names_in_any_spelling(name: str) -> None:
    columns = found(f"Entry,{name},Score,Set,Validation,n", f"p1,{SEQUENCE},1,train,,3")
    assert columns == Columns(name, "Score", "Set", "Entry", None, "Validation", None)


def test_content_tells_where_names_do_not() -> None:
    columns, notes = find_columns(
        sheet("gene,aa,Tm", f"MDH,{SEQUENCE},41.5", f"LDH,{OTHER},42"), "regression", Chosen()
    )
    assert columns == Columns("aa", "Tm", None, None, None, None, None)
    assert notes == [
        "my.csv: sequence column: 'aa', target column: 'Tm' (guessed; task.<name>=<column> says otherwise).",
        "my.csv: not used: 'gene'.",
    ]
    assert found("aa,where", f"{SEQUENCE},nucleus", kind="classification").target == "where"
    for where in ("PLASTIDS", "Golgi apparatus"):  # amino acids too, all of them
        rows = [f"{SEQUENCE[i:]},{('PERIPLASM', 'NUCLEI', where)[i % 3]}" for i in range(8)]
        assert found("aa,where", *rows, kind="classification").sequence == "aa"
    residues = found("aa,ss,gene", f"{SEQUENCE},{LABELS},MDH", kind="residue_classes")
    assert (residues.sequence, residues.target) == ("aa", "ss")


def test_what_the_user_names_is_taken() -> None:
    columns = found("seq,primary,2500,label", f"{SEQUENCE},{OTHER},1,2", sequence="PRIMARY", target=2500, id="label")
    assert (columns.sequence, columns.target, columns.id) == ("primary", "2500", "label")
    assert found("id,seq,y,set", f"a,{SEQUENCE},1,x", split="none", id="none") == Columns(
        "seq", "y", None, None, None, None, None
    )


def test_row_numbers_of_other_programs_are_no_target() -> None:
    """The unnamed first column that pandas writes."""
    assert found(",seq,Tm", f"0,{SEQUENCE},40").target == "Tm"
    assert found("Unnamed: 0,seq,Tm", f"0,{SEQUENCE},40").target == "Tm"


@pytest.mark.parametrize("names", [*PAIRS, ("sequence", "partner"), ("first", "second")])
def test_pairs(names: tuple[str, str]) -> None:
    columns = found(f"{names[0]},{names[1]},binds", f"{SEQUENCE},{OTHER},1", kind="pairs")
    assert (columns.sequence, columns.partner, columns.target) == (*names, "binds")


def test_names_come_before_content() -> None:
    """Whatever stands before it, a known name is the sequence."""
    for name in SEQUENCES:
        assert found(f"other,{name},y", f"{OTHER},{SEQUENCE},1").sequence == name


@pytest.mark.parametrize(
    ("header", "row", "options", "words"),
    [
        (
            "seq,primary,y",
            f"{SEQUENCE},{OTHER},1",
            {},
            "the sequence column may be 'seq' or 'primary'. Set task.sequence",
        ),
        ("a,b,y", f"{SEQUENCE},{OTHER},1", {}, "the sequence column may be 'a' or 'b'. Set task.sequence"),
        ("seq,score,label", f"{SEQUENCE},1,2", {}, "the target column may be 'score' or 'label'. Set task.target"),
        ("seq,kd,tm", f"{SEQUENCE},1,2", {}, "the target column may be 'kd' or 'tm'. Set task.target"),
        ("seq,set,split,y", f"{SEQUENCE},a,b,1", {}, "the split column may be 'set' or 'split'. Set task.split"),
        ("gene,y", "MDH,1", {}, "which is the sequence column? Set task.sequence"),
        ("seq,kd", f"{SEQUENCE},high", {}, "which is the target column? Set task.target"),
        ("seq", SEQUENCE, {}, "which is the target column? Set task.target. Columns must be separated by"),
        ("seq,tm", f"{SEQUENCE},1", {"target": "Tn"}, "task.target=Tn: my.csv has no such column. Did you mean 'tm'?"),
        ("seq,tm", f"{SEQUENCE},1", {"target": "seq"}, "which is the sequence column?"),
        ("seq,tm", f"{SEQUENCE},1", {"sequence": "seq", "target": "seq"}, "the column is taken as sequence"),
        (
            "seq,y",
            f"{SEQUENCE},1",
            {"kind": "pairs"},
            "which is the partner column? Set task.partner. A pair needs two",
        ),
    ],
)
def test_the_user_is_asked(header: str, row: str, options: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        found(header, row, **options)
    assert words in str(error.value), error.value
    assert str(error.value).endswith(f"The columns are: {', '.join(header.split(','))}.") or "is taken" in words
