"""How each command ends: well, or with one line on standard error and an exit code, never with a stack trace for what
a user did. Imports nothing heavy.
"""

import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plmft import InputError
from plmft.tracking.lineage import mask
from plmft.training.interrupts import exit_code, tell
from plmft.training.launching import RankFailed


@contextmanager
def ending(kept: str | None = None, code: Callable[[KeyboardInterrupt], int] = exit_code) -> Iterator[None]:
    """End this process by what happens inside: 2: a user's mistake; 1: a rank failed, or standard output was closed
    (`| head`); 128 + the signal's number: a signal.

    Args:
        kept: what a signal leaves, for the user. None: whoever kept it has told.
        code: of a signal.
    """
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        tell_mistake(error)
        sys.exit(2)
    except RankFailed as error:
        tell_mistake(error)
        sys.exit(1)
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        if kept is None:
            tell(interrupt)
        else:
            print(f"plmft: interrupted; {kept}", file=sys.stderr, flush=True)
        sys.exit(code(interrupt))


def tell_mistake(error: Exception) -> None:
    """On standard error, without passwords."""
    print(f"plmft: {mask(str(error))}", file=sys.stderr, flush=True)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
