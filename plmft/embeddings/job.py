"""One embedding job from its request to its output: check, compute what is missing, join the parts for a file.

While it runs, and after it was killed, the parts of a file lie in OUTPUT.parts; an output without a suffix is a folder,
whose parts stay as they are and which shards share. Rejected sequences are listed in OUTPUT.rejected.csv. Holds one
part's vectors, those that come again, and 8 bytes an id, however long the input is.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.embeddings.block import Header
from plmft.embeddings.choices import Request
from plmft.embeddings.computing import Parts
from plmft.embeddings.formats import FORMATS
from plmft.embeddings.hdf5 import check_installed
from plmft.embeddings.joining import CHUNK, INPUT, REJECTED, SEQUENCES, finished, join, residues
from plmft.embeddings.model import Embedding, find_source, prepare
from plmft.embeddings.repeats import Remembered, find_repeated
from plmft.inference.chunks import Counts, chunks_of, digest_of, digest_of_all, run_chunks
from plmft.inference.opening import STDIN, Position
from plmft.inference.parts import ChunkedOutput, Done, list_parts
from plmft.inference.sequences import Given, Rejected, read_sequences, too_long
from plmft.inference.showing import Bar, Watched, bar
from plmft.models import kernels


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `computed`: sequences that the model read now. `seconds`: from the input's first byte to the output's last.
    `rejected`: their list; None: there is none. `notes`: what the user must know.
    """

    counts: Counts
    computed: int
    seconds: float
    residues_per_s: float | None
    embedding: Embedding
    output: Path
    rejected: Path | None
    notes: tuple[str, ...] = ()


def run_job(request: Request, runs: Path) -> Outcome:
    """Embed what is not done yet. Raises: InputError: a mistake of the user; what was written is kept."""
    if request.format_name.startswith("h5"):
        check_installed()
    if request.input != STDIN:
        read_sequences(request.input, columns=request.choices.columns)  # tells mistakes before a model is loaded
    device = request.hardware.resolve()
    if device.kind == "cpu":
        from plmft.efficiency.allocator import keep_freed_memory

        keep_freed_memory()
    embedding = prepare(request, find_source(request, runs), device)
    if request.is_file:
        known = finished(request.path, request.format_name, embedding.identity)
        if known is not None:
            return _there(request, embedding, known)
    return _compute(request, embedding)


def _there(request: Request, embedding: Embedding, known: dict[str, Any]) -> Outcome:
    """The file was made before: if from this input, nothing is left to do. Raises: InputError: from another one."""
    size = known.get(CHUNK) or request.choices.part_size(len(embedding.layers) * embedding.width)  # older files lack it
    if digest_of_all(map(digest_of, chunks_of(_items(request, embedding), size))) != known[INPUT]:
        raise InputError(f"{request.path} was made from another input. Name another output, or remove it.")
    shutil.rmtree(_beside(request, ".parts"), ignore_errors=True)  # a kill came between the file and their end
    counts = Counts(0, known[SEQUENCES], known[REJECTED])
    rejected = _beside(request, ".rejected.csv") if counts.rejected else None
    return Outcome(counts, 0, 0.0, None, embedding, request.path, rejected)


def _compute(request: Request, embedding: Embedding) -> Outcome:
    began, shard, kind = time.monotonic(), request.choices.part, FORMATS[request.format_name]
    folder = _beside(request, ".parts") if request.is_file else request.path
    rejected = _beside(request, ".rejected.csv")
    output = ChunkedOutput(folder, embedding.identity, suffix=kind.suffix, rejected=rejected)
    size = request.choices.part_size(len(embedding.layers) * embedding.width)
    position = Position()
    watched = Watched(position)
    with output.alone(size, shard) as done:  # tells what is wrong with the place before the input is read
        with bar(watched) as shown:
            job = _Job(_parts(request, embedding, size, shown), done, watched, shown)
            counts = run_chunks(
                watched.reading(_items(request, embedding, position), shard),
                output,
                size=size,
                shard=shard,
                done=done,
                compute_and_write=job.write,
                progress=job.there,
            )
        if request.is_file:
            _join(request, embedding, output, counts, size)
    listed = output.rejected(shard) if counts.rejected else None
    seconds, speed = time.monotonic() - began, watched.residues_per_s
    notes = kernels.notes(embedding.read.device) if job.parts.computed else ()
    return Outcome(counts, job.parts.computed, seconds, speed, embedding, request.path, listed, notes)


@dataclass
class _Job:
    """What happens to a chunk. done: parts of earlier attempts by chunk."""

    parts: Parts
    done: dict[int, Done]
    watched: Watched
    shown: Bar
    chunk: int = -1

    def write(self, chunk: int, given: list[Given], path: Path) -> None:
        """Compute it."""
        self.watched.begin()
        before = self.watched.done
        self.parts.write(given, path)
        again = sum(len(g.sequence) for g in given) - (self.watched.done - before)
        self.watched.skipped(max(0, again))  # residues of sequences that came again

    def there(self, given: list[Given], fresh: bool) -> None:
        """It is there."""
        self.chunk += 1
        if not fresh:
            self.parts.recall(given, self.done[self.chunk].file)
        self.shown.chunk(given, fresh)


def _items(request: Request, embedding: Embedding, position: Position | None = None) -> Iterator[Given | Rejected]:
    refused = request.choices.length_policy == "refuse"
    refuse = too_long(embedding.context, embedding.model, ". Set length_policy=window or crop") if refused else None
    return read_sequences(request.input, columns=request.choices.columns, refuse=refuse, position=position)


def _parts(request: Request, embedding: Embedding, size: int, shown: Bar) -> Parts:
    """Reads the input once to learn which sequences come again in another part; standard input can't be read twice."""
    crop = embedding.context if request.choices.length_policy == "crop" else None
    repeated = np.empty(0, np.uint64)
    if request.input != STDIN:
        chunks = chunks_of(_items(request, embedding), size, request.choices.part)
        repeated = find_repeated([g.sequence[:crop] for g in given] for given in chunks)
    read = replace(embedding.read, passed=shown.batch)
    return Parts(read, _header(request, embedding), FORMATS[request.format_name], Remembered(repeated), crop)


def _header(request: Request, embedding: Embedding, **more: Any) -> Header:
    """Of a file without sequences. more: what its `about` tells beside the identity."""
    choices = request.choices
    about = embedding.identity | more
    return Header(about, embedding.layers, embedding.width, choices.dtype, choices.per, sequences=0, rows=0)


def _join(request: Request, embedding: Embedding, output: ChunkedOutput, counts: Counts, size: int) -> None:
    """The file of its parts; then these go."""
    found = list_parts(output.folder)
    sequences = counts.done + counts.skipped
    digest = digest_of_all(digest for _, _, digest, _ in found)
    more = {INPUT: digest, CHUNK: size, SEQUENCES: sequences, REJECTED: counts.rejected}
    header = _header(request, embedding, **more)
    kind = request.format_name
    with output.put_together(request.path) as draft:
        rows = sequences if header.per == "sequence" else sum(residues(file, kind) for *_, file in found)
        join([file for *_, file in found], draft, kind, replace(header, sequences=sequences, rows=rows))


def _beside(request: Request, ending: str) -> Path:
    return request.path.with_name(request.path.name + ending)
