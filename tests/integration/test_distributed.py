"""Two processes are one: the same losses, predictions and files; and all of them end together, however they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from plmft.models.tuned import load
from plmft.training.checkpoints import NAME, read
from tests.e2e.command import (
    SMALL,
    TIMEOUT_S,
    Ended,
    arguments,
    assert_nothing_half_written,
    environment,
    run_apart,
    run_folder,
    statuses,
    stored_runs,
)
from tests.e2e.conftest import command, data, new_store, runs, store  # noqa: F401 (fixtures)
from tests.integration.servers import free_port

# 49 records in steps of 16: the last step of an epoch holds one, so one of two ranks has none
EXACT = ("hardware.accelerator=cpu", "hardware.precision=fp32", "hardware.tokens_per_batch=512")
UNEVEN = ("experiment=quickstart", "task.train=49", "task.valid=11", "task.test=21", "optim.epochs=5", *EXACT)
ENDLESS = (*SMALL, "optim.epochs=100000", "optim.patience=null")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
ROOT = Path(__file__).parents[2]


def losses(run: object, folder: Path) -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")]


def newest(folder: Path) -> tuple[object, Path]:
    """The newest run in the store, and its folder."""
    return stored_runs(folder)[-1], run_folder(folder)


def assert_same(folder: Path, alone: tuple[object, Path], shared: tuple[object, Path]) -> None:
    """Losses, validation, predictions, checkpoints and the saved model of two runs are the same."""
    (run, kept), (other, also_kept) = alone, shared
    assert run.info.status == other.info.status == "FINISHED"
    mine, theirs = losses(run, folder), losses(other, folder)
    assert len(mine) >= 3 and [step for step, _ in mine] == [step for step, _ in theirs]
    np.testing.assert_allclose([v for _, v in theirs], [v for _, v in mine], rtol=1e-5)
    first, second = (pd.read_parquet(path / "predictions.parquet") for path in (kept, also_kept))
    assert list(first["id"]) == list(second["id"]) and len(set(first["id"])) == len(first)
    column = "probabilities" if "probabilities" in first else "predicted"
    for a, b in zip(first[column], second[column], strict=True):
        np.testing.assert_allclose(b, a, **CLOSE)
    for kind in ("best", "step"):
        one, two = (newest_checkpoint(path, kind) for path in (kept, also_kept))
        assert one["global_step"] == two["global_step"]
        held = {key: two["state_dict"][key] for key in one["state_dict"]}  # a cached backbone's buffers may be left out
        assert {k: v.shape for k, v in held.items()} == {k: v.shape for k, v in one["state_dict"].items()}
        if column == "probabilities":  # with a head that normalises, some gradients are 0, and Adam moves by rounding
            torch.testing.assert_close(held, one["state_dict"], rtol=1e-3, atol=1e-4)
    states = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (one, two)]
    assert {n: s["exp_avg"].shape for n, s in states[0].items()} == {
        n: s["exp_avg"].shape for n, s in states[1].items()
    }
    if shared[0].data.tags["tuning"] == "frozen" and column == "probabilities":
        return  # from vectors in half precision, which the cache holds
    tuned = load(also_kept / "model")
    again = tuned.predict(list(second["sequence"]))
    if column == "predicted":
        np.testing.assert_allclose(again, second["predicted"], **CLOSE)
    else:
        assert again == list(second["predicted"])


def newest_checkpoint(folder: Path, kind: str) -> dict[str, Any]:
    """A run's last state, or its last best: whole tensors, whatever its form."""
    paths = [p for p in (folder / "checkpoints").glob(f"{kind}-*") if p.is_dir() or p.suffix == ".ckpt"]
    return read(max(paths, key=lambda path: path.stem))


def assert_told_once(ended: Ended) -> None:
    out = ended.succeeded()
    assert out.count("epoch 1, step") == 1 and out.count("Files: ") == 1


@pytest.mark.slow
def test_two_replicas_are_one_process(command: Callable, store: Path) -> None:  # noqa: F811
    command(*UNEVEN).succeeded()
    alone = newest(store)
    ended = run_apart(store, *UNEVEN, "hardware.devices=2", "hardware.strategy=ddp", "hardware.usd_per_hour=1")
    assert_told_once(ended)
    shared = newest(store)
    assert_same(store, alone, shared)
    tags, metrics = shared[0].data.tags, shared[0].data.metrics
    assert (tags["strategy"], tags["devices"], tags["world_size"]) == ("ddp", "2", "2")
    assert alone[0].data.tags["strategy"] == "single"
    names = {name for name in alone[0].data.metrics if name.startswith(("test/", "valid/", "data/", "model/"))}
    for name in names:
        assert metrics[name] == pytest.approx(alone[0].data.metrics[name], rel=1e-3, abs=1e-3), name
    assert metrics["cost/model_flops"] == pytest.approx(alone[0].data.metrics["cost/model_flops"], rel=1e-6)
    assert metrics["cost/usd"] == pytest.approx(metrics["cost/wall_time_s"] / 3600, rel=1e-6)
    assert len(stored_runs(store)) == 2 and len(list(store.glob("work/[0-9]*"))) == 2
    assert_nothing_half_written(store)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_shards_are_one_process(command: Callable, store: Path, tuning: str) -> None:  # noqa: F811
    command(*UNEVEN, f"tuning={tuning}").succeeded()
    alone = newest(store)
    assert_told_once(run_apart(store, *UNEVEN, f"tuning={tuning}", "hardware.devices=2", "hardware.strategy=fsdp"))
    assert_same(store, alone, newest(store))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("tuning", ["full", "frozen"])
def test_a_head_that_normalises_sees_the_whole_step(
    command: Callable, store: Path, data: Path, strategy: str, tuning: str  # noqa: F811
) -> None:  # fmt: skip
    options = ("model=esm2_tiny", "task=fluorescence", f"tuning={tuning}", "task.head.dropout=0.0", "batch_size=5")
    options = (*options, "task.head.normalize=true", "optim.epochs=5", *EXACT, "hardware.tokens_per_batch=64")
    command(*options).succeeded()
    shared = ("hardware.devices=2", f"hardware.strategy={strategy}")
    alone = newest(store)
    assert_told_once(run_apart(store, *options, *shared, PLMFT_DATA=str(data)))
    assert_same(store, alone, newest(store))


@pytest.mark.slow
def test_a_sweep_starts_the_ranks_of_each_job(store: Path) -> None:  # noqa: F811
    few = ("experiment=quickstart", "task.train=8", "task.valid=4", "task.test=4", "optim.epochs=1", *EXACT)
    run_apart(store, "--multirun", *few, "hardware=ddp", "hardware.accelerator=cpu", "seed=0,1").succeeded()
    parent, *children = stored_runs(store)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.data.params["seed"] for run in children} == {"0", "1"}


@pytest.mark.slow
def test_ranks_that_srun_started(store: Path) -> None:  # noqa: F811
    """srun sets these variables for each task; without a cluster, we do."""
    few = ("experiment=quickstart", "task.train=8", "task.valid=4", "task.test=4", "optim.epochs=1", *EXACT)
    port = free_port()
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "7", "SLURM_NODEID": "0"}
    processes = [
        subprocess.Popen(
            arguments(*few, "hardware.devices=2", "hardware.strategy=ddp"),
            env=environment(store, **step, SLURM_PROCID=str(i), SLURM_LOCALID=str(i), MASTER_PORT=str(port)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    told = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert told[0].count("Files: ") == 1 and told[1] == ""
    assert statuses(store) == ["FINISHED"]


@pytest.mark.slow
def test_ranks_that_torchrun_started(store: Path) -> None:  # noqa: F811
    few = ("experiment=quickstart", "task.train=8", "task.valid=4", "task.test=4", "optim.epochs=1", *EXACT)
    module = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "plmft.train"]
    done = subprocess.run(
        [*module, *few, "hardware.devices=2", "hardware.strategy=ddp"],
        env=environment(store),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Files: ") == 1
    assert statuses(store) == ["FINISHED"]


@pytest.mark.slow
def test_a_mistake_that_ranks_find_is_told_once(store: Path) -> None:  # noqa: F811
    two = ("hardware.devices=2", "hardware.strategy=ddp")
    ended = run_apart(store, *SMALL, *EXACT, *two, "optim.lr=1e30", "optim.clip_norm=1e30")
    ended.refused("optim.lr")
    assert statuses(store) == ["FAILED"]


class Started:
    """A run in two processes."""

    def __init__(self, folder: Path, strategy: str, *options: str) -> None:
        self.folder, self._old = folder, set(folder.glob("work/*/checkpoints/step-*"))
        self.process = subprocess.Popen(
            arguments(*(options or ENDLESS), *EXACT, "hardware.devices=2", f"hardware.strategy={strategy}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(folder),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.ranks: list[int] = []

    def wait_until_trained(self, steps: int = 1) -> None:
        """Until a state of so many steps is in place."""
        deadline = time.monotonic() + TIMEOUT_S
        while not any(step_of(p) >= steps for p in self.folder.glob("work/*/checkpoints/step-*") if p not in self._old):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.ranks = sorted(map(int, children), key=rank_of)
        assert [rank_of(pid) for pid in self.ranks] == [0, 1]

    def end(self) -> Ended:
        try:
            out, err = self.process.communicate(timeout=TIMEOUT_S)
        finally:
            self.process.kill()
        return Ended(self.process.returncode, out, err)

    def assert_all_gone(self) -> None:
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in self.ranks) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not [pid for pid in self.ranks if Path(f"/proc/{pid}").exists()]


def step_of(path: Path) -> int:
    """Of a state; -1 where it is not in place."""
    named = NAME.fullmatch(path.name)
    return int(named[2]) if named else -1


def rank_of(pid: int) -> int:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return int(dict(pair.split("=", 1) for pair in pairs if "=" in pair)["RANK"])


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [("ddp", 0), ("ddp", 1), ("fsdp", 1)])
def test_a_rank_that_is_killed_ends_the_rest(store: Path, strategy: str, rank: int) -> None:  # noqa: F811
    started = Started(store, strategy)
    started.wait_until_trained()
    os.kill(started.ranks[rank], signal.SIGKILL)
    killed = time.monotonic()
    ended = started.end()
    assert time.monotonic() - killed < 60
    assert ended.code == 1
    (line,) = ended.err.splitlines()
    assert f"Rank {rank} was killed by SIGKILL" in line and "FAILED" in line
    assert statuses(store) == ["FAILED"]
    started.assert_all_gone()
    assert_nothing_half_written(store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "number", "code"),
    [("ddp", signal.SIGINT, 130), ("ddp", signal.SIGTERM, 143), ("fsdp", signal.SIGTERM, 143)],
)
def test_a_signal_stops_all_ranks(store: Path, strategy: str, number: signal.Signals, code: int) -> None:  # noqa: F811
    started = Started(store, strategy)
    started.wait_until_trained()
    started.process.send_signal(number)
    ended = started.end()
    assert (ended.code, ended.err) == (code, ""), ended
    folder = run_folder(store)
    assert f"Interrupted; {folder} keeps its state: the same command goes on from there" in ended.out
    assert newest_checkpoint(folder, "step")["global_step"] >= 4
    assert statuses(store) == ["KILLED"]
    started.assert_all_gone()
    assert_nothing_half_written(store)


@pytest.mark.slow
def test_ranks_end_with_the_process_that_started_them(store: Path) -> None:  # noqa: F811
    started = Started(store, "ddp")
    started.wait_until_trained()
    started.process.kill()
    started.end()
    started.assert_all_gone()
    assert statuses(store) == ["KILLED"]
