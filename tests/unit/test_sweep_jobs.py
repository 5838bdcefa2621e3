"""A sweep's folder: the plan, how jobs end, and what a launcher makes of them."""

import json
import os
import sys
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from plmft import InputError
from plmft.sweeps import jobs as sweep_jobs
from plmft.sweeps import pool as sweep_pool
from plmft.sweeps.jobs import (
    OVERRIDES,
    SWEEP,
    Composed,
    End,
    Planned,
    ends,
    finished,
    forget,
    give,
    given,
    given_to,
    name_of,
    note,
    planned,
    run_noted,
    swept,
    write_plan,
)
from plmft.tracking.claims import config_key

CONFIG = {"hardware": {"devices": 1}, "seed": 0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SWEEP, str(tmp_path))
    monkeypatch.setenv(OVERRIDES, "seed=0 'data.dir=a b'")
    return tmp_path


def test_the_plan_is_read_as_it_was_written(folder):
    write_plan(folder, "key", [Planned(["seed=0"], "abc")], {"seed"})
    assert planned(folder) == [Planned(["seed=0"], "abc")]
    assert swept(folder) == {"seed"}
    assert planned(folder / "elsewhere") == []


def test_a_finished_job_does_not_run_again(folder):
    calls = []
    for _ in range(2):
        assert run_noted(CONFIG, lambda config: calls.append(config) or 0.5) == 0.5
    assert calls == [CONFIG]
    assert finished(folder) == {config_key(CONFIG): 0.5}


@pytest.mark.parametrize(
    ("error", "reason", "mistake"),
    [
        (InputError("optim.lr=9: too large. Lower it."), "optim.lr=9: too large. Lower it.", True),
        (RuntimeError("first\nsecond"), "RuntimeError: first", False),
        (MemoryError(), "MemoryError", False),
    ],
)
def test_a_failed_job_is_noted_and_told_and_ends_no_other(folder, capsys, monkeypatch, error, reason, mistake):
    def fail(config):
        raise error

    with pytest.raises(SystemExit) as exit_:
        run_noted(CONFIG, fail)  # in a process of its own
    assert exit_.value.code == (2 if mistake else 1)
    capsys.readouterr()
    monkeypatch.setattr(sweep_jobs, "_others_follow", lambda: True)
    assert run_noted(CONFIG, fail) is None
    end = ends(folder)[config_key(CONFIG)]
    assert end == End("FAILED", reason=reason, mistake=mistake, overrides=["seed=0", "data.dir=a b"])
    assert finished(folder) == {}
    told = capsys.readouterr().err
    assert told.startswith("plmft: ") == mistake and ("Traceback" in told) != mistake
    assert run_noted(CONFIG, lambda config: 0.5) == 0.5, "what failed runs again"


def test_an_interrupted_job_is_noted_and_interrupts(folder):
    def interrupt(config):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_noted(CONFIG, interrupt)
    assert ends(folder)[config_key(CONFIG)].state == "KILLED"


def test_one_of_several_processes_notes_the_end(folder, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert run_noted(CONFIG, lambda config: None) is None
    assert ends(folder) == {}


def test_secrets_are_masked(folder):
    note(folder, "abc", End("FAILED", reason="https://me:hidden@host refuses", overrides=["model.token=hidden"]))
    assert "hidden" not in (folder / "jobs" / "abc.json").read_text()
    forget(folder, "abc")
    forget(folder, "abc")
    assert ends(folder) == {}


def test_a_config_is_handed_over_through_a_pipe(monkeypatch):
    job = Composed(0, ["seed=0", "data.dir=a b"], CONFIG, "abc", {"PLMFT_TRIAL": "3"}, OmegaConf.create())
    stream = BytesIO()
    give(job, stream)
    environment = given_to(job)
    assert environment[OVERRIDES] == "seed=0 'data.dir=a b'" and environment["PLMFT_TRIAL"] == "3"
    assert "devices" not in json.dumps(environment), "a config may hold secrets, and others can read an environment"
    assert given() is None
    monkeypatch.setattr(os, "environ", environment)
    stream.seek(0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert given() == CONFIG


def test_a_job_is_named_by_what_it_alone_sets():
    assert name_of(["+a=1", "task=gb1", "seed=0"], frozenset({"a", "seed"})) == "+a=1 seed=0"
    assert name_of(["task=gb1"], frozenset()) == "task=gb1"


def test_gpus_are_dealt_out_where_several_jobs_share_several(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    dealt = [sweep_pool._gpus(slot, 2, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)]
    assert dealt == ["4,5", "6,7"]
    assert sweep_pool._gpus(0, 2, 1) == {}, "one job at a time has them all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert sweep_pool._gpus(0, 1, 2) == {}
