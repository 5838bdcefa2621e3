"""A user's file is read equal in every dialect, and whatever is wrong with one ends with one message."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from plmft import InputError
from plmft.config.check import check
from plmft.config.compose import compose_config
from plmft.data.records import build_dataset
from plmft.data.table import KINDS, Table, read_table
from plmft.data.table_columns import Chosen
from plmft.data.table_splits import Splitting
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead, SequenceHead

SPLITTING = Splitting("random", (0.8, 0.1, 0.1), 0)
SEQUENCES = ("MKVLAAGIVG", "MSTNPKPQRK", "GWDRYEHCFL", "MKKLLPTAAA")
ENDING = "train", "train", "valid", "test"


def load(path: Path, content: str | bytes, kind: str = "regression", **options: object) -> Loaded:
    """The file with this content, read."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    columns = {k: options.pop(k) for k in list(options) if k in Chosen.__dataclass_fields__}
    return read_table(Table(path, kind, Chosen(**columns), options.pop("splitting", SPLITTING), **options))


def rows_of(*targets: object, header: str = "sequence,target,split", sep: str = ",") -> str:
    """Four rows, two in train."""
    lines = [sep.join((s, str(t), e)) for s, t, e in zip(SEQUENCES, targets, ENDING, strict=True)]
    return "\n".join([header.replace(",", sep), *lines]) + "\n"


def said(loaded: Loaded) -> str:
    return "\n".join(loaded.notes)


def by_row(loaded: Loaded) -> list[tuple]:
    return [(r.id, r.sequence, r.target, r.split) for r in loaded.records]


ROWS = st.lists(
    st.tuples(
        st.text("ACDEFGHIKLMNPQRSTVWY", min_size=1, max_size=30),
        st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 4)),
        st.sampled_from(("train", "Validation", "TEST")),
        st.text("abz éüß;,\t\"'\n", max_size=6),
    ),
    min_size=1,
    max_size=8,
)
DIALECT = st.fixed_dictionaries(
    {
        "delimiter": st.sampled_from(",;\t"),
        "line_end": st.sampled_from(("\n", "\r\n", "\r")),
        "encoding": st.sampled_from(("utf-8", "utf-8-sig", "cp1252", "utf-16")),
        "quoting": st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
        "zipped": st.booleans(),
        "decimal_comma": st.booleans(),
    }
)


def written(rows: list[tuple], dialect: dict) -> bytes:
    """As a program with these habits writes it."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(
        buffer, delimiter=dialect["delimiter"], lineterminator=dialect["line_end"], quoting=dialect["quoting"]
    )
    writer.writerow(["id", "Remark", "SEQUENCE", "target", "set"])
    for number, (sequence, target, split, remark) in enumerate(rows):
        told = repr(target).replace(".", ",") if dialect["decimal_comma"] else repr(target)
        writer.writerow([f"p{number}", remark.replace("\n", dialect["line_end"]), sequence, told, split])
    raw = buffer.getvalue().encode(dialect["encoding"])
    return gzip.compress(raw, 1) if dialect["zipped"] else raw


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, dialect=DIALECT)
def test_any_dialect_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, rows: list, dialect: dict) -> None:
    rows = [("MKV", 0.5, "train", ""), ("MKV", 0.25, "valid", ""), *rows, ("MKL", 1.5, "test", "")]
    path = tmp_path_factory.getbasetemp() / ("a.csv.gz" if dialect["zipped"] else "a.csv")
    loaded = load(path, written(rows, dialect))
    words = {"train": "train", "Validation": "valid", "TEST": "test", "valid": "valid", "test": "test"}
    assert by_row(loaded) == [(f"p{n}", s, t, words[e]) for n, (s, t, e, _) in enumerate(rows)]
    assert build_dataset("table", "sequence_regression", loaded.records, source="").counts["train"] >= 1
    assert ("decimal commas" in said(loaded)) == dialect["decimal_comma"]
    assert ("Windows-1252" in said(loaded)) == (
        dialect["encoding"] == "cp1252" and any(not row[3].isascii() for row in rows)
    )
    assert ("UTF-16" in said(loaded)) == (dialect["encoding"] == "utf-16")
    assert "not used: 'Remark'" in said(loaded)


@settings(max_examples=50, deadline=None)
@given(remarks=st.lists(st.text('a\n\r"', max_size=5), min_size=3, max_size=6), blank=st.integers(0, 2))
def test_where_is_the_line_in_the_file(tmp_path_factory: pytest.TempPathFactory, remarks: list, blank: int) -> None:
    """Quoted line ends and blank lines count as an editor counts them."""
    text, wanted = "\n" * blank + "sequence,target,remark,split\n", []
    for number, remark in enumerate(remarks):
        wanted.append(1 + text.count("\n"))
        quoted = remark.replace("\r", "\n").replace('"', '""')
        text += f'MKV,1,"{quoted}",{("train", "valid", "test")[number % 3]}\n' + "\n" * blank
    path = tmp_path_factory.getbasetemp() / "lines.csv"
    assert [r.where for r in load(path, text).records] == [f"{path}, line {line}" for line in wanted]


def test_what_excel_writes_is_read_and_told(tmp_path: Path) -> None:
    """Semicolons, decimal commas, a BOM, CRLF, Excel's own first line, rows and columns without text."""
    text = "sep=;\r\nsequence;target;;split\r\nMKV;1,5;;train\r\n;;;\r\nMKL;2;;valid\r\nMKI;-1,25e2;;test\r\n;;;\r\n"
    loaded = load(tmp_path / "a.csv", "\ufeff" + text)
    assert by_row(loaded) == [
        ("row-1", "MKV", 1.5, "train"),
        ("row-2", "MKL", 2.0, "valid"),
        ("row-3", "MKI", -125.0, "test"),
    ]
    assert loaded.records[1].where == f"{tmp_path / 'a.csv'}, line 5"
    for told in ("byte order mark", "separated by semicolon", "2 rows without any text", "decimal commas"):
        assert told in said(loaded)


def test_mixed_line_ends_are_told(tmp_path: Path) -> None:
    loaded = load(tmp_path / "a.csv", "seq,y,set\r\nMKV,1,train\nMKL,2,val\rMKI,3,test\n")
    assert [r.where[-6:] for r in loaded.records] == ["line 2", "line 3", "line 4"]
    assert "mixed line ends (LF 2, CRLF 1, CR 1)" in said(loaded)


def test_commas_in_labels_do_not_make_a_comma_file(tmp_path: Path) -> None:
    """Both delimiters part the header or the rows, but only one gives every row the same number of fields."""
    loaded = load(tmp_path / "a.csv", "sequence;target, °C;split\nMKV;1;train\nMKL;2;valid\nMKI;3;test\n")
    assert [r.target for r in loaded.records] == [1, 2, 3]
    text = "sequence,target,split\nMKV,a;b,train\nMKL,b;c,train\nMKW,c,valid\nMKI,,test\n"
    loaded = load(tmp_path / "b.csv", text, "multilabel")
    assert loaded.classes == ("a", "b", "c") and "separated by" not in said(loaded)
    assert [r.target.tolist() for r in loaded.records] == [[1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_parquet_reads_as_csv_does(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame(
        {"sequence": SEQUENCES, "target": [0.1, np.nan, 3e-7, 4.0], "split": ENDING, "n": [1, 2, 3, 4]}
    )
    frame.to_parquet(tmp_path / "frame.parquet")
    loaded = load(tmp_path / "a.parquet", (tmp_path / "frame.parquet").read_bytes(), missing="drop")
    frame.dropna().to_csv(tmp_path / "b.csv", index=False)
    assert [r.target for r in loaded.records] == [0.1, 3e-7, 4.0]
    assert [r.where[-5:] for r in loaded.records] == ["row 1", "row 3", "row 4"]
    assert "1 rows without a value in column 'target' were left out" in said(loaded)
    other = load(tmp_path / "b.csv", (tmp_path / "b.csv").read_bytes())
    assert [(r.sequence, r.target, r.split) for r in loaded.records] == [
        (r.sequence, r.target, r.split) for r in other.records
    ]


def test_titin_is_a_record(tmp_path: Path, rng: np.random.Generator) -> None:
    titin = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 40_000))
    loaded = load(tmp_path / "a.csv", rows_of(1, 2, 3, 4).replace(SEQUENCES[1], titin))
    assert loaded.records[1].sequence == titin
    labels = "".join(rng.choice(list("HEC"), 40_000))
    text = f"sequence,target,split\nMKV,HEC,train\n{titin},{labels},valid\nMKV,HCC,test\n"
    assert len(load(tmp_path / "b.csv", text, "residue_classes").records[1].target) == 40_000


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"\xef\xbb\xbf", "the file is empty"),
        ("a.csv", b"\n \n", "the file is empty"),
        ("a.csv", b"sequence,target,split\n\n", "a header, but no rows. The columns are sequence, target, split"),
        ("a.csv", b"sequence,target\nMKV,1\nMKL\n", "line 3: 1 fields, but the header names 2"),
        ("a.csv", b'sequence,target\n"MK\nV",1\nMKL,2,3\n', "line 4: 3 fields, but the header names 2"),
        ("a.csv", b"sequence,target,target\nMKV,1,2\n", "the name 'target' stands over columns 2 and 3"),
        ("a.csv", b'sequence,target\n"MKV,1\nMKL,2\n', "line 2: unexpected end of data. Is a quote left open"),
        ("a.csv", b"MKVLAAGIVGMKVLAAGIVG,1\nMKV,2\n", "line 1: MKVLAAGIVG... is a sequence, but the first line"),
        ("a.csv", b"sequence|target\nMKV|1\n", "Columns must be separated by commas, semicolons or tabs"),
        ("a.json", b'[{"sequence": "MKV"}]', "is JSON. Write it as CSV"),
        ("a.csv", b"PK\x03\x04rest", "is an Excel workbook or a zip file. Save the sheet as CSV"),
        ("a.csv", b"\x1f\x8brest", "is gzipped. Let its name end in .gz"),
        ("a.csv.gz", gzip.compress(b"sequence,target\nMKV,1\n", mtime=0)[:-9], "the gzip file is damaged or cut short"),
        ("a.csv", b"sequence,target\nMK\x00V,1\n", "not text (byte 0 at"),
        ("a.csv", b"sequence,target\nMKV,1\nMK\x81,2\n", "line 3: byte 24 is no text. Save the file as UTF-8"),
        (
            "a.csv",
            "sequence,target\nMKV,é\n".encode() + b"MKL,\xe9\n",
            "not UTF-8 (line 3), and not Windows-1252 either (line 2)",
        ),
        ("a.parquet", b"PAR1 and nothing else PAR1", "the Parquet file is damaged"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path / name, content)
    assert str(tmp_path / name) in str(error.value) and words in str(error.value), error.value


def test_a_place_without_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("")
    table = Table(tmp_path, "regression", Chosen(), SPLITTING)
    with pytest.raises(InputError, match=r"is a folder\. Name a file in it: in\.csv"):
        read_table(table)
    with pytest.raises(InputError, match=r"b\.csv: no such file \(looked for at"):
        read_table(Table(tmp_path / "b.csv", "regression", Chosen(), SPLITTING))


def made(*overrides: str) -> Task:
    return instantiate(compose_config(["task=table", *overrides]).task, _convert_="all")


def test_the_tasks_options(tmp_path: Path) -> None:
    """Head and primary metric go by kind; a file is read from where the user is."""
    for kind, metric in zip(KINDS, ("spearman", "accuracy", "f1_max", "accuracy", "auroc"), strict=True):
        task = made(f"task.kind={kind}")
        assert (task.kind, task.primary_metric) == (KINDS[kind], metric)
        assert isinstance(task.head, ResidueHead if kind == "residue_classes" else SequenceHead)
    assert made("task.metric=rmse", 'task.unit="°C"').unit == "°C" and made("task.metric=rmse").primary_metric == "rmse"
    (tmp_path / "a.csv").write_text(rows_of(1, 2, 3, 4))
    loaded = made(f"task.file={tmp_path}/a.csv", "task.target=target").read(DataPlace(None, tmp_path))
    assert loaded.source == str(tmp_path / "a.csv") and len(loaded.records) == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("task.metric=acc", "task.kind=classification"), "task.metric=acc: no metric of classification. Known: acc"),
        (("task.fractions=[0.8,0.1,0.2]",), "task.fractions=[0.8, 0.1, 0.2]: they add up to 1.1, not to 1."),
        ((), "task.file is not set. Name a CSV, TSV, Parquet or FASTA file"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises((InputError, InstantiationException)) as error:
        made(*overrides).read(DataPlace(None, tmp_path))
    told = error.value if isinstance(error.value, InputError) else error.value.__cause__
    assert isinstance(told, InputError) and words in str(told)


def test_the_config_is_checked_key_by_key() -> None:
    config = OmegaConf.to_container(compose_config(["task=table", "task.file=a.csv", "task.target=2500"]), resolve=True)
    check(config)
    config["task"] |= {"kind": "residues", "fractions": [0.8, 0.1, "x"], "missing": "keep"}
    with pytest.raises(InputError) as error:
        check(config)
    lines = str(error.value).splitlines()
    assert [line.partition("=")[0] for line in lines] == ["task.kind", "task.missing", "task.fractions"]
    assert "Did you mean 'residue_classes'?" in lines[0]
