"""The table of published values: well formed, and compared only where split and metric are the same."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from plmft.config.compose import config_folder
from plmft.data.task import DataPlace
from plmft.tracking.published import (
    BASELINES,
    LIKE,
    RECORDS,
    SHOWN,
    TABLE,
    Comparison,
    compare,
    load,
    method_of,
    published,
)

ROWS = load()
METRICS = {"tape/remote_homology_fold": "accuracy", "flip/secondary_structure": "accuracy"}
DESCRIPTORS = {"onehot", "onehot_alignment", "dde", "homology_transfer", "rfa"}
METHODS = {"frozen", "lora", "full", "random_init", *BASELINES}
FULL = RECORDS["tape/fluorescence"]
OURS = {"test/spearman": 0.66, "test/mae": 0.3}


def compared(records=FULL, metrics=OURS, protocol="tape/fluorescence", **options):
    return compare(protocol, metrics, records, **{"model": "esm2_8m", "tuning": "full"} | options)


def test_the_file_has_its_columns_and_no_row_twice():
    with TABLE.open(newline="") as handle:
        lines = list(csv.reader(handle))
    assert ",".join(lines[0]) == "protocol,split,metric,model,method,value,sd,seeds,source,where,doi_or_url,note"
    assert {len(line) for line in lines} == {12}
    assert all(cell == cell.strip() for line in lines for cell in line)
    identity = [(r.protocol, r.split, r.metric, r.model, r.method, r.source, r.where) for r in ROWS]
    assert len(set(identity)) == len(identity) == len(lines) - 1 >= 150


@pytest.mark.parametrize("protocol", RECORDS)
def test_each_row_is_a_fraction_of_a_known_split_with_its_source(protocol):
    rows = [row for row in ROWS if row.protocol == protocol]
    assert rows
    for row in rows:
        assert row.split in RECORDS[protocol], row
        assert row.metric == METRICS.get(protocol, "spearman"), row
        assert 0 < row.value < 1, row
        assert row.sd is None or (0 < row.sd < 0.2 and row.seeds >= 3), row
        assert row.method in METHODS, row
        assert row.source and row.where and row.doi_or_url.startswith(("10.", "https://")), row
        assert (row.method == "features") == (row.model in DESCRIPTORS), row


def test_no_row_is_of_an_unknown_protocol():
    assert {row.protocol for row in ROWS} == set(RECORDS)


def test_percents_became_fractions():
    (row,) = [r for r in ROWS if (r.protocol, r.model, r.method) == ("tape/stability", "esm2_650m", "lora")]
    assert (row.value, row.sd, row.seeds) == (0.8368, 0.0139, 3)
    assert row.note.startswith("percent in the source")


def test_models_are_named_as_in_conf():
    ours = {file.stem for file in (config_folder() / "model").glob("*.yaml")}
    esm = {r.model for r in ROWS if r.model.startswith(("esm", "protbert"))}
    assert esm <= ours
    assert set(LIKE) <= ours
    assert set(LIKE.values()) <= {r.model for r in ROWS}


@pytest.mark.parametrize(
    ("overrides", "protocol"),
    [
        (["task=fluorescence"], "tape/fluorescence"),
        (["task=stability"], "tape/stability"),
        (["task=homology"], "tape/remote_homology_fold"),
        (["task=gb1", "task.split=one_vs_rest"], "flip/gb1_one_vs_rest"),
        (["task=gb1", "task.split=three_vs_rest"], "flip/gb1_three_vs_rest"),
        (["task=secondary_structure"], "flip/secondary_structure"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tasks_have_these_protocols_metrics_and_records(overrides, protocol, tmp_path):
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        task = instantiate(compose("train", overrides).task, _convert_="all")
    assert task.protocol == protocol
    assert task.primary_metric in {r.metric for r in ROWS if r.protocol == protocol}
    data = os.environ.get("PLMFT_DATA")
    if not data:
        pytest.skip("PLMFT_DATA is not set: the records can't be counted")
    splits = [record.split for record in task.read(DataPlace(Path(data), tmp_path)).records]
    assert {s: splits.count(s) for s in ("train", "valid", "test")} == {
        s: RECORDS[protocol][s] for s in ("train", "valid", "test")
    }


def test_nearest_first():
    rows = published("tape/fluorescence", "test", OURS, model="esm2_8m", tuning="lora")
    assert [(r.model, r.method) for r in rows[:4]] == [
        ("esm2_8m", "lora"), ("esm2_8m", "random_init"), ("esm2_8m", "full"), ("esm2_8m", "frozen"),
    ]  # fmt: skip
    baselines = [r for r in rows[4:] if r.method in BASELINES]
    others = rows[4 + len(baselines) :]
    assert rows[4 : 4 + len(baselines)] == baselines
    for part in (baselines, others):
        assert [r.value for r in part] == sorted((r.value for r in part), reverse=True)
    assert all(r.metric == "spearman" for r in rows)


@pytest.mark.parametrize(
    ("ours", "method"),
    [
        (("esm2_8m", "lora", "pretrained"), "lora"),
        (("esm2_8m", "full", "random"), "random_init"),
        (("esm2_8m", "frozen", "random"), "random_init_frozen"),
        (("onehot_cnn", "full", "random"), "scratch"),
        (("onehot_linear", "full", "random"), "features"),
    ],
)
def test_method_of(ours, method):
    assert method_of(*ours) == method


def test_random_weights_are_compared_with_random_weights():
    rows = published("tape/fluorescence", "test", OURS, model="esm2_8m", tuning="full", init="random")
    assert (rows[0].model, rows[0].method, rows[0].value) == ("esm2_8m", "random_init", 0.6894)


def test_a_whole_run_is_compared():
    comparison = compared(init="random")
    assert comparison.reasons == ()
    row, ours = comparison.rows[0]
    assert (row.method, ours) == ("random_init", 0.66)
    lines = comparison.lines()
    assert lines[0] == (
        "published spearman, esm2_8m random_init",
        "0.689  (ours -0.029; Schmirler 2024, Figure S7 / Table S17)",
    )
    assert lines[2] == ("published spearman, esm2_8m full", "0.688 ± 0.003  (ours -0.028; Schmirler 2024, Figure S4)")
    assert [label.removeprefix("published spearman, ") for label, _ in lines[-2:]] == [
        "peer_cnn scratch", "esm2_3b lora",
    ]  # fmt: skip
    assert len(lines) == SHOWN


def test_the_best_and_the_best_baseline_are_always_shown():
    for model in ("esm2_3b", "onehot_cnn", "no such model", "prott5_xl_u50"):
        lines = compared(model=model, tuning="lora").lines()
        assert len(lines) <= SHOWN
        assert {"published spearman, peer_cnn scratch", "published spearman, esm2_3b lora"} <= {a for a, _ in lines}
        assert len({*lines}) == len(lines)


@pytest.mark.parametrize(
    ("comparison", "reason"),
    [
        (compared(subset=True), "not compared: the run took a part of the records"),
        (compared(protocol=""), "none on this split and metric"),
        (compared(metrics={"test/mae": 1.0}), "none on this split and metric"),
        (
            compared(records={**FULL, "train": 100, "valid": 0}),
            "not compared: train has 100 records, the published split 21,446; "
            "valid has 0 records, the published split 5,362",
        ),
        (
            compared(records={**FULL, "test": 27_000}),
            "not compared on test: test has 27,000 records, the published split 27,217",
        ),
    ],
    ids=["subset", "no protocol", "no metric", "other train", "other test"],
)
def test_what_differs_is_not_compared_and_the_reason_is_told(comparison, reason):
    assert comparison.rows == ()
    assert comparison.lines() == [("published values", reason)]


def test_test_sets_are_compared_one_by_one():
    records = {**RECORDS["flip/secondary_structure"], "test_cb513": 500}
    del records["test_casp12"]
    metrics = {f"{split}/accuracy": 0.7 for split in ("test", "test_cb513", "test_ts115")}
    comparison = compared(records, metrics, "flip/secondary_structure")
    assert {row.split for row, _ in comparison.rows} == {"test", "test_ts115"}
    assert comparison.reasons == ("not compared on test_cb513: test_cb513 has 500 records, the published split 513",)
    assert all("published accuracy" in label for label, _ in comparison.lines()[:-1])


def test_the_csv_has_all_rows_with_sources(tmp_path):
    comparison = compared()
    comparison.write_csv(tmp_path / "published.csv")
    with (tmp_path / "published.csv").open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) == len(comparison.rows) == sum(r.protocol == "tape/fluorescence" for r in ROWS)
    first = lines[0]
    assert (first["model"], first["method"], first["value"], first["ours"]) == ("esm2_8m", "full", "0.6884", "0.66")
    assert float(first["difference"]) == pytest.approx(0.66 - 0.6884)
    assert all(line["source"] and line["doi_or_url"] for line in lines)
    assert [line["sd"] for line in lines if line["model"] == "tape_lstm"] == [""]


def test_equal_figures_of_two_sources_stay_apart():
    rows = (ROWS[0], replace(ROWS[0], where="elsewhere"))
    assert len(Comparison(tuple((r, 0.5) for r in rows), model=ROWS[0].model).lines()) == 2
