"""Which unfinished run, or sweep, a command goes on with: the one of the same key that no living process holds.

A claim is one small file, `<runs>/work/.unfinished/<key>-<n>.json`, with a line for each attempt: the run's folder, and
the attempt's number. Its process holds a lock on it (flock: the system lets go of it however the process ends); n tells
runs of the same key apart that were under way at the same time. A finished run drops its claim. Costs a file opened.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from plmft.tracking.lineage import scrub

BESIDES = ("tracking", "checkpoint")  # where a run is remembered, and how often its state is kept


def config_key(config: Mapping[str, Any]) -> str:
    """Of all in a config that shapes a run: 32 hexadecimal digits."""
    hardware = {name: value for name, value in config["hardware"].items() if name not in ("usd_per_hour", "slurm")}
    shaping = {name: value for name, value in config.items() if name not in BESIDES} | {"hardware": hardware}
    return key_of(scrub(shaping))


def key_of(parts: object) -> str:
    """Of plain values, mappings in any order: 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class Claim:
    """A run's folder, held by this process.

    Args: folder: of the run; it may not exist yet. attempt: from 1.
    """

    folder: Path
    attempt: int
    _file: Path
    _lock: TextIO

    def finish(self) -> None:
        """The run is complete: its key is free, and the same command begins a new one."""
        self._file.unlink(missing_ok=True)
        self._lock.close()
        with contextlib.suppress(OSError):  # others are unfinished
            self._file.parent.rmdir()

    def release(self) -> None:
        """The run did not finish: the next process of the same key goes on with it."""
        self._lock.close()


def claim(runs: Path, key: str, name: str, *, resume: bool = True) -> Claim:
    """Take up the first unfinished run of `key` that nobody holds, or begin the one of this name.

    Args: resume: False: what this process could go on with is left behind, and its claim is dropped.
    """
    for n in itertools.count():
        file = runs / "work" / ".unfinished" / f"{key}-{n}.json"
        lock = _hold(file)
        if lock is None:
            continue
        known = _read(lock) if resume else None
        if known is not None and not (runs / "work" / known["folder"]).is_dir():
            known = None  # the user has removed it
        folder, attempt = (known["folder"], known["attempt"] + 1) if known else (name, 1)
        _write(lock, {"folder": folder, "attempt": attempt})
        return Claim(runs / "work" / folder, attempt, file, lock)
    raise AssertionError("unreachable")


def held(runs: Path, folder: str) -> bool:
    """Whether a living process works in this run's folder."""
    for file in (runs / "work" / ".unfinished").glob("*.json"):
        try:
            with file.open() as handle:
                if (_read(handle) or {}).get("folder") == folder:
                    return not _try_lock(handle)
        except FileNotFoundError:  # it has just finished
            continue
    return False


def _hold(file: Path) -> TextIO | None:
    """The file, open and locked; None where another process holds it."""
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = file.open("a+")
        except (FileExistsError, FileNotFoundError):  # another process has just removed the empty folder
            continue
        if not _try_lock(handle):
            handle.close()
            return None
        if file.exists() and file.stat().st_ino == _inode(handle):
            return handle
        handle.close()  # its run finished between our opening and our lock: the file is no longer there


def _inode(handle: TextIO) -> int:

    return os.fstat(handle.fileno()).st_ino


def _try_lock(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(handle: TextIO) -> dict[str, Any] | None:
    """Its last whole line; None where there is none. A writer that was killed half-way leaves the line before."""
    handle.seek(0)
    for line in reversed(handle.read().splitlines()):
        with contextlib.suppress(ValueError):
            return json.loads(line)
    return None


def _write(handle: TextIO, value: dict[str, Any]) -> None:
    handle.write(f"\n{json.dumps(value)}\n")  # the line before may have no end
    handle.flush()
