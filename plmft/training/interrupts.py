"""Signals that end a run: Ctrl-C, SIGTERM, which cluster managers send before they kill, and SIGUSR2, which they can be
told to send in time. Each raises its exception in the main thread, so that the run is marked and its state is kept.

None is raised in the middle of an import, which may take seconds: native code that torch runs there ends the process
with a trace, and some libraries catch everything. The exception comes as soon as the import is over.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

IMPORT = "<frozen importlib._bootstrap>"  # the file name of each import's frame
LATER_S = 0.02
TOLD = "plmft: interrupted."
_nothing_open = False
_asked = 0  # the signal that came last: a library that catches everything while it is imported loses the exception


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


class Preempted(KeyboardInterrupt):
    """SIGUSR2 came: the run is to make room, and to go on later."""


EXCEPTIONS: dict[int, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGUSR2: Preempted,
}


def terminate_as_interrupt() -> None:
    """From now on these signals raise their exceptions, and are remembered."""
    global _asked
    _asked = 0
    signal.signal(signal.SIGTERM, _raise)
    signal.signal(signal.SIGUSR2, _raise)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _end):  # else: it is to be ignored
        signal.signal(signal.SIGINT, _raise)


def end_at_once() -> None:
    """Until terminate_as_interrupt: end this process with one line. For the first imports; nothing is open then."""
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


@contextmanager
def nothing_open() -> Iterator[None]:
    """For imports that take seconds, while nothing is to be kept: a signal need not wait for their end.

    Under SLURM it does: a job that makes room asks to be queued again.
    """
    global _nothing_open
    _nothing_open = "SLURM_JOB_ID" not in os.environ
    try:
        yield
    finally:
        _nothing_open = False


def tell(interrupt: KeyboardInterrupt) -> None:
    """One line on standard error, unless whoever kept the state has told."""
    if not getattr(interrupt, "told", False):
        print(TOLD, file=sys.stderr, flush=True)


def stop_if_asked() -> None:
    """Raises: KeyboardInterrupt, Terminated, Preempted: a signal came before, and its exception got lost."""
    if _asked:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise interruption(_asked)


def _raise(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
    if _imports(frame):
        if _nothing_open and number != signal.SIGUSR2:
            _end(number, frame)
        signal.signal(signal.SIGALRM, _raise_later)
        signal.setitimer(signal.ITIMER_REAL, LATER_S)
    else:
        raise interruption(number)


def _raise_later(number: int, frame: FrameType | None) -> None:
    _raise(_asked, frame)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is under way in this frame."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORT:
            return True
        frame = frame.f_back
    return False


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{TOLD}\n".encode())
    os._exit(128 + number)


def interruption(number: int) -> KeyboardInterrupt:
    """What a signal raises."""
    return EXCEPTIONS[number]()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells count."""
    numbers = {kind: number for number, kind in EXCEPTIONS.items()}
    return 128 + numbers.get(type(interrupt), signal.SIGINT)
