"""Go through the sequences of an input chunk by chunk: skip what is done, compute the rest, list what is rejected.

The next chunk is read while one is computed. Holds two chunks of sequences, however long the input is.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from plmft import InputError
from plmft.inference.opening import Damaged
from plmft.inference.parts import ChunkedOutput, Done, Shard, list_parts
from plmft.inference.sequences import Given, Rejected

WHOLE = Shard()
BASES = "ACGTUN"
REJECTED = ("number", "id", "place", "reason")


@dataclass(frozen=True)
class Counts:
    """Sequences of this shard: computed now, found done, rejected. nucleic: all that were taken may be DNA or RNA."""

    done: int
    skipped: int
    rejected: int
    nucleic: bool = False

    @property
    def caution(self) -> str | None:
        """What a user may have got wrong."""
        count = self.done + self.skipped
        if not (self.nucleic and count):
            return None
        return f"Every sequence ({count:,}) holds the letters {BASES} alone. If this is DNA or RNA, translate it first."


class _Rejects:
    """The list of rejected sequences, in a draft: what an earlier attempt listed stays until this one is complete."""

    def __init__(self, output: ChunkedOutput, shard: Shard) -> None:
        self._output, self._shard, self.count = output, shard, 0

    def add(self, rejected: Rejected) -> None:
        """If it is this shard's. Raises: InputError: no room."""
        if not self._shard.takes(rejected.number):
            return
        draft = self._output.rejected_draft(self._shard)
        mode = "a" if self.count else "w"
        with self._output.told_if_full(), draft.open(mode, newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            if not self.count:
                rows.writerow(REJECTED)
            rows.writerow([rejected.number, rejected.id, rejected.place, rejected.reason])
        self.count += 1


def chunks_of(
    items: Iterator[Given | Rejected],
    size: int,
    shard: Shard = WHOLE,
    reject: Callable[[Rejected], None] = lambda rejected: None,
) -> Iterator[list[Given]]:
    """Lists of `size` sequences of the shard, the last one shorter. reject: called with each that is rejected."""
    held: list[Given] = []
    for item in items:
        if isinstance(item, Rejected):
            reject(item)
        elif shard.takes(item.number):
            held.append(item)
            if len(held) == size:
                yield held
                held = []
    if held:
        yield held


def run_chunks(
    items: Iterator[Given | Rejected],
    output: ChunkedOutput,
    *,
    size: int,
    shard: Shard,
    done: Mapping[int, Done],
    compute_and_write: Callable[[int, list[Given], Path], None],
    progress: Callable[[list[Given], bool], None] | None = None,
) -> Counts:
    """Compute every chunk that has no part yet.

    Args:
        output: held by `alone`, of this size and shard, which gives `done`.
        size: sequences of a chunk; rejected ones are not counted.
        compute_and_write: (chunk, its sequences, the file or folder to write). What it writes must depend on nothing
            but them and the identity.
        progress: told each chunk's sequences when it is there, and whether it was computed now.
    Raises: InputError: as `items`; the input is not the one that the parts were computed from; no room;
            every sequence of the whole input is rejected.
    """
    computed, skipped, nucleic, chunk = 0, 0, True, -1
    bases = frozenset(BASES)
    rejects = _Rejects(output, shard)
    with _told_if_kept(output):
        for chunk, given in enumerate(_ahead(chunks_of(items, size, shard, rejects.add))):
            nucleic = nucleic and all(bases.issuperset(one.sequence) for one in given)
            digest = digest_of(given)
            if chunk in done and done[chunk].digest != digest:
                raise _another_input(output)
            fresh = chunk not in done
            if fresh:
                output.write_part(shard, chunk, digest, lambda path, k=chunk, g=given: compute_and_write(k, g, path))
                computed += len(given)
            else:
                skipped += len(given)
            if progress is not None:
                progress(given, fresh)
        if any(known > chunk for known in done):
            raise _another_input(output)
        output.keep_rejected(shard, rejects.count)
        if chunk < 0 and shard.count == 1:
            output.discard()
            raise InputError(f"none of {rejects.count:,} sequences can be taken; {output.rejected(shard)} tells why.")
        told = {"chunks": chunk + 1, "sequences": computed + skipped, "rejected": rejects.count}
        output.end(shard, told)
    return Counts(computed, skipped, rejects.count, nucleic)


@contextmanager
def _told_if_kept(output: ChunkedOutput) -> Iterator[None]:
    """Adds to the message of a damaged input that parts are kept, if there are any."""
    try:
        yield
    except Damaged as error:
        kept = " What was computed before that line is kept." if list_parts(output.folder) else ""
        raise Damaged(f"{error}{kept}") from None


def digest_of(given: list[Given]) -> str:
    """16 hexadecimal digits over numbers, ids and sequences."""
    digest = hashlib.blake2b(digest_size=8)
    for g in given:
        digest.update(f"{g.number}\t{g.id}\t{g.sequence}\t{g.partner}\n".encode())
    return digest.hexdigest()


def digest_of_all(digests: Iterable[str]) -> str:
    """Of a whole input, from those of its chunks in order."""
    return hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def _another_input(output: ChunkedOutput) -> InputError:
    return InputError(
        f"{output.folder} was computed from another input, and results are not mixed. Give the same input again, name "
        "another output, or remove the folder."
    )


def _ahead(chunks: Iterator[list[Given]]) -> Iterator[list[Given]]:
    """The same chunks, the next one being read in a thread while one is used."""
    coming = _read(chunks)
    while (chunk := coming.result()) is not None:
        coming = _read(chunks)
        yield chunk


def _read(chunks: Iterator[list[Given]]) -> "Future[list[Given] | None]":
    """The next chunk, or None. Nobody waits for the thread in the end: it may wait for a pipe that says nothing."""
    coming: Future[list[Given] | None] = Future()

    def read() -> None:
        try:
            coming.set_result(next(chunks, None))
        except BaseException as error:
            coming.set_exception(error)

    Thread(target=read, name="reader", daemon=True).start()
    return coming
