"""How each command ends: well, or with one line on standard error and an exit code, never with a stack trace for what
a user did. Imports nothing heavy.
"""

import errno
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from plmft import InputError
from plmft.tracking.lineage import mask
from plmft.training.interrupts import exit_code, tell
from plmft.training.launching import RankFailed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit on a file's size


@contextmanager
def ending(kept: str | None = None, code: Callable[[KeyboardInterrupt], int] = exit_code) -> Iterator[None]:
    """End this process by what happens inside: 2: a user's mistake, or standard output is full; 1: a rank failed, or
    standard output was closed (`| head`); 128 + the signal's number: a signal.

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
        _say_no_more()
        sys.exit(1)
    except OSError as error:
        if error.errno not in FULL or error.filename is not None or not _takes_no_more():
            raise
        _say_no_more()
        tell_mistake(InputError(f"standard output can't be written ({error.strerror})."))
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        if kept is None:
            tell(interrupt)
        else:
            print(f"plmft: interrupted; {kept}", file=sys.stderr, flush=True)
        sys.exit(code(interrupt))


def tell_mistake(error: Exception) -> None:
    """On standard error, without passwords."""
    print(f"plmft: {mask(str(error))}", file=sys.stderr, flush=True)


def _say_no_more() -> None:
    """Python flushes standard output once more when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _takes_no_more() -> bool:
    """Whether standard output refuses even an empty line."""
    stdout = sys.stdout.fileno()
    try:
        os.write(stdout, b"\n")
    except OSError:
        return True
    return False


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
