"""Send a journal to its MLflow store in the background: in order, again after an outage, and never in anyone's way.

One thread for each open run. It looks every `linger_s` seconds, so that metrics go by the thousand, or when it is
roused; while the store is away it tries again after growing pauses, up to 30 s. What an entry costs is paid here.
"""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from plmft import InputError
from plmft.tracking.journal import Entry, Journal
from plmft.tracking.store import StoreAway

T = TypeVar("T")
Send = Callable[[Sequence[Entry]], list[str]]
METRICS_PER_CALL = 1000  # MLflow's limit
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
STOP_S = 1.0  # for a thread that is in no call
LATER = (401, 403, 408, 429)  # of 4xx: a login can be mended, a rush passes
CONFLICTS = ("IntegrityError", "UniqueViolation", "QueuePool limit", "database is locked")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LOST_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class Unsendable(Exception):
    """The store cannot take anything now; the message says why."""


class DiskFull(Unsendable):
    """The store's own disk, which is this machine's, is full."""


class Sender:
    """The thread that sends the entries of one journal.

    Args:
        send: takes entries (metrics, several at once; or one of another kind) and returns what the store refused for
            good, a line each. Raises Unsendable where trying again makes sense.
        linger_s: how long metrics may gather.
    """

    def __init__(self, journal: Journal, send: Send, *, linger_s: float = 5.0) -> None:
        self._journal, self._send, self._linger_s = journal, send, linger_s
        self._state = threading.Condition()
        self._roused, self._stopped = 0, False
        self._thread: threading.Thread | None = None
        self.failure: Unsendable | None = None  # of the last try

    def start(self) -> None:
        """Send in the background until `stop`."""
        self._thread = threading.Thread(target=self._work, name="plmft-tracking", daemon=True)
        self._thread.start()

    def rouse(self) -> None:
        """Send what is there now, without waiting for more or for the end of a pause."""
        with self._state:
            self._roused += 1
            self._state.notify_all()

    def drain(self, wait_s: float) -> bool:
        """Wait until all is sent, so many seconds at most, or until the store's disk is full; False if not all is."""
        with self._state:
            if isinstance(self.failure, DiskFull):
                self.failure = None  # there may be room by now
            self._roused += 1
            self._state.notify_all()
            self._state.wait_for(lambda: self._journal.all_sent or isinstance(self.failure, DiskFull), wait_s)
        return self._journal.all_sent

    def check_disk(self) -> None:
        """Raises: OSError: the disk of the store, or the run's, is full."""
        if isinstance(self.failure, DiskFull):
            raise OSError(errno.ENOSPC, f"the disk is full, the MLflow store could not be written ({self.failure})")

    def tell_alone(self, entry: Entry) -> bool:
        """Send one entry before its turn if a full disk holds up the rest; False if none does."""
        full = isinstance(self.failure, DiskFull)
        if full:
            with contextlib.suppress(Unsendable):
                self._send([entry])
        return full

    def stop(self) -> None:
        """End the thread after the call that it is in, if it is in one; then the journal is closed."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
        if self._thread is None:
            self._journal.close()
        else:
            self._thread.join(STOP_S)

    def send_next(self) -> None:
        """Send one batch, in the calling thread. Raises: Unsendable: it stays first in the queue."""
        entries, offset, unreadable = self._next()
        refused = [f"{unreadable} lines of the journal that cannot be read"] if unreadable else []
        if entries:
            self._journal.make_durable()  # the store never knows more than the journal
            refused += self._send(entries)
        if entries or unreadable:
            self._journal.note_sent(offset, refused)

    def _next(self) -> tuple[list[Entry], int, int]:
        """The next entries to send together, the offset behind them, and how many lines there make no sense."""
        entries: list[Entry] = []
        offset, metrics, unreadable = self._journal.sent.offset, 0, 0
        for entry, end in self._journal.unsent_entries():
            if entry is not None:
                alone = entry["call"] != "metrics"
                metrics += 0 if alone else len(entry["values"])
                if entries and (alone or metrics > METRICS_PER_CALL):
                    break
                entries.append(entry)
            unreadable += entry is None
            offset = end
            if entry is not None and alone:
                break
        return entries, offset, unreadable

    def _work(self) -> None:
        tries, roused = 0, 0
        while True:
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1)) if tries else self._linger_s
            with self._state:
                self._state.wait_for(lambda seen=roused: self._stopped or self._roused != seen, pause)
                if self._stopped:
                    return self._journal.close()
                if self._roused != roused:
                    tries, roused = 0, self._roused
            tries = 0 if self._send_all() else tries + 1

    def _send_all(self) -> bool:
        """False where it could not go on."""
        while not self._stopped and not self._journal.all_sent:
            failure = None
            try:
                self.send_next()
            except Unsendable as error:
                failure = error
            except OSError as error:  # the disk of the journal
                failure = DiskFull(str(error)) if error.errno in FULL else Unsendable(str(error))
            with self._state:
                self.failure = failure
                self._state.notify_all()
            if failure is not None:
                return False
        return True


def worth_another_try(error: BaseException) -> bool:
    """Whether the same call may succeed later: no connection, no answer in time, 5xx, 429, a lock, a conflict, a login.

    Another 4xx, or a file that is gone, stays as it is.
    """
    if isinstance(error, StoreAway):
        return True
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import InterfaceError, OperationalError
    from sqlalchemy.exc import TimeoutError as NoConnection

    if isinstance(error, InputError) and error.__cause__ is not None:
        return worth_another_try(error.__cause__)
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in LATER or any(sign in str(error) for sign in CONFLICTS)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in LATER
    if isinstance(error, OperationalError | InterfaceError | NoConnection):
        return True
    return isinstance(error, OSError) and not isinstance(error, LOST_FILE)


def fills_the_disk(error: BaseException | None) -> bool:
    """Whether no room was left, on the disk of a store in files."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or "database or disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def again(call: Callable[[], T], within_s: float) -> T:
    """What the call returns, repeated while it raises Unsendable for what may pass, for so many seconds."""
    deadline, pause = time.monotonic() + within_s, FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Unsendable as error:
            passing = error.__cause__ is not None and worth_another_try(error.__cause__)
            if not passing or isinstance(error, DiskFull) or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_S, 2 * pause)
