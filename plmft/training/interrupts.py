"""Signals that end a run: Ctrl-C, SIGTERM, which cluster managers send before they kill, and SIGUSR2, which they can be
told to send in time. Each raises its exception in the main thread, so that the run is marked and its state is kept.
"""

import signal
from types import FrameType

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
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us wants it ignored
        signal.signal(signal.SIGINT, _raise)


def stop_if_asked() -> None:
    """Raises: KeyboardInterrupt, Terminated, Preempted: a signal came before, and its exception got lost."""
    if _asked:
        _raise(_asked, None)


def _raise(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
    raise interruption(number)


def interruption(number: int) -> KeyboardInterrupt:
    """What a signal raises."""
    return EXCEPTIONS[number]()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells count."""
    numbers = {kind: number for number, kind in EXCEPTIONS.items()}
    return 128 + numbers.get(type(interrupt), signal.SIGINT)
