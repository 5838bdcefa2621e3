"""--multirun: one parent over its jobs, with mean and standard deviation over seeds; nothing is left elsewhere."""

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.command import (
    TIMEOUT_S,
    TINY,
    Ended,
    arguments,
    brightness_rows,
    environment,
    run_apart,
    stored_runs,
    write_brightness,
)

BRIGHT = ("model=esm2_tiny", "task=fluorescence", "optim.epochs=1", "batch_size=8")


def of_sweep(runs: Path) -> tuple[list, list]:
    """(parents, children) in the store."""
    stored = stored_runs(runs)
    return [r for r in stored if "sweep" in r.data.tags], [r for r in stored if "mlflow.parentRunId" in r.data.tags]


def summaries(runs: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(runs.glob("work/*/summary.json"))]


@pytest.mark.slow
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
    kept = {"sweep.csv", "sweep.json", "accuracy_against_cost.png", "jobs", "tracking", ".gathering"}
    assert {file.name for file in folder.iterdir()} == kept, "Hydra's copy of the config is not kept"
    assert not list(tmp_path.glob("multirun")) and not list(tmp_path.glob("outputs"))
    told = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert told in ended.out
    again = command("--multirun", *TINY, "seed=1,0")
    assert again.code == 0 and told in again.out and "finished before" in again.out
    assert [run.info.end_time for run in stored_runs(store)] == [run.info.end_time for run in (parent, *children)]


def test_a_wrong_job_is_told_before_the_first_begins(command: Callable[..., Ended], store: Path) -> None:
    line = command("--multirun", *TINY, "seed=0,1", "optim.lr=1e-3,-1").refused("optim.lr=-1", "greater than 0")
    assert line.startswith("plmft: job seed=0 optim.lr=-1: ")
    assert stored_runs(store) == []
    assert not (store / "work").exists()


def test_a_sweep_has_one_store(command: Callable[..., Ended], store: Path) -> None:
    command("--multirun", *TINY, "tracking.uri=null,sqlite:///other.db").refused("tracking varies")
    assert stored_runs(store) == []


def test_an_interval_needs_a_search(command: Callable[..., Ended], store: Path) -> None:
    command("--multirun", *TINY, "optim.lr=interval(0,1)").refused("optim.lr=interval(0,1)", "hydra/sweeper=optuna")
    command("--multirun", *TINY, "hydra/sweeper=optuna", "optim.lr=interval(-1,1)").refused("optim.lr=-1.0")
    command("--multirun", *TINY, "hydra/sweeper=optuna", "seed=0,1").refused("seed varies")
    assert stored_runs(store) == []


def test_two_jobs_that_are_the_same_run(command: Callable[..., Ended], store: Path) -> None:
    command("--multirun", *TINY, "checkpoint.every_minutes=1,2").refused("checkpoint.every_minutes=2 comes twice")
    command("--multirun", *TINY, "hydra/launcher=local", "hydra.launcher.jobs=0").refused("hydra.launcher.jobs=0")
    assert not (store / "work").exists()


@pytest.mark.slow
def test_a_failed_job_ends_no_other_and_fails_the_parent(
    store: Path, data: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """All in one process, as by default."""
    rows = {split: brightness_rows(rng, 8) for split in ("train", "valid", "test")}
    bad = write_brightness(tmp_path / "bad", rows)
    (bad / "fluorescence" / "test.csv").write_text("sequence,log_fluorescence\nMKV,not a number\n")
    ended = run_apart(store, "--multirun", *BRIGHT, "seed=0,1", f"data.dir={bad},{data}")
    assert ended.code == 2
    assert "not a number" in ended.err and "Traceback" not in ended.err
    (parent,), children = of_sweep(store)
    assert parent.info.status == "FAILED"
    assert [child.info.status for child in children] == ["FINISHED"] * 2
    incomplete = parent.data.tags["sweep_incomplete"]
    assert incomplete.startswith(f"2 of 4 jobs finished; not: seed=0 data.dir={bad} (FAILED: ")
    assert f"seed=1 data.dir={bad} (FAILED: " in incomplete and "not a number" in incomplete
    lines = ended.out[ended.out.index("2 of 4 jobs finished") :].splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["seed=0", "seed=1"], "a line for each"
    (file,) = store.glob("work/*-sweep/sweep.csv")
    with file.open(newline="") as handle:
        found = {row["metric"]: row for row in csv.DictReader(handle)}
    values = [summary["metrics"]["test/mae"] for summary in summaries(store)]
    assert float(found["test/mae"]["mean"]) == pytest.approx(np.mean(values)) and found["test/mae"]["n"] == "2"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_processes_that_fail_or_are_killed_and_only_what_is_missing_again(
    store: Path, data: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Two at a time; a job that reads bad data, one killed by SIGKILL in training, one that is left alone."""
    rows = {split: brightness_rows(rng, 8) for split in ("train", "valid", "test")}
    bad = write_brightness(tmp_path / "bad", rows)
    sound = (bad / "fluorescence" / "test.csv").read_text()
    (bad / "fluorescence" / "test.csv").write_text("sequence,log_fluorescence\nMKV,not a number\n")
    sweep = (
        "--multirun",
        "hydra/launcher=local",
        "hydra.launcher.jobs=2",
        *BRIGHT,
        "seed=0,1",
        f"data.dir={bad},{data}",
    )

    first = killed_meanwhile(store, sweep, f"seed=1 data.dir={data}", "*-s1")
    assert first.code == 1, first
    assert f"seed=0 data.dir={data}: FINISHED" in first.out
    assert f"seed=1 data.dir={data}: FAILED: killed by SIGKILL" in first.out
    (parent,), children = of_sweep(store)
    assert [child.info.status for child in children] == ["FINISHED", "FAILED"]
    assert parent.info.status == "FAILED"
    assert "1 of 4 jobs finished" in parent.data.tags["sweep_incomplete"]
    for seed in (0, 1):
        assert f"seed={seed} data.dir={bad} (FAILED: " in parent.data.tags["sweep_incomplete"]
    assert "not a number" in (next(store.glob("work/*-sweep/logs/0-*.log"))).read_text()

    (bad / "fluorescence" / "test.csv").write_text(sound)
    again = run_apart(store, *sweep)
    assert again.code == 0, again
    (same,), now = of_sweep(store)
    assert same.info.run_id == parent.info.run_id and same.info.status == "FINISHED"
    assert "sweep_incomplete" not in same.data.tags
    assert [child.info.status for child in now] == ["FINISHED"] * 4
    assert (now[0].info.run_id, now[0].info.end_time) == (children[0].info.run_id, children[0].info.end_time)
    assert now[1].info.run_id == children[1].info.run_id and now[1].data.tags["attempts"] == "2"
    (file,) = store.glob("work/*-sweep/sweep.csv")
    with file.open(newline="") as handle:
        counts = {row["data.dir"]: row["n"] for row in csv.DictReader(handle) if row["metric"] == "test/spearman"}
    assert counts == {str(bad): "2", str(data): "2"}
    assert not list(store.glob("work/*-sweep/multirun.yaml"))

    last = run_apart(store, *sweep)
    assert last.code == 0 and "finished before" in last.out
    ends = [(run.info.run_id, run.info.end_time) for run in stored_runs(store)]
    assert ends == [(run.info.run_id, run.info.end_time) for run in (same, *now)], "nothing has run"


def killed_meanwhile(runs: Path, command: tuple[str, ...], job: str, folder: str) -> Ended:
    """Start a sweep, and kill the process of one job as soon as its MLflow run is open."""
    process = subprocess.Popen(
        arguments(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(runs)
    )
    wait_for(lambda: open_runs(runs, folder) == 1, process)
    os.kill(pid_of(process.pid, job), signal.SIGKILL)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ended(process.returncode, out, err)


def open_runs(runs: Path, folder: str) -> int:
    """Runs that the store knows."""
    return sum(
        json.loads(file.read_text())["run_id"] is not None for file in runs.glob(f"work/{folder}/tracking/run.json")
    )


def pid_of(parent: int, job: str) -> int:
    """The child process whose environment names this job."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    named = [pid for pid in children if f"{job}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()]
    (pid,) = named
    return int(pid)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_that_was_killed_goes_on_with_the_same_trials(store: Path) -> None:
    """Five trials in one process; it is killed in the third, and trials behind the median are pruned."""
    pytest.importorskip("optuna")
    options = ("hydra/sweeper=optuna", "hydra.sweeper.trials=5", "hydra.sweeper.startup=2", "optim.epochs=3")
    search = ("--multirun", *TINY[:-1], *options, "optim.lr=tag(log,interval(1e-6,1e-1))")
    process = subprocess.Popen(arguments(*search), stdout=subprocess.DEVNULL, env=environment(store))
    wait_for(lambda: open_runs(store, "*-s0") == 3, process)
    process.kill()
    process.wait()
    (folder,) = store.glob("work/*-sweep")
    chosen = [child.data.tags["overrides"] for child in of_sweep(store)[1]]
    ended = run_apart(store, *search)
    assert ended.code == 0, ended
    (parent,), children = of_sweep(store)
    assert len(chosen) == 3 and [child.data.tags["overrides"] for child in children][:3] == chosen
    assert [child.info.status for child in children] == ["FINISHED"] * 5 and parent.info.status == "FINISHED"
    pruned = [child for child in children if child.data.tags.get("pruned") == "true"]
    assert pruned, "the study's median is that of two random trials"
    for child in children:
        tested = any(name.startswith("test/") for name in child.data.metrics)
        assert tested == (child not in pruned)
    best = max((c for c in children if c not in pruned), key=lambda c: best_validation(store, c))
    assert float(parent.data.tags["best_optim.lr"]) == pytest.approx(float(best.data.params["optim.lr"]))
    assert parent.data.metrics["valid/accuracy_best"] == pytest.approx(best_validation(store, best))
    assert (folder / "search_history.png").exists()
    assert f"Best of 5 trials, {len(pruned)} of them pruned: optim.lr=" in ended.out
    assert run_apart(store, *search).code == 0
    assert len(of_sweep(store)[1]) == 5, "nothing has run"


def best_validation(runs: Path, child: object) -> float:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    return max(metric.value for metric in client.get_metric_history(child.info.run_id, "valid/accuracy"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
