"""Fetch a pinned file: resumed where it broke off, verified by its digest, and never half there under its own name.

Costs one hash of the whole file at every call, also when it is there already, and leaves an empty `NAME.lock` beside
it: whoever removed that could let two processes write at once.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from plmft import InputError

CHUNK_BYTES = 1 << 16
CONNECT_TIMEOUT_S = 5.0  # for each of the host's addresses, so a firewall that drops packets is noticed soon

log = logging.getLogger("plmft.data")

Report = Callable[[int, int | None], None]  # bytes that are there, bytes in all (None: unknown)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web whose content is pinned.

    Args:
        name: plain local file name.
        url: http or https.
        sha256: 64 lower-case hex digits.
        git_blob_sha1: 40 lower-case hex digits, SHA-1 of b"blob <bytes>\\0" + content; where no SHA-256 is known.
        size_bytes: exact size; no more than this is ever read. None if unknown.
    Raises: ValueError: name with a folder in it, other kind of URL, no digest or a malformed one, negative size.
    """

    name: str
    url: str
    sha256: str | None = None
    git_blob_sha1: str | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\\\0]", self.name):
            raise ValueError(f"name={self.name!r}: a plain file name is needed, without folders.")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.name}: url={self.url!r} must start with http:// or https://.")
        if self.sha256 is None and self.git_blob_sha1 is None:
            raise ValueError(f"{self.name}: give sha256 or git_blob_sha1; a file without a digest can't be verified.")
        for field, digits in (("sha256", 64), ("git_blob_sha1", 40)):
            value = getattr(self, field)
            if value is not None and not re.fullmatch(rf"[0-9a-f]{{{digits}}}", value):
                raise ValueError(f"{self.name}: {field}={value!r} must be {digits} lower-case hex digits.")
        if self.size_bytes is not None and self.size_bytes < 0:
            raise ValueError(f"{self.name}: size_bytes={self.size_bytes} must be 0 or more.")


class _Retry(Exception):
    """What may go better at the next attempt."""


def download(
    file: RemoteFile, folder: Path, *, timeout_s: float = 30.0, attempts: int = 5, pause_s: float = 1.0
) -> Path:
    """The file in `folder`, fetched unless it is there with the right digest.

    What broke off stays as `NAME.part`, and the next attempt or call goes on from there. Processes that want the same
    file wait for the one that fetches it.

    Args:
        timeout_s: longest silence of the server.
        attempts: at least 1; tried again are broken connections, timeouts, short answers and HTTP 5xx.
        pause_s: before the second attempt; doubles each time.
    Returns: `folder / file.name`.
    Raises: InputError: not to be had, wrong bytes, or no room or right to write.
    """
    path = folder / file.name
    try:
        if _fault(file, path) is None:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            fault = _fault(file, path)
            if fault is None:
                return path
            if path.exists():
                log.warning("%s is not the file that is needed (%s): fetching it again", path, fault)
            if _fault(file, _part(path)) is not None:
                _fetch(file, path, timeout_s, attempts, pause_s)
            os.replace(_part(path), path)
    except OSError as error:
        raise _disk_error(path, error, file.size_bytes) from None
    return path


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _fault(file: RemoteFile, path: Path) -> str | None:
    """What is wrong with the file at `path`, or None if it is the right one."""
    if not path.exists():
        return "it is not there"
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if file.size_bytes not in (None, size):
            return f"expected {file.size_bytes:,} bytes, found {size:,}"
        if file.sha256 is not None:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != file.sha256:
                return f"expected SHA-256 {file.sha256}, found {found}"
        if file.git_blob_sha1 is not None:
            stream.seek(0)
            blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            found = hashlib.file_digest(stream, lambda: blob).hexdigest()
            if found != file.git_blob_sha1:
                return f"expected git blob SHA-1 {file.git_blob_sha1}, found {found}"
    return None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the file's lock; the kernel frees it even if this process is killed."""
    with path.with_name(f"{path.name}.lock").open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that is downloading %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch(file: RemoteFile, path: Path, timeout_s: float, attempts: int, pause_s: float) -> None:
    """Fill the part until its digest is right, in as many attempts as are allowed."""
    size = "size unknown" if file.size_bytes is None else f"{file.size_bytes:,} bytes"
    log.info("downloading %s (%s) from %s", file.name, size, file.url)
    start_s = time.monotonic()
    with _progress(file.name) as report:
        for attempt in range(attempts):
            try:
                _attempt(file, path, timeout_s, report)
                break
            except _Retry as trouble:
                reason = str(trouble)
            if attempt + 1 < attempts:
                wait_s = pause_s * 2**attempt
                log.warning("%s: %s; attempt %d of %d in %g s", file.name, reason, attempt + 2, attempts, wait_s)
                time.sleep(wait_s)
        else:
            tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            raise InputError(
                f"{file.name} could not be downloaded from {file.url} in {tried}: {reason}. "
                f"Try again when the network is there, or {_by_hand(path)}"
            )
    log.info("downloaded %s: %d bytes in %.1f s", file.name, _part(path).stat().st_size, time.monotonic() - start_s)


def _attempt(file: RemoteFile, path: Path, timeout_s: float, report: Report) -> None:
    """One request, and the check of what is there after it."""
    try:
        resumed = _request(file, path, timeout_s, report)
    except _Retry:
        if _fault(file, _part(path)) is None:  # all came, only the announced length was too long
            return
        raise
    fault = _fault(file, _part(path))
    if fault is None:
        return
    _part(path).unlink()
    if resumed:  # the earlier bytes may be the bad ones
        raise _Retry("the rest does not fit the bytes of an earlier attempt")
    raise InputError(
        f"{file.url} gave wrong bytes: {fault}. They were thrown away. If you have the right file, {_by_hand(path)}"
    )


def _request(file: RemoteFile, path: Path, timeout_s: float, report: Report) -> bool:
    """Get what the part lacks. Returns: whether earlier bytes were kept."""
    part = _part(path)
    have = part.stat().st_size if part.exists() else 0
    if file.size_bytes is not None and have >= file.size_bytes:
        have = 0
    headers = {"Accept-Encoding": "identity"}  # a range of compressed bytes would not fit
    if have:
        headers["Range"] = f"bytes={have}-"
    timeouts_s = (min(timeout_s, CONNECT_TIMEOUT_S), timeout_s)
    try:
        with requests.get(file.url, headers=headers, stream=True, timeout=timeouts_s) as response:
            have = _kept(file, path, response, have)
            _store(file, path, response, have, report)
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise _Retry(_root_cause(error)) from None
    except OSError as error:  # requests' other errors too: too many redirects, no certificate bundle
        raise InputError(f"{file.url} can't be downloaded: {error}. Correct that, or {_by_hand(path)}") from None
    return have > 0


def _kept(file: RemoteFile, path: Path, response: requests.Response, have: int) -> int:
    """How many of the `have` bytes the answer goes on from: all, or none. Raises: _Retry, InputError: no file in it."""
    status = response.status_code
    if status == 200:
        return 0
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return have
    if status == 206 or (status == 416 and have):
        _part(path).unlink(missing_ok=True)
        raise _Retry(f"the server can't go on from byte {have:,}")
    if status >= 500:
        raise _Retry(f"HTTP {status} {response.reason}")
    raise InputError(
        f"{file.url} can't be downloaded: HTTP {status} {response.reason}. "
        f"The file may have moved; if you have it, {_by_hand(path)}"
    )


def _store(file: RemoteFile, path: Path, response: requests.Response, have: int, report: Report) -> None:
    """Write the body after the first `have` bytes, as it came: what is pinned is the bytes, not what they decode to."""
    limit, total, rest = file.size_bytes, file.size_bytes, response.raw.length_remaining
    if total is None and rest is not None:
        total = have + rest
    try:
        with _part(path).open("ab" if have else "wb") as stream:
            report(have, total)
            while have != limit:
                most = CHUNK_BYTES if limit is None else min(CHUNK_BYTES, limit - have)
                chunk = response.raw.read(most, decode_content=False)
                if not chunk:
                    break
                stream.write(chunk)
                have += len(chunk)
                report(have, total)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _disk_error(path, error, total) from None
    if total is not None and have < total:
        raise _Retry(f"only {have:,} of {total:,} bytes came")


@contextmanager
def _progress(name: str) -> Iterator[Report]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console, hidden = Console(stderr=True), not sys.stderr.isatty()
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console, disable=hidden) as bar:
        task = bar.add_task(name, total=None)
        yield lambda have, total: bar.update(task, completed=have, total=total)


def _root_cause(error: BaseException) -> str:
    """The innermost message: "Connection refused" rather than the four errors around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def _by_hand(path: Path) -> str:
    path = path.absolute()
    own = Path(path.parent.name, path.name)
    return (
        f"put the file by hand at {path}, or keep it as {own} in a data folder of your own "
        "and set PLMFT_DATA or data.dir to that folder."
    )


def _disk_error(path: Path, error: OSError, total: int | None) -> InputError:
    where = f"{path.absolute()} can't be written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        need = "its size is not known beforehand" if total is None else f"{total:,} bytes are needed"
        return InputError(f"{where}: {error.strerror}; {need}. Make room and start again: what has come is kept.")
    return InputError(f"{where}: {error}. Correct that, or {_by_hand(path)}")
