"""A user's own file from the command line: every kind, a few steps, and what is said on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft.models.tuned import load
from tests.conftest import random_sequence
from tests.e2e.command import run_folder

SHORT = (
    "task=table", "model=esm2_tiny", "model.init=random", "tuning=full", "optim.max_steps=2", "batch_size=4",
    "hardware.precision=fp32",
)  # fmt: skip
SPLITS = ["train"] * 12 + ["val"] * 10 + ["test"] * 8


def csv_of(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def summary(runs: Path) -> dict:
    return json.loads((run_folder(runs) / "summary.json").read_text())


@pytest.mark.slow
def test_an_excel_export_is_read_and_said(command: Callable, store: Path, tmp_path: Path, rng) -> None:
    rows = [f"p{i};{random_sequence(rng, 20)};{i},5;{split}" for i, split in enumerate(SPLITS)]
    file = tmp_path / "tm.csv"
    file.write_bytes(("\ufeff" + "\r\n".join(["name;sequence;Tm;set", *rows])).encode())
    out = command(*SHORT, f"task.file={file}", "task.kind=regression", "task.target=Tm").succeeded()
    assert "table: 12 / 10 / 8 records (train / valid / test)" in out
    metrics = summary(store)["metrics"]
    assert {"test/spearman", "test/rmse", "baseline/mae", "test/conformal_coverage_90"} <= metrics.keys()
    assert len(pd.read_parquet(run_folder(store) / "predictions.parquet")) == 8


@pytest.mark.parametrize(
    ("kind", "label", "metric"),
    [("classification", ["a b", "c/d", "e"], "test/mcc"), ("multilabel", ["GO:1;GO:2", "GO:2", ""], "test/f1_max")],
)
def test_classes_and_labels(
    command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator, kind: str, label: list[str], metric: str
) -> None:
    rows = [f"{random_sequence(rng, 20)},{label[i % 3]},{split}" for i, split in enumerate(SPLITS)]
    file = csv_of(tmp_path / "mine.csv", "sequence,label,split", rows)
    command(*SHORT, f"task.file={file}", f"task.kind={kind}").succeeded()
    assert metric in summary(store)["metrics"] or metric == "test/mcc"
    model = load(run_folder(store) / "model")
    (found,) = model.predict(["MKTAYIAKQR"])
    assert set(found.split(";")) <= {"", *label, *";".join(label).split(";")}


@pytest.mark.slow
def test_pairs_of_proteins(command: Callable, store: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    rows = [f"{random_sequence(rng, 20)},{random_sequence(rng, 15)},{i % 2},{split}" for i, split in enumerate(SPLITS)]
    file = csv_of(tmp_path / "ppi.csv", "sequence_a,sequence_b,label,split", rows)
    command(
        *SHORT, f"task.file={file}", "task.kind=pairs", "task.sequence=sequence_a", "task.partner=sequence_b"
    ).succeeded()
    assert "test/auroc" in summary(store)["metrics"]
    model = load(run_folder(store) / "model")
    assert model.predict(["MKTAY"], ["WWWW"]) == model.predict(["WWWW"], ["MKTAY"])
    assert "partner" in pd.read_parquet(run_folder(store) / "predictions.parquet")


def test_residue_labels_in_a_second_fasta(command: Callable, store: Path, tmp_path: Path, rng) -> None:
    words = {"train": "SET=train VALIDATION=False", "val": "SET=train VALIDATION=True", "test": "SET=test"}
    sequences = [random_sequence(rng, 15) for _ in SPLITS]
    (tmp_path / "s.fasta").write_text("".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))
    labels = ["".join(rng.choice(list("HEC."), 15)) for _ in SPLITS]
    (tmp_path / "l.fasta").write_text(
        "".join(f">p{i} {words[w]}\n{s}\n" for i, (w, s) in enumerate(zip(SPLITS, labels, strict=True)))
    )
    command(
        *SHORT, f"task.file={tmp_path / 's.fasta'}", f"task.labels={tmp_path / 'l.fasta'}", "task.kind=residue_classes"
    ).succeeded()
    assert summary(store)["metrics"]["data/unlabelled_train"] > 0


@pytest.mark.slow
def test_without_a_split_it_splits_by_itself(command: Callable, store: Path, tmp_path: Path, rng) -> None:
    rows = [f"{random_sequence(rng, 30)},{i}" for i in range(40)]
    file = csv_of(tmp_path / "plain.csv", "sequence,value", rows)
    out = command(*SHORT, f"task.file={file}", "task.kind=regression").succeeded()
    assert "cluster" in out
    metrics = summary(store)["metrics"]
    assert metrics["data/train"] + metrics["data/valid"] + metrics["data/test"] == 40
    assert metrics["data/exact_train_test"] == metrics["data/near_train_test"] == 0


@pytest.mark.slow
def test_titin_is_refused_or_read_in_windows(command: Callable, store: Path, tmp_path: Path, rng) -> None:
    rows = [f"{random_sequence(rng, 20)},{i}.0,{split}" for i, split in enumerate(SPLITS)]
    rows[-1] = f"{random_sequence(rng, 40_000)},3.0,test"
    file = csv_of(tmp_path / "titin.csv", "sequence,value,split", rows)
    choose = (*SHORT, f"task.file={file}", "task.kind=regression")
    command(*choose).refused(
        "titin.csv, line 31", "has 40000 residues, but esm2_tiny takes", "data.length_policy=window"
    )
    assert not list(store.glob("work/*"))
    out = command(*choose, "data.length_policy=window").succeeded()
    assert "Read in windows of" in out and summary(store)["metrics"]["data/windowed_test"] == 1
    command(*choose, "data.length_policy=crop").succeeded()
    assert summary(store)["metrics"]["data/cropped_test"] == 1


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("sequence,value,split", "MKV,high,train", ["mine.csv, line 2", "'value'", "'high'"]),
        ("sequence,value,split", "MKV,1.0,trian", ["mine.csv", "'trian'"]),
        ("sequence,value,split", "MK1,1.0,train", ["mine.csv, line 2", "'1'"]),
        ("name,colour", "a,red", ["mine.csv", "task.sequence", "name, colour"]),
    ],
)
def test_a_fault_is_told_with_line_column_and_value(
    command: Callable, store: Path, tmp_path: Path, header: str, row: str, words: list[str]
) -> None:
    file = csv_of(tmp_path / "mine.csv", header, [row])
    command(*SHORT, f"task.file={file}", "task.kind=regression").refused(*words)
    assert not list(store.glob("work/*"))
