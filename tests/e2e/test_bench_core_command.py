"""`python -m plmft.benchmark` as a user runs it: what it leaves, what it refuses, how it stops."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.command import TIMEOUT_S, Ended, environment, stored_runs

MODEL = ("model=esm2_tiny", "model.init=random", "hardware=cpu", "hardware.precision=fp32")
SHORT = ("protocol.blocks=1", "protocol.block_s=0.01", "protocol.least_calls=1", "protocol.warmup_s=0.1")
LATENCY = ("protocol=latency", "protocol.lengths=[8,16]", "protocol.precisions=[fp32]", *SHORT)


def start(runs: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "plmft.benchmark", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(runs),
    )


def benchmark(runs: Path, *arguments: str) -> Ended:
    process = start(runs, *arguments)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ended(process.returncode, out, err)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_help_names_every_protocol(tmp_path):
    out = benchmark(tmp_path, "--help").succeeded()
    assert "python -m plmft.benchmark protocol=latency" in out
    for file in Path("conf/protocol").glob("*.yaml"):
        assert file.stem in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("protocol=latancy", ("there is no such protocol", "'latency'")),
        ("protocol.lenghts=[1]", ("no key 'lenghts'", "'lengths'")),
        ("protocol.lengths=[0]", ("protocol.lengths=", "greater than 0")),
        ("protocol.beside=esm3", ("protocol.beside=esm3: there is no such model",)),
        ("model=majority", ("no backbone to measure",)),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, given, words):
    tuning = ("tuning=full",) if given == "model=majority" else ()
    model = [word for word in MODEL if word.partition("=")[0] not in given]
    if given == "model=majority":
        model = [word for word in model if not word.startswith("model.")]
    benchmark(tmp_path, *model, given, *tuning).refused(*words)
    assert not list(tmp_path.glob("work/2*"))


@pytest.mark.slow
def test_several_models_by_one_command(tmp_path):
    changes = ("tuning=full", "protocol.implementations=[packed]", "~model.init")
    model = [word for word in MODEL if not word.startswith("model")]
    ended = benchmark(tmp_path, "--multirun", "model=onehot_cnn,onehot_resnet", *changes, *model, *LATENCY)
    assert "latency, all jobs" in ended.succeeded()
    (together,) = tmp_path.glob("work/*-sweep/latency.csv")
    with together.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["length"]) for row in rows] == [
        (model, length) for model in ("onehot_cnn", "onehot_resnet") for length in ("8", "16")
    ]
    assert not list(tmp_path.glob("work/*-sweep/multirun.yaml"))
    runs = stored_runs(tmp_path)
    assert {run.data.tags["plmft.sweep"] for run in runs} == {together.parent.name}
    assert [run.data.tags["model"] for run in runs] == ["onehot_cnn", "onehot_resnet"]
    for run in runs:
        check_run(tmp_path, run)


def check_run(runs: Path, run) -> None:
    """What MLflow has of a finished benchmark, and what lies in its folder."""
    tags = run.data.tags
    assert run.info.status == "FINISHED"
    assert (tags["plmft.kind"], tags["plmft.protocol"], tags["weights"]) == ("benchmark", "latency", "random")
    assert run.data.params["fixed.sequences"].startswith("random residues")
    assert run.data.params["protocol.lengths"] == "[8, 16]"
    assert not any(name.startswith("task") for name in run.data.params)  # it has no part in the figures
    folder = runs / "work" / tags["folder"]
    rows = rows_of(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["run_id"] == run.info.run_id
    assert len(summary["rows"]) == len(rows) == len((folder / "rows.jsonl").read_text().splitlines())
    last = float(rows[-1]["sequences_per_s"])
    assert run.data.metrics["bench/sequences_per_s"] == pytest.approx(last)


@pytest.mark.slow
def test_an_interrupted_run_keeps_its_rows(tmp_path):
    lengths = "protocol.lengths=[8,16,24,32,40,48,56,64,72,80,88,96]"
    process = start(tmp_path, *MODEL, "protocol=latency", lengths, "protocol.precisions=[fp32]", "protocol.block_s=2.0")
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and not any(f.stat().st_size for f in tmp_path.glob("work/2*/rows.jsonl")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == "plmft: interrupted; the rows measured so far are kept.\n"
    (run,) = stored_runs(tmp_path)
    assert run.info.status == "KILLED"
    assert rows_of(tmp_path / "work" / run.data.tags["folder"])


@pytest.mark.slow
def test_running_out_of_memory_costs_a_row(tmp_path):
    """No plan is made for a CNN, so that what does not fit is found out by trying; the next cell goes on."""
    grid = ("protocol.lengths=[16,100000]", "protocol.batches=[1]", "protocol.precisions=[fp32]")
    grid += ("protocol.modes=[inference]", "protocol.limit_gb=0.1", "protocol.largest_batch=0")
    model = ("model=onehot_cnn", "tuning=full", *MODEL[2:])
    benchmark(tmp_path, *model, "protocol=memory", *grid).succeeded()
    (run,) = stored_runs(tmp_path)
    rows = {row["length"]: row for row in rows_of(tmp_path / "work" / run.data.tags["folder"]) if not row["figure"]}
    assert float(rows["16"]["peak_above_libraries_gb"]) >= float(rows["16"]["floor_gb"])
    assert rows["100000"]["note"].startswith("out of memory: ")
    assert rows["100000"]["peak_host_memory_gb"] == ""
