"""Which ranks there are, and what is told when one fails. Processes at work: tests/integration/test_distributed.py."""

import json
import signal
from pathlib import Path

import pytest

from plmft import InputError
from plmft.training.distributed import ALONE, current_ranks, joined
from plmft.training.hardware import Hardware
from plmft.training.launching import FOLDER, RankFailed, RankSide, _failure, slurm_environment, starts_ranks
from tests.unit.test_config import compose_and_check

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", FOLDER, "MASTER_ADDR")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def hardware(**changes: object) -> Hardware:
    return Hardware("cpu", "fp32", 4096, None, **changes)


def test_ranks_are_started_where_none_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert starts_ranks({"devices": 2, "nodes": 1})
    assert not starts_ranks({"devices": 1, "nodes": 1})
    assert not starts_ranks({"devices": 2, "nodes": 2})
    monkeypatch.setenv("RANK", "0")
    assert not starts_ranks({"devices": 2, "nodes": 1})


@pytest.mark.parametrize(
    ("nodes", "first"), [("node07", "node07"), ("gpu[03-05,9],x", "gpu03"), ("a,b", "a"), ("c-1-[2,4]", "c-1-2")]
)
def test_ranks_of_srun(monkeypatch: pytest.MonkeyPatch, nodes: str, first: str) -> None:
    assert slurm_environment() == {}
    task = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "123456"}
    for name, value in {**task, "SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_TASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    found = slurm_environment()
    assert (found["RANK"], found["LOCAL_RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("3", "1", "4", first)
    assert not starts_ranks({"devices": 2, "nodes": 1})
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a batch script: one task, which starts the ranks itself
    assert slurm_environment() == {} and starts_ranks({"devices": 2, "nodes": 1})


def test_one_process_joins_nobody() -> None:
    with joined(hardware(strategy="ddp")) as ranks:
        assert ranks is ALONE is current_ranks()
        assert ranks.broadcast("x") == "x" and ranks.gather("x") == ["x"] and ranks.highest(2) == 2


def test_processes_that_nobody_started_are_missed() -> None:
    with pytest.raises(InputError, match=r"hardware\.devices=2.*2 processes are asked for, but 1 were started"):
        joined(hardware(devices=2, strategy="ddp")).__enter__()


def failure(folder: Path, ended: list[int | None], **errors: tuple[str, bool]) -> Exception:
    for name, (text, mistake) in errors.items():
        rank = RankSide(folder, int(name.removeprefix("rank")))
        rank.error(text, mistake=mistake)
    for rank in range(len(ended)):
        (folder / f"stderr-{rank}").write_text(f"last words of {rank}\n")
    return _failure(folder, ended)


def test_a_users_mistake_is_told_before_what_follows_from_it(tmp_path: Path) -> None:
    found = failure(tmp_path, [1, 2], rank0=("connection closed", False), rank1=("optim.lr is too high", True))
    assert isinstance(found, InputError) and str(found) == "optim.lr is too high"


def test_a_killed_rank_is_told_before_what_follows_from_it(tmp_path: Path) -> None:
    found = failure(tmp_path, [1, -signal.SIGKILL, None], rank0=("connection closed", False))
    assert isinstance(found, RankFailed) and "Rank 1 was killed by SIGKILL" in str(found)
    assert "connection closed" not in str(found)


def test_the_first_error_is_told(tmp_path: Path) -> None:
    found = failure(tmp_path, [1, 1], rank1=("ZeroDivisionError", False), rank0=("connection closed", False))
    assert "Rank 1 of 2 failed" in str(found) and "ZeroDivisionError" in str(found)
    assert "connection closed" not in str(found)


def test_a_rank_that_ends_without_a_word_shows_its_last(tmp_path: Path) -> None:
    found = failure(tmp_path, [None, 1])
    assert "Rank 1 ended with exit code 1" in str(found) and "last words of 1" in str(found)


def test_files_of_a_rank_are_whole(tmp_path: Path) -> None:
    RankSide(tmp_path, 0).result(0.5)
    assert json.loads((tmp_path / "result.json").read_text()) == 0.5
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("hardware.devices=2",), "hardware.strategy=single is one process. Set hardware=ddp"),
        (("hardware=ddp", "model=onehot_linear", "tuning=full"), "onehot_linear is fitted by one process"),
        (("hardware=ddp", "model=majority", "tuning=full"), "majority is fitted by one process"),
        (("hardware=ddp", "tuning=none", "task=mutation_effects"), "tuning=none is computed by one process"),
        (
            ("hardware=ddp", "experiment=contacts_attention"),
            "a regression on attention maps is computed by one process",
        ),
        (("hardware=fsdp", "model=onehot_cnn", "tuning=full"), "onehot_cnn is no transformer. Set hardware=ddp"),
        (("hardware=fsdp", "hardware.precision=bf16_weights"), "fsdp shards fp32 weights"),
        (("hardware.offload=true",), "hardware.offload=true: single can't"),
    ],
)
def test_what_ranks_cannot_share_is_refused(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError) as error:
        compose_and_check(*overrides)
    (line,) = str(error.value).splitlines()
    assert words in line


def test_one_device_is_one_process() -> None:
    compose_and_check("hardware=ddp", "hardware.devices=1", "model=onehot_linear", "tuning=full")
