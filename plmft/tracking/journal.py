"""What a run tells its MLflow store, on disk first: a file that only grows, and beside it how much of it was sent.

`<run>/tracking/journal.jsonl` holds a JSON line for each entry, `sent.json` the offset up to which the store has them,
`run.json` which MLflow run they belong to. An entry costs a write to the system's cache: a killed process loses
nothing, and a power cut only what was not `made_durable` yet. One process at a time holds a journal (flock).
"""

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.tracking.lineage import MASK, mask

PLACE = "tracking"  # in the run's folder
Entry = dict[str, Any]
POLL_S = 0.1


class Held(InputError):
    """Another process holds the journal."""


@dataclass
class Identity:
    """Which MLflow run the entries belong to.

    Args:
        uri: the store's address, without its login. experiment: its name.
        runs: the runs folder, where a new experiment keeps its artifacts unless a server does.
        token: the run's tag `plmft.token`, by which it is found if its id could not be noted.
        run_id: None until the store has been reached.
    """

    uri: str
    experiment: str
    runs: str
    token: str
    run_id: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "Identity | None":
        """Of a run's folder; None where nothing is tracked."""
        try:
            return cls(**json.loads((folder / PLACE / "run.json").read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def address(self) -> str:
        """The store's, with its login, which is not kept on disk.

        Raises: InputError: it has one, and MLFLOW_TRACKING_URI does not give it.
        """
        if MASK not in self.uri:
            return self.uri
        whole = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
        if mask(whole) != self.uri:
            raise InputError(f"{self.uri} is kept without its login: set MLFLOW_TRACKING_URI to the whole address.")
        return whole

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        write_whole(folder / PLACE / "run.json", json.dumps(asdict(self)).encode())


@dataclass
class Sent:
    """How far the store has the journal.

    Args: offset: in bytes. refused: what the store will never take, and why. model_id: of the logged model.
    """

    offset: int = 0
    refused: list[str] = field(default_factory=list)
    model_id: str | None = None


class Journal:
    """The journal of the run in `folder`, held by this process until `close`.

    Args: wait_s: for another process to let go of it.
    Raises: Held: it did not. OSError: no room, or no right to write.
    """

    def __init__(self, folder: Path, *, wait_s: float = 0.0) -> None:
        self.folder, place = folder, folder / PLACE
        place.mkdir(parents=True, exist_ok=True)
        self._appending = threading.Lock()
        self._file = os.open(place / "journal.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(self._file, folder, wait_s)
            self._mend()
            self.sent = _read_sent(place / "sent.json")
            self.sent.offset = min(self.sent.offset, os.fstat(self._file).st_size)  # a power cut took lines
            self._take_stock()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def all_sent(self) -> bool:
        """The store has everything."""
        return self.sent.offset >= os.fstat(self._file).st_size

    @property
    def unsent(self) -> int:
        """Entries that the store does not have yet; counted by reading them."""
        return sum(1 for _ in self.unsent_entries())

    @property
    def ended(self) -> bool:
        """The last that was noted of the run's state is its end."""
        return self._state == "end"

    @property
    def new(self) -> bool:
        """Nothing was noted yet."""
        return self._state is None

    def append(self, entry: Entry) -> None:
        """Raises: OSError: no room; nothing of the entry is left then."""
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._appending:
            size = os.fstat(self._file).st_size
            if os.write(self._file, line) < len(line):
                os.ftruncate(self._file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / PLACE / "journal.jsonl"))
            self._note(entry)

    def has_metric(self, name: str, step: int) -> bool:
        """Whether a value of this step was noted, in whatever attempt."""
        return step in self._steps.get(name, ())

    def make_durable(self) -> None:
        """What was appended survives a power cut from now on."""
        os.fsync(self._file)

    def unsent_entries(self) -> Iterator[tuple[Entry | None, int]]:
        """In order, each with the offset behind it; None for a line that cannot be read."""
        yield from self._read(self.sent.offset)

    def note_sent(self, offset: int, refused: Sequence[str] = ()) -> None:
        """The store has the entries up to the offset, or will never take them."""
        self.sent.offset = offset
        self.sent.refused += refused
        self.write_sent()

    def write_sent(self) -> None:
        """Whole or not at all."""
        write_whole(self.folder / PLACE / "sent.json", json.dumps(asdict(self.sent)).encode())

    def forget_sent(self) -> None:
        """All is to be sent again, to another store."""
        self.sent = Sent()
        self.write_sent()

    def close(self) -> None:
        """Another process may have it."""
        os.close(self._file)

    def discard(self) -> None:
        """Remove it: the run was never opened."""
        place = self.folder / PLACE
        with contextlib.suppress(OSError):
            for file in place.iterdir():
                file.unlink()
            place.rmdir()
        self.close()

    def _mend(self) -> None:
        """Drop the last line if its writer was stopped half-way."""
        end = size = os.fstat(self._file).st_size
        while end:
            start = max(0, end - (1 << 16))
            newline = os.pread(self._file, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._file, end)

    def _take_stock(self) -> None:
        self._steps: dict[str, set[int]] = {}
        self._state: str | None = None
        for entry, _ in self._read(0):
            if entry is not None:
                self._note(entry)

    def _note(self, entry: Entry) -> None:
        if entry["call"] == "metrics":
            for name in entry["values"]:
                self._steps.setdefault(name, set()).add(entry["step"])
        elif entry["call"] in ("start", "resume", "end"):
            self._state = entry["call"]

    def _read(self, offset: int) -> Iterator[tuple[Entry | None, int]]:
        rest, at = b"", offset
        while chunk := os.pread(self._file, 1 << 18, at):
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                offset += len(line) + 1
                yield _parsed(line), offset


def first_entry(folder: Path) -> Entry | None:
    """Of a run's folder: how the run was started; None where that can't be read."""
    try:
        with (folder / PLACE / "journal.jsonl").open("rb") as file:
            return _parsed(file.readline())
    except OSError:
        return None


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:  # a power cut can leave zeros
        return None
    return entry if isinstance(entry, dict) and "call" in entry else None


def _read_sent(file: Path) -> Sent:
    try:
        return Sent(**json.loads(file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return Sent()  # all is sent again, which changes nothing


def _lock(file: int, folder: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Held(f"{folder}: another process is sending this run to its MLflow store. Wait for it.") from None
        time.sleep(POLL_S)
