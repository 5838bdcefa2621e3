"""SIGTERM, which cluster managers send before they kill, ends a run as Ctrl-C does: marked KILLED, last state kept."""

import signal
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def terminate_as_interrupt() -> None:
    """From now on SIGTERM raises Terminated in the main thread."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells count."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
