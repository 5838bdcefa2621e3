"""Runs and sweeps on a real SLURM cluster of one node: what SLURM and its users do to jobs, and what becomes of them.

All is under way at once, begun by the first test that needs it; each test waits for its own part.
"""

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from tests.e2e.command import arguments, environment, stored_runs
from tests.slurm.queue import TEMPLATE, restarts, sbatch, scontrol, start_now, state, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]

RUN = ("experiment=quickstart", "hardware.accelerator=cpu", "hardware.precision=fp32", "batch_size=4")
SHORT = (*RUN, "task.train=8", "task.valid=4", "task.test=4", "optim.epochs=1")
LONG = (*RUN, "task.train=320", "task.valid=4", "task.test=16")
ENDLESS = (*LONG, "optim.epochs=10000", "optim.patience=null")
KEEPS_ALL = "checkpoint.every_minutes=0"
ONE_PROCESS = ("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=2G")


@dataclass(frozen=True)
class Begun:
    """Job ids of runs, commands of sweeps, and the runs folder of each, by name."""

    jobs: dict[str, str]
    commands: dict[str, subprocess.Popen]
    runs: dict[str, Path]


@pytest.fixture(scope="module")
def place(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store in `new`."""
    from plmft.tracking.store import open_client

    folder = tmp_path_factory.mktemp("slurm")
    (folder / "new").mkdir()
    open_client(f"sqlite:///{folder}/new/mlflow.db")
    return folder


@pytest.fixture(scope="module")
def begun(place: Path) -> Iterator[Begun]:
    found = Begun({}, {}, {})

    def run(name: str, *options: str) -> None:
        found.runs[name] = runs_of(place, name)
        found.jobs[name] = sbatch(
            f"--export=ALL,PLMFT_RUNS={found.runs[name]}", f"--job-name={name}", *options, cwd=place
        )

    def sweep(name: str, *options: str) -> None:
        found.runs[name] = runs_of(place, name)
        found.commands[name] = start_sweep(found.runs[name], *options)

    two = ("--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=4G")
    run("disturbed", *ONE_PROCESS, TEMPLATE, *LONG, "optim.epochs=5", KEEPS_ALL)
    run("ranks", *two, TEMPLATE, *LONG, "optim.epochs=2", KEEPS_ALL, "hardware.strategy=ddp", "hardware.devices=2")
    preempt(found, place)
    # SLURM looks every 30 s, and warns up to that much early: half a minute after the start or later
    warned = ("--time=2", "--signal=USR2@60", "--partition=high")
    run("warned", *ONE_PROCESS, *warned, TEMPLATE, *ENDLESS, KEEPS_ALL)
    run("undisturbed", *ONE_PROCESS, TEMPLATE, *LONG, "optim.epochs=5")
    sweep("memory", *SHORT, "seed=0,1", "hardware.slurm.memory_gb=0.2")
    kill_once_submitted(found.commands["memory"])
    limit = ("hardware.slurm.time=1", "hardware.slurm.signal_s=0", "hardware.slurm.partition=high")
    sweep("limit", *ENDLESS, "seed=0", KEEPS_ALL, *limit)
    yield found
    for command in found.commands.values():
        command.kill()
        command.wait()


def preempt(begun: Begun, place: Path) -> None:
    """All that runs makes room for a job of the other partition, and is queued again."""
    for name in begun.jobs:
        goes_on(begun, name)
    cores = re.search(r"CPUTot=(\d+)", scontrol("show", "node"))[1]
    high = sbatch("--partition=high", f"--ntasks={cores}", "--mem=1G", "--wrap=true", cwd=place)
    until(lambda: state(high) == "COMPLETED")
    for job in begun.jobs.values():
        start_now(job)


def runs_of(place: Path, name: str) -> Path:
    runs = place / name
    shutil.copytree(place / "new", runs)
    return runs


def start_sweep(runs: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        arguments("--multirun", "hydra/launcher=slurm", *options),
        env=environment(runs),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_once_submitted(command: subprocess.Popen) -> None:
    while "submitted" not in command.stdout.readline():
        assert command.poll() is None
    command.kill()
    command.wait()


def step_of(runs: Path) -> int:
    """Of the newest state that was written; 0 before there is one."""
    names = [file.stem for file in runs.glob("work/*/checkpoints/step-*.ckpt")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def goes_on(begun: Begun, name: str) -> None:
    """Wait until a run is some steps further."""
    before = step_of(begun.runs[name])
    until(lambda: step_of(begun.runs[name]) > before + 3)


def test_a_run_that_was_preempted_signalled_and_requeued_ends_as_if_nothing_had_been(begun: Begun) -> None:
    job = begun.jobs["disturbed"]
    assert restarts(job) == restarts(begun.jobs["ranks"]) == 1
    goes_on(begun, "disturbed")
    scontrol("requeue", job)  # by an administrator: SIGTERM, and SIGKILL soon
    start_now(job)
    goes_on(begun, "disturbed")
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    until(lambda: restarts(job) == 3)
    start_now(job)
    until(lambda: state(job) == state(begun.jobs["undisturbed"]) == "COMPLETED")
    once, again = begun.runs["undisturbed"], begun.runs["disturbed"]
    (run,) = stored_runs(again)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["attempts"] == 4
    pd.testing.assert_frame_equal(predictions(again), predictions(once), check_exact=True)
    assert steps_logged(again) == steps_logged(once)


def predictions(runs: Path) -> pd.DataFrame:
    (file,) = runs.glob("work/*/predictions.parquet")
    return pd.read_parquet(file)


def steps_logged(runs: Path) -> list[tuple[str, int]]:
    """Each metric and step of the one run, as often as the store has it; without what depends on time."""
    with sqlite3.connect(runs / "mlflow.db") as database:
        rows = database.execute(
            "SELECT key, step FROM metrics WHERE key LIKE 'valid/%' OR key LIKE 'train/%'"
        ).fetchall()
    assert rows
    return sorted(rows)


def test_two_ranks_that_srun_started_are_preempted_together_and_go_on(begun: Begun) -> None:
    until(lambda: state(begun.jobs["ranks"]) == "COMPLETED")
    (run,) = stored_runs(begun.runs["ranks"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["attempts"] == 2
    assert run.data.tags["world_size"] == "2"


def test_a_run_that_is_warned_of_its_time_limit_keeps_its_state_and_is_queued_again(begun: Begun) -> None:
    job = begun.jobs["warned"]
    until(lambda: restarts(job) == 1)
    subprocess.run(["scancel", job], check=True)
    (run,) = stored_runs(begun.runs["warned"])
    assert run.info.status == "SCHEDULED"
    assert step_of(begun.runs["warned"]) > 0


def test_a_job_that_reaches_its_time_limit_unwarned_keeps_its_state_and_says_so(begun: Begun) -> None:
    out, _ = begun.commands["limit"].communicate()
    assert begun.commands["limit"].returncode == 1
    assert "time limit" in out
    _parent, child = stored_runs(begun.runs["limit"])
    assert child.info.status == "KILLED"
    assert step_of(begun.runs["limit"]) > 0


def test_a_sweep_is_summed_up_by_its_last_job_where_its_command_was_killed(begun: Begun) -> None:
    """Both jobs had too little memory."""
    until(lambda: list(begun.runs["memory"].glob("work/*/slurm/*_result.pkl")))  # of the last job: it has gathered
    parent = stored_runs(begun.runs["memory"])[0]
    assert parent.info.status == "FAILED"
    assert parent.data.tags["sweep_incomplete"].count("out of memory") == 2


def test_a_sweep_whose_command_was_killed_goes_on_with_what_is_queued_and_runs_what_was_cancelled(place: Path) -> None:
    """Of four jobs one is cancelled, and two fail: the weights of their model are not there."""
    runs, options = runs_of(place, "sweep"), (*SHORT, "model=esm2_tiny,esm2_8m", "seed=0,1")
    first = start_sweep(runs, *options)
    array = until(lambda: [int(file.name.partition("_")[0]) for file in runs.glob("work/*/slurm/*_submission.sh")])
    subprocess.run(["scancel", f"{min(array)}_1"], check=True)
    kill_once_submitted(first)
    out, _ = (again := start_sweep(runs, *options)).communicate()
    assert "1 submitted, 3 in the queue already" in out
    assert "2 of 4 jobs finished" in out
    assert again.returncode == 2  # a user's mistake
    parent, *children = stored_runs(runs)
    assert parent.info.status == "FAILED"
    assert parent.data.tags["sweep_incomplete"].count("model=esm2_8m") == 2
    assert [run.info.status for run in children].count("FINISHED") == 2
    ends = [json.loads(file.read_text()) for file in runs.glob("work/*/jobs/*.json")]
    assert sorted(end["state"] for end in ends) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
