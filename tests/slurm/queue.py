"""Jobs as a user and an administrator handle them, by SLURM's own programs."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TEMPLATE = Path(__file__).parents[2] / "slurm" / "train.sbatch"
LONGEST_S = 300.0


def sbatch(*words: str, cwd: Path) -> str:
    """Submit; returns the job's id."""
    told = subprocess.run(["sbatch", *words], cwd=cwd, check=True, capture_output=True, text=True).stdout
    return re.search(r"job (\d+)", told)[1]


def scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True).stdout


def state(job: str) -> str:
    """PENDING, RUNNING, COMPLETED and so on."""
    return re.search(r"JobState=(\w+)", scontrol("show", "job", job))[1]


def restarts(job: str) -> int:
    return int(re.search(r"Restarts=(\d+)", scontrol("show", "job", job))[1])


def start_now(job: str) -> None:
    """SLURM lets a job that was queued again wait for two minutes; these tests can't."""
    until(lambda: state(job) == "PENDING")
    scontrol("update", f"JobId={job}", "StartTime=now")


def until(condition: Callable[[], T]) -> T:
    """Wait for it; returns what it came to."""
    deadline = time.monotonic() + LONGEST_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.2)
    return found
