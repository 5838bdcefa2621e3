"""A run as a SLURM job: how it starts, and how it gets its place in the queue again.

For SLURM a job that ends by itself is over, also one that was told to make room: with a GraceTime, a preempted job that
obeys the signal at once counts as failed. So a run that has kept its state asks for the requeue itself.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from plmft.training.interrupts import Preempted, exit_code

ANSWER_S = 60.0  # for the controller


def run_job(overrides: Sequence[str], environment: Mapping[str, str]) -> None:
    """Become `python -m plmft.train <overrides>`, with these variables; submitit calls this in the job, on every rank.

    Replacing the process drops submitit's signal handlers, which would ignore SIGTERM, and makes the run's exit code
    the job's.
    """
    os.environ.update(environment)
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    os.execv(sys.executable, [sys.executable, "-m", "plmft.train", *overrides])


def leave(interrupt: KeyboardInterrupt) -> int:
    """The exit code of an interrupted run. If it is to make room, its SLURM job is queued again first.

    Of several ranks that srun started, the first one's counts. The others end with 0: any other code makes srun
    (--kill-on-bad-exit) end rank 0, which is about to close the MLflow run.
    """
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0
    if isinstance(interrupt, Preempted) or preempted():
        requeue()
    return exit_code(interrupt)


def preempted() -> bool:
    """Whether this process is part of a job that SLURM has preempted, and given some time (GraceTime) to end."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    told = _scontrol("--oneliner", "show", "job", os.environ["SLURM_JOB_ID"]).stdout
    return bool(re.search(r"JobState=RUNNING .*PreemptTime=\d", told))


def requeue() -> None:
    """Ask for this job to be queued again, under its own id. SLURM then ends what is left of it: nothing may follow."""
    job = _job_id()
    if job is None:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is ending; so does what it asks for
    asked = _scontrol("requeue", job)
    told = "is queued again" if asked.returncode == 0 else f"is not queued again: {asked.stderr.strip()}"
    print(f"SLURM job {job} {told}.", flush=True)


def _job_id() -> str | None:
    """Of this job, with its number in an array; None outside of one."""
    found = os.environ
    if "SLURM_ARRAY_JOB_ID" in found:
        return f"{found['SLURM_ARRAY_JOB_ID']}_{found['SLURM_ARRAY_TASK_ID']}"
    return found.get("SLURM_JOB_ID")


def _scontrol(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
