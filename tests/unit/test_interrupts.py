"""A signal is not lost where a library catches everything."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from plmft.training import interrupts
from plmft.training.interrupts import Preempted, Terminated, exit_code, stop_if_asked, terminate_as_interrupt


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_as_interrupt()
    yield
    interrupts._asked = 0
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGINT, KeyboardInterrupt, 130),
        (signal.SIGTERM, Terminated, 143),
        (signal.SIGUSR2, Preempted, 128 + signal.SIGUSR2),
    ],
)
def test_a_signal_whose_exception_was_swallowed_is_raised_again(number, kind, code):
    stop_if_asked()
    with suppress(BaseException):
        os.kill(os.getpid(), number)
        signal.pause()
    with pytest.raises(kind) as told:
        stop_if_asked()
    assert exit_code(told.value) == code
    terminate_as_interrupt()
    stop_if_asked()


def test_a_signal_that_is_to_be_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate_as_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


SIGNALLED = """
import os, signal
os.kill(os.getpid(), signal.SIGTERM)
done = sum(range(1000))
"""


def test_a_signal_in_an_import_interrupts_after_it(tmp_path, monkeypatch):
    (tmp_path / "signalled_module.py").write_text(SIGNALLED)
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGALRM)
    try:
        with pytest.raises(Terminated):
            try:
                import signalled_module
            except Terminated:
                pytest.fail("raised within the import")
            assert signalled_module.done == 499500
            signal.pause()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_in_an_import_ends_the_process_where_nothing_is_open(tmp_path):
    (tmp_path / "signalled_module.py").write_text(SIGNALLED)
    program = "from plmft.training.interrupts import *\nterminate_as_interrupt()\nwith nothing_open():\n import "
    command = [sys.executable, "-c", f"{program}signalled_module"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    environment.pop("SLURM_JOB_ID", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "plmft: interrupted.\n")
