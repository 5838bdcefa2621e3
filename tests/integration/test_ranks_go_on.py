"""A run of two processes that was stopped or killed goes on, in two or in one, as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from plmft.training.distributed import ALONE
from plmft.training.hardware import Hardware
from tests.e2e.command import TIMEOUT_S, assert_nothing_half_written, environment, statuses
from tests.e2e.conftest import new_store, runs, store  # noqa: F401 (fixtures)
from tests.integration.ranks_at_work import go_on
from tests.integration.servers import free_port
from tests.integration.test_distributed import ROOT, Started, losses, newest

ONE = Hardware("cpu", "fp32", 300, None)
DROPOUT = {"dropout": 0.3}  # each rank's own
SELDOM = {"every_minutes": 10.0}  # else after each step
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def two(folder: Path, strategy: str, *trainings: tuple[str, dict[str, Any]]) -> list[int]:
    """These trainings of ranks_at_work, in two processes; returns how these ended."""
    rendezvous = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.ranks_at_work", strategy, str(folder), json.dumps(trainings)],
            cwd=ROOT,
            env=environment(folder, RANK=str(rank), LOCAL_RANK=str(rank), DS_ACCELERATOR="cpu", **rendezvous),
        )
        for rank in range(2)
    ]
    try:
        return [process.wait(TIMEOUT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()


def came_to(folder: Path, run: str, n: int) -> dict[str, Any]:
    return torch.load(folder / f"{run}-{n}.pt", weights_only=True)


def assert_identical(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """To the last bit, and nothing that was logged is missing."""
    assert found["ended_by"] is None and found["step"] == wanted["step"] == 18
    for name in ("predictions", "weights", "moments"):
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=0)
    assert found["logged"] == wanted["logged"]


def assert_close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Another number of processes sums in another order."""
    assert found["ended_by"] is None and found["step"] == wanted["step"] == 18
    torch.testing.assert_close(found["predictions"], wanted["predictions"], **CLOSE)
    assert found["logged"].keys() == wanted["logged"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_ranks_go_on(tmp_path: Path, strategy: str) -> None:
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    sharded = strategy != "ddp"
    assert go_on(ONE, ALONE, tmp_path / "one", stop_at=10)["ended_by"] == "Terminated"
    to_the_end, killed = {**DROPOUT, **SELDOM}, {**DROPOUT, "kill_at": 9, "victim": int(sharded)}
    ended = two(tmp_path, strategy, ("whole", to_the_end), ("killed", killed))
    assert ended[int(sharded)] == -signal.SIGKILL and ended[1 - sharded]
    assert list((tmp_path / "killed").glob("step-00000009*.part"))
    last = "step-00000011/rank-1-of-2.ckpt" if sharded else "step-00000011.ckpt"
    ended = two(
        tmp_path,
        strategy,
        ("killed", to_the_end),
        ("stopped", {**DROPOUT, "stop_at": 10}),
        ("stopped", {**DROPOUT, "damage": last, "stop_at": 12, "number": signal.SIGUSR2}),
        ("stopped", to_the_end),
        ("one", SELDOM),
        ("two", {"stop_at": 10}),
    )
    assert ended == [0, 0]
    uninterrupted, again, after = (came_to(tmp_path, *at) for at in (("whole", 0), ("killed", 0), ("stopped", 3)))
    assert_identical(again, uninterrupted)
    assert_identical(after, uninterrupted)
    assert [came_to(tmp_path, "stopped", n)["ended_by"] for n in (1, 2)] == ["Terminated", "Preempted"]
    told = came_to(tmp_path, "stopped", 2)["told"]
    assert f"{last.partition('/')[0]} is damaged" in told and "Going on from step 10 of 18" in told
    alone = go_on(ONE, ALONE, tmp_path / "alone", **SELDOM)
    assert_close(came_to(tmp_path, "one", 4), alone)
    assert_close(go_on(ONE, ALONE, tmp_path / "two", **SELDOM), alone)
    assert not list(tmp_path.rglob("*.part"))


# 64 steps; each epoch is validated and so has a state
LONG = ("experiment=quickstart", "task.train=60", "task.valid=10", "task.test=20", "optim.epochs=16")
LONG = (*LONG, "optim.patience=null", "task.head.dropout=0.1", "checkpoint.every_minutes=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "number", "code", "status"),
    [("ddp", signal.SIGKILL, 1, "FAILED"), ("fsdp", signal.SIGUSR2, 140, "SCHEDULED")],
)
def test_the_same_command_goes_on(
    store: Path, strategy: str, number: signal.Signals, code: int, status: str  # noqa: F811
) -> None:  # fmt: skip
    Started(store, strategy, *LONG).end().succeeded()
    whole, kept = newest(store)
    started = Started(store, strategy, *LONG)
    started.wait_until_trained(steps=10)
    os.kill(started.ranks[1] if number == signal.SIGKILL else started.process.pid, number)
    assert started.end().code == code
    assert statuses(store) == ["FINISHED", status]
    told = Started(store, strategy, *LONG).end().succeeded()
    assert "Attempt 2 of a run that did not finish" in told and "Going on from step " in told
    assert statuses(store) == ["FINISHED", "FINISHED"]
    again, also_kept = newest(store)
    assert losses(again, store) == losses(whole, store)
    first, second = (pd.read_parquet(folder / "predictions.parquet") for folder in (kept, also_kept))
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert_nothing_half_written(store)
