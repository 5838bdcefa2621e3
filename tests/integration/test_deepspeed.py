"""ZeRO on two processes is one process: the same losses, predictions and files, in each of its stages."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plmft import InputError
from plmft.training import hardware
from tests.e2e.command import assert_nothing_half_written, run_apart, run_folder, statuses, stored_runs
from tests.e2e.conftest import command, data, new_store, runs, store  # noqa: F401 (fixtures)
from tests.integration.test_distributed import (
    EXACT,
    ROOT,
    UNEVEN,
    Started,
    assert_same,
    assert_told_once,
    newest,
    newest_checkpoint,
)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"strategy=zero3: needs DeepSpeed.* pip install deepspeed"):
        hardware.check_zero("zero3", "fp32")


def test_a_scaler_of_its_own_for_each_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: True)
    hardware.check_zero("zero3", "bf16")
    with pytest.raises(InputError, match=r"hardware\.precision=fp16: with zero3 .* Set bf16 or fp32"):
        hardware.check_zero("zero3", "fp16")


def test_one_process_is_told_before_anything_is_loaded(command: Callable, store: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed")
    ended = command("experiment=quickstart", "hardware=zero3_offload", "hardware.devices=1", *EXACT)
    ended.refused("hardware.strategy=zero3", "one process has nothing to share")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "tuning"),
    [("zero1", "full"), ("zero2", "full"), ("zero3", "full"), ("zero3_offload", "full"), ("zero3", "lora")],
)
def test_two_processes_are_one(command: Callable, store: Path, strategy: str, tuning: str) -> None:  # noqa: F811
    pytest.importorskip("deepspeed")
    options = (*UNEVEN, f"tuning={tuning}")
    command(*options).succeeded()
    alone = newest(store)
    assert_told_once(run_apart(store, *options, f"hardware={strategy}", *EXACT))
    shared = newest(store)
    assert_same(store, alone, shared)
    assert shared[0].data.tags["strategy"] == strategy.removesuffix("_offload")
    assert len(stored_runs(store)) == 2
    assert_nothing_half_written(store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "tuning"), [("zero1", "full"), ("zero2", "full"), ("zero3", "full"), ("zero3", "frozen")]
)
def test_a_head_that_normalises_sees_the_whole_step(
    command: Callable, store: Path, data: Path, strategy: str, tuning: str  # noqa: F811
) -> None:  # fmt: skip
    pytest.importorskip("deepspeed")
    options = ("model=esm2_tiny", "task=fluorescence", f"tuning={tuning}", "task.head.dropout=0.0", "batch_size=5")
    options = (*options, "task.head.normalize=true", "optim.epochs=5", *EXACT, "hardware.tokens_per_batch=64")
    command(*options).succeeded()
    alone = newest(store)
    shared = ("hardware.devices=2", f"hardware.strategy={strategy}")
    assert_told_once(run_apart(store, *options, *shared, PLMFT_DATA=str(data)))
    assert_same(store, alone, newest(store))


@pytest.mark.slow
def test_every_family_computes_with_all_its_weights_sharded() -> None:
    pytest.importorskip("deepspeed")
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.integration.sharded_families"]
    quiet = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("same ") == 9


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_rest(store: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed")
    started = Started(store, "zero3")
    started.wait_until_trained()
    os.kill(started.ranks[1], signal.SIGKILL)
    killed = time.monotonic()
    ended = started.end()
    assert time.monotonic() - killed < 60
    assert ended.code == 1 and "Rank 1 was killed by SIGKILL" in ended.err
    assert statuses(store) == ["FAILED"]
    started.assert_all_gone()


@pytest.mark.slow
def test_a_signal_stops_all_ranks_and_leaves_a_checkpoint(store: Path) -> None:  # noqa: F811
    pytest.importorskip("deepspeed")
    started = Started(store, "zero3")
    started.wait_until_trained()
    started.process.send_signal(signal.SIGTERM)
    ended = started.end()
    assert (ended.code, ended.err) == (143, ""), ended
    checkpoint = newest_checkpoint(run_folder(store), "step")
    assert checkpoint["global_step"] >= 4 and all(weight.numel() for weight in checkpoint["state_dict"].values())
    assert statuses(store) == ["KILLED"]
    started.assert_all_gone()
