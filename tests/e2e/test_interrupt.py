"""A run that is stopped by Ctrl-C, a cluster's SIGTERM or SIGKILL: what was done is kept, and the next run works."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.e2e.command import (
    SMALL,
    TIMEOUT_S,
    TINY,
    Ended,
    arguments,
    assert_nothing_half_written,
    environment,
    run_folder,
    statuses,
)

ENDLESS = (*SMALL, "optim.epochs=100000", "optim.patience=null")


def stop(runs: Path, number: signal.Signals, when: Callable[[Path], bool]) -> Ended:
    """Start an endless run, send it the signal once `when` is true of its runs folder, and wait for its end."""
    process = subprocess.Popen(
        arguments(*ENDLESS),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(runs),
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell's background job ignores it
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline and not when(runs):
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    return Ended(process.returncode, out, err)


def has_trained(runs: Path) -> bool:
    """The first validation is over and its checkpoints are written."""
    return len(list(runs.glob("work/*/checkpoints/*.ckpt"))) == 2


def steps(folder: Path, name: str) -> int:
    """The optimizer step of a checkpoint, which holds no code."""
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["global_step"]


def assert_kept(runs: Path, ended: Ended) -> None:
    """The run is marked, its last state is kept and told, nothing claims success."""
    folder = run_folder(runs)
    assert statuses(runs) == ["KILLED"]
    assert f"Interrupted; the last state is {folder}/checkpoints/last.ckpt" in ended.out
    assert steps(folder, "last") >= steps(folder, "best") >= 4
    assert ended.err == ""
    assert not (folder / "summary.json").exists() and not (folder / "model").exists()
    assert_nothing_half_written(runs)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_during_training(command: Callable, store: Path, number: signal.Signals, code: int) -> None:
    ended = stop(store, number, has_trained)
    assert ended.code == code, ended
    assert_kept(store, ended)
    command(*TINY).succeeded()
    assert statuses(store) == ["KILLED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("sign", ["runs", "runs/.new-store-*"], ids=["reading data", "making a store"])
def test_a_signal_before_training(command: Callable, runs: Path, sign: str, number: signal.Signals, code: int) -> None:
    ended = stop(runs, number, lambda runs: any(runs.parent.glob(sign)))
    assert (ended.code, ended.err) == (code, ""), ended
    assert_nothing_half_written(runs)
    assert not list(runs.glob("work/*"))
    command(*TINY).succeeded()
    assert statuses(runs) == ["FINISHED"]


@pytest.mark.slow
def test_a_kill_leaves_a_sound_store_and_sound_checkpoints(command: Callable, store: Path) -> None:
    ended = stop(store, signal.SIGKILL, has_trained)
    assert ended.code == -signal.SIGKILL
    killed = run_folder(store)
    assert steps(killed, "best") >= 4 and steps(killed, "last") >= 4
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    command(*TINY).succeeded()
    first, second = statuses(store)
    assert first != "FINISHED" and second == "FINISHED"
