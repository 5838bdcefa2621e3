"""The command as a user runs it: in a process of its own, or, which saves its imports, in this one; and what it left.

Both enter by the same `main`; in this process `sys.argv` is set and Hydra's global state is cleared around it.
"""

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.conftest import random_sequence

TIMEOUT_S = 110
# the quickstart, made small
SMALL = ("experiment=quickstart", "task.train=60", "task.valid=10", "task.test=20", "optim.epochs=2")
TINY = ("model=esm2_tiny", "task=planted_structure", "task.train=8", "task.valid=4", "task.test=4", "optim.epochs=1")
BRIGHTNESS = "fluorescence"
WILD_TYPE = "MSKGEELFTGVVPILVELDGDVNGHKFSVSG"


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def refused(self, *words: str) -> str:
        """Exit code 2 and one message on one line of stderr, which holds all the words; returns it."""
        assert self.code == 2, self
        assert "Traceback" not in self.out + self.err, self
        (line,) = self.err.splitlines()
        assert line.startswith("plmft: "), self
        missing = [word for word in words if word not in line]
        assert not missing, f"{missing} not in: {line}"
        return line

    def succeeded(self) -> str:
        """Exit code 0 and nothing on stderr; returns what was printed."""
        assert self.code == 0, self
        assert self.err == "", self.err
        return self.out


def stopped_in_silence(command: list[str], given: bytes, ready: Callable[[], bool], runs: Path) -> "Ended":
    """SIGTERM comes when it is ready, while its standard input stays open and says no more."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment(runs), **pipes) as process:
        try:
            process.stdin.write(given)
            process.stdin.flush()
            deadline = time.monotonic() + TIMEOUT_S
            while not ready():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            process.terminate()
            code = process.wait(20)
            return Ended(code, process.stdout.read().decode(), process.stderr.read().decode())
        finally:
            process.kill()


def environment(runs: Path, **changes: str) -> dict[str, str]:
    """This environment without data, with a runs folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "PLMFT_DATA"}
    ours = {"PLMFT_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    return inherited | ours | changes


def arguments(*overrides: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "plmft.train", *overrides]


def run_apart(runs: Path, *overrides: str, cwd: Path | None = None, **changes: str) -> Ended:
    """Run the command in a process of its own."""
    done = subprocess.run(
        arguments(*overrides),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(runs, **changes),
        timeout=TIMEOUT_S,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Ended:
    """Run the command in this process; the environment is the caller's."""
    from plmft.train import main

    monkeypatch.setattr(sys, "argv", ["train", *overrides])
    handler = signal.getsignal(signal.SIGTERM)
    GlobalHydra.instance().clear()
    capfd.readouterr()
    code = 0
    try:
        with as_in_a_process():
            main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        GlobalHydra.instance().clear()
        signal.signal(signal.SIGTERM, handler)
    return Ended(code, *capfd.readouterr())


@contextmanager
def as_in_a_process() -> Iterator[None]:
    """Warnings go to stderr by Python's own defaults, as they do outside of pytest."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for silent in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", silent)
        warnings.showwarning = lambda *warned: print(warnings.formatwarning(*warned[:4]), file=sys.stderr)
        yield


def stored_runs(runs: Path) -> list:
    """All MLflow runs of a runs folder, oldest first."""
    if not (runs / "mlflow.db").exists():
        return []
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time"]))


def statuses(runs: Path) -> list[str]:
    """How the runs ended, oldest first."""
    return [run.info.status for run in stored_runs(runs)]


def assert_nothing_left(runs: Path) -> None:
    """No run's folder, no file half written, no run in the store."""
    assert not list(runs.glob("work/*"))
    assert_nothing_half_written(runs)
    assert statuses(runs) == []


def assert_nothing_half_written(runs: Path) -> None:
    """No temporary file, whoever wrote it."""
    found = [path for pattern in ("*.part", ".probe-*", ".new-store-*", "*.tmp") for path in runs.rglob(pattern)]
    assert not found, found


def run_folder(runs: Path) -> Path:
    """The folder of the newest run."""
    return max((runs / "work").iterdir())


def brightness_rows(rng: np.random.Generator, count: int) -> list[tuple[str, float]]:
    """Sequences of 20 to 30 residues; bright (above 2.5) where they begin with M, dark elsewhere: both in any split."""
    rows = []
    for i in range(count):
        bright = i % 2 == 0
        sequence = ("M" if bright else "W") + random_sequence(rng, int(rng.integers(19, 30)))
        rows.append((sequence, (3.5 if bright else 1.5) + 0.2 * float(rng.standard_normal())))
    return rows


def write_brightness(folder: Path, splits: dict[str, list[tuple[str, float]]]) -> Path:
    """Data in the layout of the task fluorescence; returns the data folder."""
    (folder / BRIGHTNESS).mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = ["sequence,log_fluorescence", *(f"{sequence},{value!r}" for sequence, value in rows)]
        (folder / BRIGHTNESS / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder
