"""A run that is stopped by Ctrl-C, a cluster's SIGTERM or SIGKILL: what was done is kept, and the next run works."""

import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plmft.training.checkpoints import is_whole
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
    return any(runs.glob("work/*/checkpoints/step-*.ckpt"))


def last(folder: Path, kind: str) -> int:
    """The optimizer step of the last checkpoint of a kind, which is whole and holds no code."""
    path = max((folder / "checkpoints").glob(f"{kind}-*.ckpt"))
    assert is_whole(path)
    return torch.load(path, weights_only=True)["global_step"]


def assert_kept(runs: Path, ended: Ended, status: str) -> None:
    """The run is marked, its last state is kept and told, nothing claims success."""
    folder = run_folder(runs)
    assert statuses(runs) == [status]
    assert f"Interrupted; {folder} keeps its state: the same command goes on from there" in ended.out
    assert last(folder, "step") >= last(folder, "best") >= 4
    assert ended.err == ""
    assert not (folder / "summary.json").exists() and not (folder / "model").exists()
    assert_nothing_half_written(runs)


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        pytest.param(signal.SIGINT, 130, "KILLED", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "KILLED", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, 128 + signal.SIGUSR2, "SCHEDULED", marks=pytest.mark.slow),
    ],
    ids=["SIGINT", "SIGTERM", "SIGUSR2"],
)
def test_a_signal_during_training(
    command: Callable, store: Path, number: signal.Signals, code: int, status: str
) -> None:
    ended = stop(store, number, has_trained)
    assert ended.code == code, ended
    assert_kept(store, ended, status)
    command(*TINY).succeeded()
    assert statuses(store) == [status, "FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("sign", ["runs", "runs/.new-store-*"], ids=["reading data", "making a store"])
def test_a_signal_before_training(command: Callable, runs: Path, sign: str, number: signal.Signals, code: int) -> None:
    ended = stop(runs, number, lambda runs: any(runs.parent.glob(sign)))
    assert (ended.code, ended.err) == (code, "plmft: interrupted.\n"), ended
    assert_nothing_half_written(runs)
    assert not list(runs.glob("work/*"))
    command(*TINY).succeeded()
    assert statuses(runs) == ["FINISHED"]


@pytest.mark.slow
def test_a_kill_leaves_a_sound_store_and_sound_checkpoints(command: Callable, store: Path) -> None:
    ended = stop(store, signal.SIGKILL, has_trained)
    assert ended.code == -signal.SIGKILL
    killed = run_folder(store)
    assert last(killed, "best") >= 4 and last(killed, "step") >= 4
    with sqlite3.connect(store / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    command(*TINY).succeeded()
    first, second = statuses(store)
    assert first != "FINISHED" and second == "FINISHED"
