"""The parent's side: the peers' environment, and processes that answer jobs in it and in plmft's own.

Making the environment takes a minute or two and some GB, once for each content of peers-requirements.txt.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).parent / "peers-requirements.txt"
ROOT = Path(__file__).parent.parent
LIMIT_S = 900.0  # for one job; a process that hangs must not hold up the other rows
DROPPED = ("MALLOC_", "OMP_", "MKL_", "KMP_", "GOMP_", "LD_PRELOAD", "PLMFT_KERNEL", "PYTHONPATH")


class PeersMissing(Exception):
    """The peers can't be installed here; the message says why and what to do."""


def cache_folder() -> Path:
    """Where the peers' environment, the checkpoints and the last results are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "plmft-benchmarks"


def peers_python(given: str | None) -> Path:
    """The Python of the peers' environment, which is made if it is absent. Raises: PeersMissing."""
    if given is not None:
        if shutil.which(given) is None:
            raise PeersMissing(f"--peers-python {given}: there is no such program.")
        return Path(given)
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"peers-{digest}"
    python = folder / "bin" / "python"
    if (folder / "complete").is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing the peers into {folder} (once; {REQUIREMENTS.name}) ...", flush=True)
    steps = [sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "-q", "-r", REQUIREMENTS]
    for command in steps:
        made = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if made.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            reason = next((line for line in reversed(made.stderr.splitlines()) if line.startswith("ERROR")), "")
            raise PeersMissing(
                f"The peers could not be installed ({reason or made.stderr.strip()[-200:]}). Check the network or "
                "pip's index, or name a Python with the packages of benchmarks/peers-requirements.txt: --peers-python."
            )
    (folder / "complete").touch()
    return python


class Worker:
    """One process that answers jobs (benchmarks.serve) until it is closed.

    Args:
        module: benchmarks.plmft_jobs or benchmarks.peer_jobs. log: where its own output goes.
        runs: plmft's runs folder. kernel: False turns plmft's compiled kernel off.
    """

    def __init__(
        self, python: Path, module: str, *, threads: int, log: Path, runs: Path | None = None, kernel: bool = True
    ) -> None:
        self._log, self._name = log, module
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module],
                cwd=ROOT,
                env=environment(threads, runs, kernel),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a job. Raises: RuntimeError: it failed, or the process died."""
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}, default=str) + "\n")
            self._process.stdin.flush()
            line = self._answer()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"the process ended ({self._tail()})"}
        if "error" in answer:
            raise RuntimeError(f"{self._name}, {job}: {answer['error']}")
        return answer

    def _answer(self) -> str:
        """A line, or nothing if the process ends, as it must after LIMIT_S."""
        alarm = threading.Timer(LIMIT_S, self._process.kill)
        alarm.start()
        try:
            return self._process.stdout.readline()
        finally:
            alarm.cancel()

    def _tail(self) -> str:
        lines = self._log.read_text().strip().splitlines()
        return lines[-1][-300:] if lines else f"exit code {self._process.poll()}"

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):  # it is dead already
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def environment(threads: int, runs: Path | None = None, kernel: bool = True) -> dict[str, str]:
    """The same for all sides: so many threads, no settings of the allocator, no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    kept |= {"OMP_NUM_THREADS": str(threads), "ESM_NUM_THREADS": str(threads)}  # the second is esm-cpp's
    kept |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if runs is not None:
        kept["PLMFT_RUNS"] = str(runs)
    return kept if kernel else kept | {"PLMFT_KERNEL": "0"}


class Workers:
    """Starts workers by the side's name, each once, and closes them all at the end of a row."""

    def __init__(self, peers: Path | None, *, threads: int, folder: Path) -> None:
        self._peers, self._threads, self._folder = peers, threads, folder
        self._running: dict[str, Worker] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, side: str) -> Worker:
        """A side: `plmft`, `plmft_plain` (without the compiled kernel), or another name: a process of the peers."""
        if side not in self._running:
            self._running[side] = self._start(side)
            self._stack.callback(self._running[side].close)
        return self._running[side]

    def _start(self, side: str) -> Worker:
        log = self._folder / f"{side}.log"
        if side.startswith("plmft"):
            runs = self._folder / "runs" / side
            kernel = side != "plmft_plain"
            python, module = Path(sys.executable), "benchmarks.plmft_jobs"
            return Worker(python, module, threads=self._threads, log=log, runs=runs, kernel=kernel)
        if self._peers is None:
            raise PeersMissing("The peers' environment is missing.")
        return Worker(self._peers, "benchmarks.peer_jobs", threads=self._threads, log=log)
