"""Ctrl-C and SIGTERM in the first seconds of each command, while libraries are imported: one line, and no trace."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.command import TIMEOUT_S, TINY, Ended, environment
from tests.unit.test_predict import tuned

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
COMMANDS = {
    "predict": ("model=model", "input=proteins.fasta", "output=p.csv"),
    "embed": ("model=esm2_tiny", "input=proteins.fasta", "output=e.h5"),
    "export": ("model=model", "to=exported", "as=huggingface"),
    "benchmark": ("protocol=latency", "model=esm2_tiny"),
    "train": TINY,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned model and two proteins."""
    folder = tmp_path_factory.mktemp("early")
    tuned(folder / "model")
    (folder / "proteins.fasta").write_text(">a\nMKV\n>b\nMKL\n")
    return folder


def heeds(number: signal.Signals) -> Callable[[int], bool]:
    """The process has a handler for the signal."""

    def reached(process: int) -> bool:
        caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
        return bool(caught and int(caught[1], 16) >> (number - 1) & 1)

    return reached


def loads(library: str) -> Callable[[int], bool]:
    """The process has begun to load a library."""
    return lambda process: library in Path(f"/proc/{process}/maps").read_text()


def stop(place: Path, command: str, number: signal.Signals, reached: Callable[[int], bool], wait_s: float) -> Ended:
    """Send the signal `wait_s` after the process has got there, and wait for its end."""
    with subprocess.Popen(
        [sys.executable, "-m", f"plmft.{command}", *COMMANDS[command]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=place,
        env=environment(place / "runs"),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while process.poll() is None and not reached(process.pid):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            assert process.poll() is None, process.communicate()
            time.sleep(wait_s)
            process.send_signal(number)
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("command", COMMANDS)
def test_while_torch_is_imported(place: Path, command: str, number: signal.Signals) -> None:
    wait_s = 0.03 if number == signal.SIGTERM else 0.3
    assert_told(stop(place, command, number, loads("libtorch_python"), wait_s), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("command", ["predict", "train"])
@pytest.mark.parametrize("wait_s", [0.0, 0.2])
def test_before_torch_is_imported(place: Path, command: str, number: signal.Signals, wait_s: float) -> None:
    assert_told(stop(place, command, number, heeds(signal.SIGTERM), wait_s), number)


def assert_told(ended: Ended, number: signal.Signals) -> None:
    """One line, and the signal's exit code."""
    assert ended.code == 128 + number, ended
    told = ended.err.strip().splitlines()
    assert len(told) == 1 and "nterrupted" in told[0], ended
