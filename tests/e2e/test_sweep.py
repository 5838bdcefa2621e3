"""--multirun: one parent over its jobs, with mean and standard deviation over seeds; nothing is left elsewhere."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.command import TINY, Ended, brightness_rows, run_apart, stored_runs, write_brightness

BRIGHT = ("model=esm2_tiny", "task=fluorescence", "optim.epochs=1", "batch_size=8")


def of_sweep(runs: Path) -> tuple[list, list]:
    """(parents, children) in the store."""
    stored = stored_runs(runs)
    return [r for r in stored if "sweep" in r.data.tags], [r for r in stored if "mlflow.parentRunId" in r.data.tags]


def summaries(runs: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(runs.glob("work/*/summary.json"))]


def test_two_seeds(command: Callable[..., Ended], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("--multirun", *TINY, "seed=0,1")
    assert ended.code == 0, ended
    (parent,), children = of_sweep(store)
    assert len(children) == 2
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert {child.info.experiment_id for child in children} == {parent.info.experiment_id}
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    values = [summary["metrics"]["test/accuracy"] for summary in summaries(store)]
    assert {summary["seed"] for summary in summaries(store)} == {0, 1}
    assert parent.data.metrics["seeds"] == 2
    assert parent.data.metrics["test/accuracy_mean"] == pytest.approx(np.mean(values))
    assert parent.data.metrics["test/accuracy_sd"] == pytest.approx(np.std(values, ddof=1))
    assert parent.data.params["overrides"].endswith("seed=0,1")
    (folder,) = store.glob("work/*-sweep")
    assert [file.name for file in folder.iterdir()] == ["sweep.csv"], "Hydra's copy of the config is not kept"
    assert not list(tmp_path.glob("multirun")) and not list(tmp_path.glob("outputs"))
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in ended.out


def test_a_wrong_job_is_told_before_the_first_begins(command: Callable[..., Ended], store: Path) -> None:
    line = command("--multirun", *TINY, "seed=0,1", "optim.lr=1e-3,-1").refused("optim.lr=-1", "greater than 0")
    assert line.startswith("plmft: job seed=0 optim.lr=-1: ")
    assert stored_runs(store) == []
    assert not (store / "work").exists()


def test_a_sweep_has_one_store(command: Callable[..., Ended], store: Path) -> None:
    command("--multirun", *TINY, "tracking.uri=null,sqlite:///other.db").refused("tracking varies")
    assert stored_runs(store) == []


@pytest.mark.slow
def test_a_failed_job_fails_the_parent_which_sums_up_the_finished(
    store: Path, data: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """In a process of its own: a job's failure ends it, and the parent is closed at its exit."""
    rows = {split: brightness_rows(rng, 8) for split in ("train", "valid", "test")}
    bad = write_brightness(tmp_path / "bad", rows)
    (bad / "fluorescence" / "test.csv").write_text("sequence,log_fluorescence\nMKV,not a number\n")
    ended = run_apart(store, "--multirun", *BRIGHT, "seed=0,1", f"data.dir={data},{bad}")
    assert ended.code == 2
    assert "not a number" in ended.err and "Traceback" not in ended.err
    (parent,), children = of_sweep(store)
    assert parent.info.status == "FAILED"
    assert [child.info.status for child in children] == ["FINISHED"]
    assert parent.data.tags["sweep_incomplete"] == "1 of 4 jobs finished; not: 3 without a run"
    assert "1 of 4 jobs finished" in ended.out
    (file,) = store.glob("work/*-sweep/sweep.csv")
    with file.open(newline="") as handle:
        found = {row["metric"]: row for row in csv.DictReader(handle)}
    assert float(found["test/mae"]["mean"]) == pytest.approx(summaries(store)[0]["metrics"]["test/mae"])
    assert (found["test/mae"]["sd"], found["test/mae"]["n"]) == ("", "1")
