"""`python -m plmft.benchmark protocol=compression` on a tuned model, as a user runs it."""

import csv
import importlib
import subprocess
import sys

import pytest
import torch
import yaml

from plmft import InputError
from plmft.bench.compress_run import find, model_config
from plmft.bench.compression import Compression
from plmft.config.compose import compose_config, parts_of
from plmft.models.build import build_predictor
from plmft.models.tuned import Description, save
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.sweeps.jobs import plain
from plmft.tracking.options import Tracking
from tests.e2e.command import TIMEOUT_S, Ended, environment
from tests.unit.bench_parts import small_bench

SHORT = ("protocol.blocks=1", "protocol.block_s=0.01", "protocol.least_calls=1", "protocol.warmup_s=0.1")
GIVEN = ("model=esm2_tiny", "hardware=cpu", "protocol=compression", "protocol.passes=1", "protocol.length=20", *SHORT)


@pytest.fixture
def tuned(tmp_path):
    """A run's folder: an untrained esm2_tiny for the quickstart's task, and the config that names its records."""
    config = plain(compose_config(["experiment=quickstart", "task.train=20", "task.valid=12", "task.test=16"]))
    parts = parts_of({"task": config["task"], "model": config["model"]})
    task, spec = parts["task"], parts["model"]
    torch.manual_seed(0)
    options = {"tuning": Full(), "head": task.head, "kind": task.kind}
    predictor = build_predictor(spec, Located("random"), outputs=len(task.classes), **options)
    description = Description(spec, task=task.name, classes=task.classes, unit="", **options)
    save(predictor, description, Located("random"), tmp_path / "run" / "model")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run"


def compression(runs, *arguments, **changes) -> Ended:
    command = [sys.executable, "-m", "plmft.benchmark", *GIVEN, *arguments]
    around = environment(runs, **changes)
    process = subprocess.run(command, capture_output=True, text=True, env=around, timeout=2 * TIMEOUT_S)
    return Ended(process.returncode, process.stdout, process.stderr)


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT_S)
def test_a_row_for_each_variant_each_from_its_own_process(tuned, tmp_path):
    (tmp_path / "mylab.py").write_text("def broken(predictor):\n    raise ValueError('no such kernel here')\n")
    given = f"protocol.run={tuned}", "protocol.variants=[int8_static,mylab.broken]"
    found = compression(tmp_path / "runs", *given, PYTHONPATH=f".:{tmp_path}")
    assert "compression: esm2_tiny (random" in found.succeeded()
    (file,) = (tmp_path / "runs" / "work").glob("*compression*/rows.csv")
    rows = {row["variant"]: row for row in csv.DictReader(file.open())}
    assert list(rows) == ["fp32", "int8_static", "mylab.broken"]
    assert rows["mylab.broken"]["note"] == "failed: ValueError: no such kernel here"
    assert rows["mylab.broken"]["score"] == ""
    for name in ("fp32", "int8_static"):
        assert rows[name]["weights"] == "tuned (Full) from random weights"
        assert float(rows[name]["peak_host_memory_gb"]) > 0.1
    assert float(rows["int8_static"]["disk_mb"]) < 0.5 * float(rows["fp32"]["disk_mb"])
    assert not list(file.parent.glob("predictions/records*"))


@pytest.mark.parametrize(
    ("given", "words"),
    [({}, "protocol.run is not given"), ({"run": "x", "variants": ("int9",)}, "no 'int9'.*int8_dynamic")],
)
def test_mistakes_are_found_before_a_run_is_opened(given, words):
    with pytest.raises(InputError, match=words):
        Compression(**given).fixes()


def in_this_process(bench, function, cells, *, fresh=False):
    """As `plmft.bench.apart.apart`."""
    module, _, name = function.rpartition(".")
    for cell in cells:
        yield cell, getattr(importlib.import_module(module), name)(bench, **cell)


@pytest.mark.slow
def test_rows_hold_conditions_figures_and_the_difference(tuned, tmp_path, monkeypatch):
    monkeypatch.setattr("plmft.bench.apart.apart", in_this_process)
    short = {"passes": 1, "length": 20, "blocks": 1, "block_s": 0.01, "least_calls": 1, "warmup_s": 0.0}
    protocol = Compression(run=str(tuned), variants=("heads_75", "prune_2_4"), records=10, **short)
    rows = {row["variant"]: row for row in protocol.measure(small_bench(tmp_path))}
    assert list(rows) == ["fp32", "heads_75", "prune_2_4"]
    for row in rows.values():
        assert (row["model"], row["task"], row["metric"]) == ("esm2_tiny", "planted_structure", "accuracy")
        assert (row["records"], row["run"]) == (10, "run")
        assert row["latency_ms_p50"] > 0 and row["residues_per_s"] > 0
    whole, cut = rows["fp32"], rows["heads_75"]
    assert cut["disk_mb"] < whole["disk_mb"] == rows["prune_2_4"]["disk_mb"]
    assert cut["score_delta"] == pytest.approx(cut["score"] - whole["score"], abs=1e-9)
    assert cut["score_delta_ci_low"] <= cut["score_delta"] <= cut["score_delta_ci_high"]
    assert "score_delta" not in whole and whole["score"] == pytest.approx(1 / 3, abs=0.25)


def test_another_model_is_refused_by_name(tuned, tmp_path):
    protocol = Compression(run=str(tuned))
    with pytest.raises(InputError, match=r"its model is esm2_tiny, not esm2_8m\. Add model=esm2_tiny"):
        next(protocol.measure(small_bench(tmp_path, "model=esm2_8m")))


def test_a_split_that_is_no_test_is_refused(tuned, tmp_path):
    protocol = Compression(run=str(tuned), split="valid")
    with pytest.raises(InputError, match=r"protocol\.split=valid: the test splits of planted_structure are test"):
        next(protocol.measure(small_bench(tmp_path)))


def test_the_benchmarks_run_is_told_to_be_of_the_tuned_model(tuned, monkeypatch, tmp_path):
    monkeypatch.setenv("PLMFT_RUNS", str(tmp_path / "runs"))
    config = plain(compose_config(["protocol=compression"], "benchmark"))
    assert config["model"]["name"] == "esm2_8m"
    found = Compression(run=str(tuned)).adapted(config)
    assert (found["model"]["name"], found["model"]["init"]) == ("esm2_tiny", "random")
    assert parts_of({"model": found["model"]})["model"].name == "esm2_tiny"


def test_weights_that_tuning_changed_are_read_where_they_lie(tuned):
    evaluated = find(str(tuned), Tracking(None), tuned)
    assert model_config(evaluated)["path"] is None
    evaluated.parts["base"] |= {"source": "hub", "included": True}
    assert model_config(evaluated)["path"] == str(tuned / "model" / "backbone")
