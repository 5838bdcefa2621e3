"""What a run asks of SLURM, and what a sweep makes of its answers. Scripts stand in for SLURM's programs."""

import functools
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.plmft_launchers.slurm import SlurmLauncher
from plmft import InputError
from plmft.config.compose import compose_config
from plmft.sweeps.jobs import Composed, End, ends, note, plain
from plmft.sweeps.slurm_ends import wait
from plmft.sweeps.slurm_queue import Queue
from plmft.training import slurm
from plmft.training.interrupts import Preempted, Terminated
from plmft.training.slurm_options import request

OUTSIDE = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_PROCID")


@dataclass(frozen=True)
class Programs:
    """A folder of programs. `calls`: how each was called, and for sbatch with what script."""

    folder: Path

    def says(self, name: str, text: str = "", code: int = 0) -> None:
        """From now on the program prints this (on stderr if it fails)."""
        to = "" if code == 0 else " >&2"
        file = self.folder / name
        printed = f"cat <<'END'{to}\n{text}\nEND\n" if text else ""
        file.write_text(f'#!/bin/sh\necho {name} "$@" >>{self.folder}/calls\n{printed}exit {code}\n')
        file.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def called(self, name: str) -> list[str]:
        return [call for call in self.calls if call.split()[0] == name]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    folder = tmp_path / "bin"
    folder.mkdir()
    found = Programs(folder)
    for name in ("srun", "squeue", "scancel", "scontrol"):
        found.says(name)
    found.says("sbatch", "Submitted batch job 12")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield found
    signal.signal(signal.SIGTERM, before)


@functools.cache
def hardware(*overrides: str) -> dict[str, Any]:
    return plain(compose_config(list(overrides)))["hardware"]


def job(key: str, *overrides: str) -> Composed:
    return Composed(0, [f"seed={key}", *overrides], {"hardware": hardware(*overrides)}, key, {}, None)


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        ((), {"nodes": 1, "ntasks_per_node": 1, "time": None, "signal_delay_s": 120}),
        (("hardware=slurm_gpu_8x4",), {"nodes": 4, "ntasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 8}),
        (("hardware.slurm.gpus=true",), {"gpus_per_node": 1}),
        (("hardware.slurm.memory_gb=8.0",), {"mem": "7629M"}),  # 8e9 bytes
        (("hardware.slurm.partition=long", "hardware.slurm.time=1-0"), {"partition": "long", "time": "1-0"}),
        (("hardware.slurm.requeue=false",), {"additional_parameters": {"no-requeue": True}}),
        (("+hardware.slurm.extra.nice=5",), {"additional_parameters": {"requeue": True, "nice": 5}}),
    ],
)
def test_a_request_follows_from_the_hardware(overrides: tuple[str, ...], asked: dict[str, Any]) -> None:
    found = request(hardware(*overrides))
    assert {name: found[name] for name in asked} == asked


def test_a_cpu_run_asks_for_no_gpu_and_leaves_the_rest_to_the_cluster() -> None:
    found = request(hardware("hardware=cpu"))
    assert not {"gpus_per_node", "cpus_per_task", "mem", "partition", "account", "qos", "constraint"} & found.keys()


def test_a_run_that_makes_room_asks_once_for_the_requeue_of_its_part_of_the_array(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.leave(Preempted()) == 128 + signal.SIGUSR2
    assert programs.calls == ["scontrol requeue 12_3"]


@pytest.mark.parametrize(
    ("told", "requeued"),
    [
        ("JobState=RUNNING Reason=None PreemptTime=2026-11-24T16:56:25", True),
        ("JobState=RUNNING Reason=None PreemptTime=None", False),
        ("JobState=CANCELLED Reason=None PreemptTime=2026-11-24T16:56:25", False),
    ],
)
def test_after_sigterm_only_a_preempted_job_is_queued_again(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, told: str, requeued: bool
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    programs.says("scontrol", told)
    assert slurm.leave(Terminated()) == 128 + signal.SIGTERM
    assert ("scontrol requeue 15" in programs.calls) == requeued


def test_ranks_but_the_first_end_with_0_and_ask_for_nothing(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert slurm.leave(Preempted()) == 0
    assert programs.calls == []


def test_outside_of_slurm_nothing_is_asked(programs: Programs) -> None:
    assert slurm.leave(Preempted()) == 128 + signal.SIGUSR2
    assert slurm.leave(KeyboardInterrupt()) == 128 + signal.SIGINT
    assert programs.calls == []


def test_a_requeue_that_slurm_refuses_is_told(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    programs.says("scontrol", "Requested operation is presently disabled", 1)
    slurm.leave(Preempted())
    assert capsys.readouterr().out == "SLURM job 15 is not queued again: Requested operation is presently disabled.\n"


def test_jobs_whose_requests_differ_are_arrays_of_their_own(programs: Programs, tmp_path: Path) -> None:
    jobs = [job("0"), job("1", "hardware.slurm.memory_gb=8.0"), job("2")]
    Queue(tmp_path).submit_missing({j.config_key: j for j in jobs}, 5)
    arrays = [json.loads(file.read_text()) for file in sorted((tmp_path / "slurm").glob("array-*.json"))]
    assert [array["keys"] for array in arrays] == [["0", "2"], ["1"]]
    scripts = [Path(call.split()[1]) for call in programs.called("sbatch")]
    assert len(scripts) == 2


def test_what_is_in_the_queue_already_is_not_submitted_again(programs: Programs, tmp_path: Path) -> None:
    jobs = {key: job(key) for key in ("a", "b", "c")}
    Queue(tmp_path).submit_missing(jobs, 5)
    name = f"{tmp_path.name}-0"
    programs.says(
        "squeue",
        "\n".join([f"{name} 12_0 RUNNING 0 None", f"{name} 12_1 COMPLETED 0 None", f"{name} 12_2 CANCELLED 15 None"]),
    )
    Queue(tmp_path).submit_missing(jobs, 5)
    again = json.loads((tmp_path / "slurm" / "array-0001.json").read_text())
    assert again["keys"] == ["b", "c"]


def test_where_sbatch_refuses_one_array_none_stays_in_the_queue(programs: Programs, tmp_path: Path) -> None:
    programs.says("sbatch", "sbatch: error: Requested node configuration is not available", 1)
    with pytest.raises(InputError, match=r"hardware.slurm: sbatch refuses .*node configuration is not available"):
        Queue(tmp_path).submit_missing({"a": job("a")}, 5)
    assert f"scancel --me --name={tmp_path.name}-0" in programs.calls


def test_a_secret_does_not_reach_the_files_of_a_job(programs: Programs, tmp_path: Path) -> None:
    secret = job("a", "tracking.uri=postgresql://me:planted@host/db")
    with pytest.raises(InputError, match=r"tracking.uri=.*environment") as told:
        Queue(tmp_path).submit_missing({"a": secret}, 5)
    assert "planted" not in str(told.value)
    assert programs.called("sbatch") == []


def test_without_slurm_the_launcher_says_so(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    SlurmLauncher(jobs=2)
    with pytest.raises(InputError, match=r"hydra.launcher.jobs=0"):
        SlurmLauncher(jobs=0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"there is no sbatch here.*hydra/launcher=local"):
        SlurmLauncher()


@pytest.mark.parametrize(
    ("line", "stderr", "state", "reason"),
    [
        ("12 CANCELLED 15 None", "", "KILLED", "cancelled"),
        ("12 TIMEOUT 0 TimeLimit", "", "FAILED", "time limit"),
        ("12 OUT_OF_MEMORY 125 OutOfMemory", "", "FAILED", "out of memory"),
        ("12 FAILED 35072 NonZeroExitCode", "slurmstepd: error: Exceeded memory limit", "FAILED", "out of memory"),
        ("12 FAILED 9 None", "", "FAILED", "exit code -9"),
        ("12 FAILED 768 NonZeroExitCode", "no such thing\nsrun: error", "FAILED", "exit code 3: no such thing"),
    ],
)
def test_why_a_job_ended_is_told_without_accounting(
    programs: Programs, tmp_path: Path, line: str, stderr: str, state: str, reason: str
) -> None:
    Queue(tmp_path).submit_missing({"a": job("a")}, 5)
    (tmp_path / "slurm" / "12_0_log.err").write_text(stderr)
    programs.says("squeue", f"{tmp_path.name}-0 {line}")
    wait(tmp_path, {"a": ["seed=0"]})
    found = ends(tmp_path)["a"]
    assert (found.state, found.overrides) == (state, ["seed=0"])
    assert reason in found.reason
    assert "12_0_log.err" in found.reason


def test_what_a_job_said_itself_counts_where_slurm_did_nothing_to_it(programs: Programs, tmp_path: Path) -> None:
    Queue(tmp_path).submit_missing({"a": job("a"), "b": job("b")}, 5)
    note(tmp_path, "a", End("FAILED", reason="model.path=x: no such folder.", mistake=True))
    note(tmp_path, "b", End("FINISHED", 0.5))
    name = f"{tmp_path.name}-0"
    programs.says("squeue", f"{name} 12_0 FAILED 512 NonZeroExitCode\n{name} 12_1 COMPLETED 0 None")
    wait(tmp_path, {"a": [], "b": []})
    assert ends(tmp_path)["a"].reason == "model.path=x: no such folder."
    assert ends(tmp_path)["b"].value == 0.5
