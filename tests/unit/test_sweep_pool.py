"""Jobs as processes: real ones, of a small program in the place of a training."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plmft.sweeps import pool as sweep_pool
from plmft.sweeps.jobs import Composed, End, ends, note
from plmft.training.interrupts import exit_code, terminate_as_interrupt

PROGRAM = """
import json, os, signal, sys, time
config = json.loads(sys.stdin.readline())
at = open(config["at"], "a", buffering=1)
at.write(f"begins {os.environ['OMP_NUM_THREADS']} {os.environ['PLMFT_OVERRIDES']}\\n")
def told(number, frame):
    at.write(f"signal {number}\\n")
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, told)
at.write("ready\\n")
time.sleep(config["s"])
print("its last words", file=sys.stderr)
at.write("ends\\n")
os.kill(os.getpid(), signal.SIGKILL) if config["code"] < 0 else sys.exit(config["code"])
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sweep_pool.Pool:
    monkeypatch.setattr(sweep_pool, "COMMAND", (sys.executable, "-c", PROGRAM))
    monkeypatch.setattr(sweep_pool, "POLL_S", 0.01)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    return sweep_pool.Pool(tmp_path, 2)


def job(folder: Path, number: int, *, code: int = 0, s: float = 0.0) -> Composed:
    config = {"at": str(folder / "told"), "code": code, "s": s, "hardware": {"devices": 1}}
    return Composed(number, [f"seed={number}"], config, f"key{number}", {}, OmegaConf.create())


def test_what_jobs_could_not_say_is_noted(pool, tmp_path, capsys):
    pool.run([job(tmp_path, 0, code=3), job(tmp_path, 1, code=-9), job(tmp_path, 2, code=0)])
    found = ends(tmp_path)
    assert found["key0"] == End("FAILED", reason="exit code 3: its last words", overrides=["seed=0"])
    assert found["key1"].reason.startswith("killed by SIGKILL; the system does so when memory runs out")
    assert found["key2"].reason == "exit code 0: its last words", "a job that says nothing has not finished"
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(": ")[0] for line in lines) == ["[0] seed=0", "[1] seed=1", "[2] seed=2"]
    assert "begins 3 seed=0" in (tmp_path / "told").read_text(), "half of six cores"


def test_what_a_job_said_itself_stands(pool, tmp_path):
    note(tmp_path, "key0", End("FINISHED", 0.1))  # of an earlier time
    threading.Timer(0.3, note, (tmp_path, "key0", End("FINISHED", 0.5))).start()
    pool.run([job(tmp_path, 0, code=1, s=0.6)])
    assert ends(tmp_path)["key0"] == End("FINISHED", 0.5, overrides=[])


def test_no_more_at_a_time_than_asked_for(pool, tmp_path):
    pool.run([job(tmp_path, number, s=0.1) for number in range(4)])
    running, most = 0, 0
    for line in (tmp_path / "told").read_text().splitlines():
        running += {"begins": 1, "ends": -1}.get(line.split()[0], 0)
        most = max(most, running)
    assert most == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_is_handed_on_and_the_jobs_are_waited_for(pool, tmp_path, number):
    told = tmp_path / "told"

    def interrupt() -> None:
        while not told.exists() or told.read_text().count("ready") < 2:
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, number)

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        terminate_as_interrupt()
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt) as raised:
            pool.run([job(tmp_path, i, s=60) for i in range(3)])
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    assert exit_code(raised.value) == 128 + number
    lines = told.read_text().splitlines()
    assert lines.count(f"signal {int(number)}") == 2 and "ends" not in lines
    assert set(ends(tmp_path)) == {"key0", "key1"}, "the third was not begun"
    assert json.loads((tmp_path / "jobs" / "key0.json").read_text())["reason"].startswith(f"exit code {128 + number}")
