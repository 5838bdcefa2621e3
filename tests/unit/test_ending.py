"""How commands end: one line on standard error, and an exit code that a shell and a cluster understand."""

import subprocess
import sys
from pathlib import Path

import pytest

from plmft import InputError
from plmft.ending import ending
from plmft.training.interrupts import Preempted, Terminated
from plmft.training.launching import RankFailed

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (InputError("no such file: http://me:secret@host/x"), 2, "plmft: no such file: http://***@host/x\n"),
        (RankFailed("rank 1 ended"), 1, "plmft: rank 1 ended\n"),
        (KeyboardInterrupt(), 130, "plmft: interrupted; all is kept.\n"),
        (Terminated(), 143, "plmft: interrupted; all is kept.\n"),
        (Preempted(), 140, "plmft: interrupted; all is kept.\n"),
    ],
)
def test_one_line_and_a_code(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str) -> None:
    with pytest.raises(SystemExit) as ended, ending("all is kept."):
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == told


def test_a_fault_of_ours_keeps_its_trace() -> None:
    with pytest.raises(ZeroDivisionError), ending():
        raise ZeroDivisionError
    with pytest.raises(BrokenPipeError), ending():
        raise BrokenPipeError  # of a worker's pipe: standard output is read


@pytest.mark.parametrize("module", ["embed", "export", "doctor", "benchmark", "predict", "evaluate"])
def test_a_reader_that_has_gone_is_no_trace(module: str) -> None:
    reader = subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE)
    reader.wait()
    ended = subprocess.run(
        [sys.executable, "-m", f"plmft.{module}", "--help"],
        stdout=reader.stdin, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
def test_a_full_standard_output_is_no_trace() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "plmft.predict", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT, timeout=60,
        )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr == "plmft: standard output can't be written (No space left on device).\n"


def test_another_error_of_the_system_leaves_standard_output_alone() -> None:
    code = "from plmft.ending import ending\nwith ending(): raise OSError(111, 'Connection refused')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "") and "Connection refused" in ended.stderr
