"""Start the ranks of a run on this machine, watch them, and end all when one fails. Imports nothing heavy.

The command's own process computes nothing: it hands the checked config to `hardware.devices` processes of the same
command, forwards signals, and tells one error, whichever rank it came from. (torchrun's agent watches processes, too,
but imports torch for it, answers every failure with a report of its own, and can't tell that a user made a mistake.)
Where ranks exist already, started by torchrun or srun, nothing is started.

A folder of temporary files, shared with the ranks, holds the config, the meeting point of the process group, which
MLflow run is open, the first errors, and the result.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.training.interrupts import exit_code

FOLDER = "PLMFT_RANKS"  # the shared folder, for ranks
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}  # ranks of one machine need no network
POLL_S = 0.05
OTHERS_S = 15.0  # after a rank failed, for the others to end by themselves: what they wait for won't come
STOP_S = 60.0  # after a signal, to end the step and write a last checkpoint
TOLD_LINES = 20  # of what a rank wrote to stderr, where it left no other reason


class RankFailed(Exception):
    """A rank ended, by no fault of the user that is known; the message tells all."""


def starts_ranks(hardware: Mapping[str, Any]) -> bool:
    """Whether this process is to start the ranks of a run on this hardware."""
    ranks_exist = "RANK" in os.environ or bool(slurm_environment())
    return hardware["devices"] > 1 and hardware["nodes"] == 1 and not ranks_exist


def slurm_environment() -> dict[str, str]:
    """torchrun's variables from srun's; empty where srun started no ranks, or torchrun did."""
    found = os.environ
    if "RANK" in found or int(found.get("SLURM_STEP_NUM_TASKS", "1")) == 1 or "SLURM_PROCID" not in found:
        return {}
    return {
        "RANK": found["SLURM_PROCID"],
        "LOCAL_RANK": found["SLURM_LOCALID"],
        "GROUP_RANK": found.get("SLURM_NODEID", "0"),
        "WORLD_SIZE": found["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": found.get("MASTER_ADDR") or _first_host(found["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": found.get("MASTER_PORT") or str(20000 + int(found["SLURM_JOB_ID"]) % 20000),
    }


def _first_host(nodes: str) -> str:
    """node07 of node[07-09,12],other3."""
    name, number = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes).groups()
    return name + (number or "")


def launch(config: Mapping[str, Any], command: str = "plmft.train") -> float | None:
    """Run one job in `hardware.devices` processes of the module `command`; returns rank 0's result.

    Raises: InputError: a rank found a user's mistake. RankFailed: a rank failed, or was killed. KeyboardInterrupt: all
        ranks were stopped. No rank is left in any case, and the MLflow run is closed.
    """
    devices = config["hardware"]["devices"]
    with tempfile.TemporaryDirectory(prefix="plmft-ranks-") as name:
        folder, port = Path(name), _free_port()
        (folder / "config.json").write_text(json.dumps(config))
        ranks = [_start(folder, rank, devices, port, command) for rank in range(devices)]
        try:
            _watch(ranks)
            ended = [process.returncode for process in ranks]  # None: must be killed
        except KeyboardInterrupt as interrupt:
            _stop(folder, ranks, signal.Signals(exit_code(interrupt) - 128))
            interrupt.told = (folder / "run.json").exists()  # rank 0, which had a run open, tells
            raise
        finally:
            _kill(ranks)
        if any(ended):
            _close_run(folder, "FAILED")
            raise _failure(folder, ended)
        sys.stderr.write((folder / "stderr-0").read_text(errors="replace"))
        return json.loads((folder / "result.json").read_text())


def _start(folder: Path, rank: int, devices: int, port: int, command: str) -> subprocess.Popen:
    threads = str(max(1, (os.cpu_count() or 1) // devices))
    ours = {
        FOLDER: str(folder),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with (folder / f"stderr-{rank}").open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", command],
            stdin=subprocess.PIPE,  # closed if this process is killed, which ends the rank
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=file,
            env={"OMP_NUM_THREADS": threads, **LOOPBACK, **os.environ, **ours},
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _watch(ranks: list[subprocess.Popen]) -> None:
    """Until rank 0, which ends last, has ended, or one has failed; then the others have time to end."""
    while not any(process.poll() for process in ranks) and ranks[0].returncode is None:
        time.sleep(POLL_S)
    _wait(ranks, OTHERS_S)


def _wait(ranks: list[subprocess.Popen], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(process.poll() is None for process in ranks):
        time.sleep(POLL_S)


def _stop(folder: Path, ranks: list[subprocess.Popen], number: signal.Signals) -> None:
    """A second interrupt ends the waiting."""
    try:
        for process in ranks:
            process.send_signal(number)
        _wait(ranks, STOP_S)
    finally:
        _kill(ranks)
        _close_run(folder, "SCHEDULED" if number == signal.SIGUSR2 else "KILLED")


def _kill(ranks: list[subprocess.Popen]) -> None:
    for process in ranks:
        if process.poll() is None:
            process.kill()
    for process in ranks:
        process.wait()
        process.stdin.close()


def _failure(folder: Path, ended: list[int | None]) -> Exception:
    """What the first rank that failed has said. One that was killed says nothing, and what fails then follows from it.

    Args:
        ended: exit codes by rank, below 0 for a signal; None where a rank did not end by itself.
    """
    told = sorted(
        (json.loads(file.read_text()) for file in folder.glob("error-*.json")), key=lambda error: error["time_ns"]
    )
    for error in told:
        if error["mistake"]:
            return InputError(error["text"])
    silent = {rank: code for rank, code in enumerate(ended) if code and not (folder / f"error-{rank}.json").exists()}
    killed = [rank for rank, code in silent.items() if code < 0 and code != -signal.SIGABRT]  # NCCL aborts as a sequel
    if told and not killed:
        first = told[0]
        return RankFailed(f"Rank {first['rank']} of {len(ended)} failed; the others were ended.\n{first['text']}")
    rank = killed[0] if killed else min(silent)
    return RankFailed(_silence(folder, rank, silent[rank]))


def _silence(folder: Path, rank: int, code: int) -> str:
    if code >= 0 or code == -signal.SIGABRT:
        lines = (folder / f"stderr-{rank}").read_text(errors="replace").splitlines()[-TOLD_LINES:]
        return "\n".join([f"Rank {rank} ended with exit code {code}; the others were ended.", *lines])
    name = signal.Signals(-code).name
    usual = " The system kills a process when memory runs out: see dmesg." if name == "SIGKILL" else ""
    return f"Rank {rank} was killed by {name}; the others were ended, and the run is marked FAILED.{usual}"


def _close_run(folder: Path, status: str) -> None:
    """Close the MLflow run that rank 0 had open, if it could not."""
    file = folder / "run.json"
    if not file.exists():
        return
    from plmft.tracking.run import Run

    opened = json.loads(file.read_text())
    try:
        run = Run.reopen(opened["uri"], Path(opened["folder"]))
        run.end(status, wait_s=OTHERS_S)
        told = run.note
    except (InputError, OSError) as error:
        told = str(error)
    if told:  # what ended the run matters more
        print(f"plmft: {told}", file=sys.stderr)


class RankSide:
    """What a rank that `launch` started reads from the shared folder and leaves there."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self.rank = folder, rank

    @classmethod
    def find(cls) -> "RankSide | None":
        """None in a process that `launch` did not start."""
        folder = os.environ.get(FOLDER)
        return None if folder is None else cls(Path(folder), int(os.environ["RANK"]))

    def config(self) -> dict[str, Any]:
        """The job's, checked."""
        return json.loads((self._folder / "config.json").read_text())

    def work(self, job: Callable[[], float | None]) -> None:
        """Do this rank's share, and leave what came of it; this process ends if it failed. The result is rank 0's."""
        self.end_with_parent()
        try:
            result = job()
        except InputError as error:
            self.error(str(error), mistake=True)
            sys.exit(2)
        except KeyboardInterrupt as interrupt:
            sys.exit(exit_code(interrupt))
        except BaseException:
            self.error(traceback.format_exc(), mistake=False)
            sys.exit(1)
        if self.rank == 0:
            self.result(result)

    @staticmethod
    def end_with_parent() -> None:
        """If the command's own process is killed, this one ends, too."""

        def watch() -> None:
            while os.read(0, 1):
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(OTHERS_S)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()

    def opened(self, uri: str, folder: Path) -> None:
        """Rank 0 has opened the MLflow run of this folder."""
        self._write("run.json", {"uri": uri, "folder": str(folder)})

    def result(self, value: float | None) -> None:
        """Rank 0's."""
        self._write("result.json", value)

    def error(self, text: str, *, mistake: bool) -> None:
        """Why this rank ends. mistake: the user's; the text says what to do."""
        told = {"rank": self.rank, "text": text, "mistake": mistake, "time_ns": time.time_ns()}
        self._write(f"error-{self.rank}.json", told)

    def _write(self, name: str, value: object) -> None:
        write_whole(self._folder / name, json.dumps(value).encode())
