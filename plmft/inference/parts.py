"""Output in parts that appear whole or not at all, so that a job that was killed goes on where it was.

    _manifest.json                       what the results depend on; another model never adds to it
    part-1of1-0000000-9f3ac2e1….parquet  shard, chunk, and the digest of the sequences that it was computed from
    _end-1of1.json                       the shard is complete: how many chunks, sequences and rejected ones

What is done is what the folder lists; there is no other state. On going on, the input is read again from its start and
each chunk's digest compared with its part's name: another input ends with one message, whatever its file is called.
Costs an fsync a part and a BLAKE2 digest of the input.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from plmft import InputError
from plmft.data.whole_file import copy_whole, write_first, write_whole

MANIFEST = "_manifest.json"  # readers of a folder of Parquet pass over names that begin so
LAYOUT = 1
PART = re.compile(r"part-(\d+)of(\d+)-(\d{7,})-([0-9a-f]{16})(\..*)?")


@dataclass(frozen=True)
class Shard:
    """One of several processes that share an input: every `count`-th sequence, from the `index`-th on (1-based).

    Raises: InputError: not 1 <= index <= count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                f"shard={self}: shards are numbered from 1/{max(1, self.count)} to {self.count}/{self.count}."
            )

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Of "2/8", the second of eight. Raises: InputError: something else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", str(text))
        if not found:
            raise InputError(f"shard={text}: write it as 2/8, the second of eight.")
        return cls(int(found[1]), int(found[2]))

    def takes(self, number: int) -> bool:
        """True if the sequence at this 0-based position of the input is this shard's."""
        return number % self.count == self.index - 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def label(self) -> str:
        """As file names have it."""
        return f"{self.index}of{self.count}"


@dataclass(frozen=True)
class Done:
    """A part that is there. digest: of the sequences that it was computed from."""

    digest: str
    file: Path


class ChunkedOutput:
    """A folder of parts, made with one identity.

    Args:
        folder: need not exist. identity: all that the results depend on, but for the input; JSON values.
        suffix: of the parts, such as ".parquet".
        rejected: where rejected sequences are listed in the end; None: beside the folder, as FOLDER.rejected.csv.
    Raises: InputError: the folder holds results of another identity, or something else.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, object], *, suffix: str = "", rejected: Path | None = None
    ) -> None:
        self.folder, self.suffix = Path(folder), suffix
        self.identity: dict[str, Any] = json.loads(json.dumps(dict(identity)))
        self._rejected = rejected or self.folder.with_name(f"{self.folder.name}.rejected.csv")
        self._gone = self.folder.with_name(f".{self.folder.name}.done")
        self._check(self.identity)

    @contextmanager
    def alone(self, size: int, shard: Shard) -> Iterator[dict[int, Done]]:
        """Begin the folder, if it is missing, and keep other processes from writing the same shard, until the block or
        this process ends.

        Args: size: sequences of a chunk.
        Returns: the shard's parts that are there, by chunk.
        Raises: InputError: another process writes them; results made otherwise; no room.
        """
        self._begin(size, shard)
        lock = self.folder / f".lock-{shard.label}"
        with self.told_if_full():
            file = lock.open("w")
        try:
            with file:
                if not _locked(file, lock):
                    raise InputError(f"{self.folder}: another process is writing shard {shard} there. Let it end.")
                found = list_parts(self.folder)
                yield {chunk: Done(digest, part) for of, chunk, digest, part in found if of == shard.index}
        finally:  # the lock's file being closed: a network file system keeps what is open
            shutil.rmtree(self._gone, ignore_errors=True)

    def _begin(self, size: int, shard: Shard) -> None:
        whole = {**self.identity, "chunk": size, "shards": shard.count}
        with self.told_if_full():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / MANIFEST).exists():
                text = json.dumps({"layout": LAYOUT, "identity": whole}, indent=2, sort_keys=True)
                write_first(self.folder / MANIFEST, f"{text}\n".encode())
        self._check(whole)  # again: another shard may have begun with other settings at the same moment

    def rejected(self, shard: Shard) -> Path:
        """Where this shard lists the sequences that it rejects."""
        if shard.count == 1:
            return self._rejected
        return self._rejected.with_name(f"{self._rejected.name.removesuffix('.csv')}.{shard.label}.csv")

    def rejected_draft(self, shard: Shard) -> Path:
        """Where they are listed until the shard is complete."""
        return self.folder / f".rejected-{shard.label}.csv"

    def keep_rejected(self, shard: Shard, count: int) -> None:
        """Move the list to its place; without rejected sequences there is none."""
        with self.told_if_full():
            if count:
                copy_whole(self.rejected_draft(shard), self.rejected(shard))
            else:
                self.rejected(shard).unlink(missing_ok=True)
            self.rejected_draft(shard).unlink(missing_ok=True)

    def write_part(self, shard: Shard, chunk: int, digest: str, write: Callable[[Path], None]) -> None:
        """Have the part written under another name, and move it to its own. Raises: InputError: no room."""
        name = f"part-{shard.label}-{chunk:07d}-{digest}{self.suffix}"
        draft = self.folder / f".draft-{shard.label}{self.suffix}"
        _remove(draft)  # of a process that was killed
        with self.told_if_full():
            try:
                write(draft)
                sync(draft)
                os.replace(draft, self.folder / name)
                _sync_entry(self.folder)
            except BaseException:
                _remove(draft)
                raise

    def end(self, shard: Shard, told: Mapping[str, object]) -> None:
        """Note that the shard is complete."""
        with self.told_if_full():
            write_whole(self.folder / f"_end-{shard.label}.json", f"{json.dumps(told, indent=2)}\n".encode())

    @contextmanager
    def put_together(self, file: Path) -> Iterator[Path]:
        """Where to write the one file of all parts; then it is moved to its place, and the parts go.

        Raises: InputError: no room.
        """
        draft = self.folder / f".{secrets.token_hex(8)}{file.suffix.lower()}"  # of a killed process: it goes with them
        with self.told_if_full():
            try:
                yield draft
                sync(draft)
                os.replace(draft, file)
            except BaseException:
                _remove(draft)
                raise
        self.discard()

    def discard(self) -> None:
        """Take the folder away, in `alone`: at once, for a folder without some of its parts misleads."""
        shutil.rmtree(self._gone, ignore_errors=True)  # of a process that was killed
        with self.told_if_full():
            os.replace(self.folder, self._gone)

    @contextmanager
    def told_if_full(self) -> Iterator[None]:
        """Turn what the file system refuses into a message. Raises: InputError."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.folder}: can't write ({_reason(error)}; {_free(self.folder)}). What was written is "
                "kept: make room or mend the permissions, and give the same command again."
            ) from error

    def _check(self, identity: Mapping[str, object]) -> None:
        foreign = _foreign(self.folder)  # first: another shard's manifest may appear, and then its parts
        known = read_identity(self.folder)
        if known is None:
            if foreign:
                raise InputError(f"{self.folder}: there is something else. Name another output, or remove it.")
            return
        told = told_differences(known, identity)
        if told:
            raise InputError(
                f"{self.folder} holds results made otherwise, and they are not mixed ({told}). Name another output, or "
                "remove the folder."
            )


def told_differences(known: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """What of an identity is otherwise there; "": nothing."""
    keys = [key for key in {**known, **wanted} if key in wanted or key not in ("chunk", "shards")]
    differ = [key for key in keys if known.get(key) != wanted.get(key)]
    return "; ".join(f"{key}: {_short(known.get(key))} there, {_short(wanted.get(key))} now" for key in differ)


def unknown(file: Path) -> InputError:
    """What is told of a file that stands where an output is to go, and is none, or one of another command."""
    return InputError(f"{file} is there, and not known to be of this command. Name another output, or remove it.")


def read_identity(folder: Path) -> dict[str, Any] | None:
    """What the manifest of a folder tells; None: it has none. Raises: InputError: it can't be read."""
    try:
        text = json.loads((folder / MANIFEST).read_text())
        return dict(text["identity"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / MANIFEST}: can't be read ({error}). Name another output.") from None


def list_parts(folder: Path) -> list[tuple[int, int, str, Path]]:
    """(shard, chunk, digest, file) of each part, in that order."""
    found = ((PART.fullmatch(entry.name), entry) for entry in folder.iterdir())
    return sorted((int(m[1]), int(m[3]), m[4], entry) for m, entry in found if m)


def incomplete_shards(folder: Path) -> list[int]:
    """Shards (from 1) that have not come to their end."""
    count = (read_identity(folder) or {}).get("shards", 1)
    return [i for i in range(1, count + 1) if not (folder / f"_end-{i}of{count}.json").exists()]


def _foreign(folder: Path) -> bool:
    """Whether something is there, the draft of a manifest aside."""
    try:
        return any(not name.startswith(f".{MANIFEST}.") for name in os.listdir(folder))
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return folder.exists()


def _locked(file: IO[str], lock: Path) -> bool:
    """False: another process has the lock, or had it and took the folder away."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return lock.exists()


def sync(path: Path) -> None:
    """Have a file, or all files of a folder, on the disk."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            _sync_entry(file)


def _sync_entry(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _free(folder: Path) -> str:
    place = next((place for place in (folder, *folder.absolute().parents) if place.exists()), None)
    return "free bytes unknown" if place is None else f"{shutil.disk_usage(place).free:,} bytes free"


def _short(value: object) -> str:
    return f"{value!s:.16}…" if len(str(value)) > 40 else str(value)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
