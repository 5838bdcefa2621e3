"""A signal is not lost where a library catches everything."""

import os
import signal
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
