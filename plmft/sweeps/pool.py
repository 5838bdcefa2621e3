"""The jobs of a sweep as processes of this machine, some at a time; each writes to a file in the sweep's folder.

A job gets its config, which may hold secrets, through a pipe, and ends when this process does. Cores are divided among
those that run together, and GPUs dealt out in turn. Costs a look at each process ten times a second.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plmft.sweeps.jobs import Composed, End, ends, forget, give, given_to, name_of, note, swept
from plmft.training.interrupts import exit_code

COMMAND = (sys.executable, "-m", "plmft.train")
POLL_S = 0.1
STOP_S = 60.0  # after a signal, for the jobs to end their step and write a checkpoint
GPUS = Path("/proc/driver/nvidia/gpus")


@dataclass
class _Running:
    job: Composed
    process: subprocess.Popen
    log: Path
    began: float  # monotonic seconds


class Pool:
    """Runs jobs in `size` processes at a time. folder: of the sweep."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = folder, size
        self._slots: dict[int, _Running] = {}
        (folder / "logs").mkdir(exist_ok=True)

    def run(self, jobs: Sequence[Composed]) -> None:
        """Until all have ended. Raises: KeyboardInterrupt."""
        waiting = deque(jobs)
        try:
            while waiting or self._slots:
                for slot in range(self._size):
                    if slot not in self._slots and waiting:
                        self._slots[slot] = self._start(waiting.popleft(), slot)
                self._collect()
                time.sleep(POLL_S)
        except KeyboardInterrupt as interrupt:
            self._stop(interrupt)
            raise
        finally:
            for running in self._slots.values():
                running.process.kill()

    def _start(self, job: Composed, slot: int) -> _Running:
        forget(self._folder, job.config_key)
        log = self._folder / "logs" / f"{job.number}-{job.config_key[:6]}.log"
        ours = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self._size))}
        with log.open("ab") as file:
            process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={
                    **ours,
                    **os.environ,
                    **_gpus(slot, job.config["hardware"]["devices"], self._size),
                    **given_to(job),
                },
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
            )
        with suppress(BrokenPipeError):  # it has died; its end is told like any other's
            give(job, process.stdin)  # which stays open: its end tells the job that this process is gone
        return _Running(job, process, log, time.monotonic())

    def _collect(self) -> None:
        for slot, running in list(self._slots.items()):
            if running.process.poll() is not None:
                del self._slots[slot]
                self._tell(running)

    def _tell(self, running: _Running) -> None:
        """One line; and the reason of a process that could not note it."""
        job, key = running.job, running.job.config_key
        end = ends(self._folder).get(key)
        if end is None:
            end = End("FAILED", reason=_silence(running), overrides=job.overrides)
            note(self._folder, key, end)
        value = "" if end.value is None else f" {end.value:.3f}"
        why = f": {end.reason}; see {running.log}" if end.reason else ""
        seconds = time.monotonic() - running.began
        name = name_of(job.overrides, swept(self._folder))
        print(f"[{job.number}] {name}: {end.state}{value}{why} ({seconds:.0f} s)", flush=True)

    def _stop(self, interrupt: KeyboardInterrupt) -> None:
        """Hand the signal on, and wait. A second one ends the waiting."""
        for running in self._slots.values():
            running.process.send_signal(exit_code(interrupt) - 128)
        deadline = time.monotonic() + STOP_S
        while self._slots and time.monotonic() < deadline:
            self._collect()
            time.sleep(POLL_S)


def _silence(running: _Running) -> str:
    """Why a process ended that noted nothing."""
    code = running.process.returncode
    if code >= 0:
        lines = running.log.read_text(errors="replace").splitlines()
        return f"exit code {code}{f': {lines[-1]}' if lines else ''}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + ("; the system does so when memory runs out, see dmesg" if name == "SIGKILL" else "")


def _gpus(slot: int, devices: int, size: int) -> dict[str, str]:
    """The GPUs of a slot, in turn, where there are several jobs at a time and several GPUs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        gpus = [gpu for gpu in given.split(",") if gpu]
    else:
        gpus = [str(i) for i in range(len(list(GPUS.iterdir())) if GPUS.is_dir() else 0)]
    if size == 1 or len(gpus) < 2:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[(slot * devices + i) % len(gpus)] for i in range(devices))}
