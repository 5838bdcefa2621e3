"""One prediction job from its request to its file: check, compute what is missing, put the parts together.

While it runs, and after it was killed, its parts lie in OUTPUT.parts. In the end there are OUTPUT, OUTPUT.about.json
(model, settings, digest of the input, counts) and, if sequences were rejected, OUTPUT.rejected.csv. An output without a
suffix is a folder, whose parts stay as they are; shards share it.
"""

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.data.whole_file import named, write_whole
from plmft.inference.assembling import assemble, check_kind, suffix_of
from plmft.inference.chunks import Counts, chunks_of, digest_of, digest_of_all, run_chunks
from plmft.inference.computing import Computer, Plots, Settings
from plmft.inference.described import Described, device_for, read_described
from plmft.inference.opening import STDIN, Position, open_bytes
from plmft.inference.options import Request
from plmft.inference.parts import ChunkedOutput, list_parts, read_identity, told_differences, unknown
from plmft.inference.sequences import Given, Rejected, read_sequences
from plmft.inference.showing import Watched, bar


@dataclass(frozen=True)
class Place:
    """Where the results go.

    `parts` is the folder of the parts, `file` what they are put together as; None: the folder is the output.
    """

    parts: Path
    file: Path | None
    suffix: str

    @classmethod
    def of(cls, request: Request) -> "Place":
        """Raises: InputError: a suffix that is not known; a shard without a folder."""
        output = named(request.output)
        suffix = suffix_of(output)
        if not suffix:
            return cls(output, None, ".parquet")
        if request.options.part.count > 1:
            raise InputError(f"output={request.output}: shards share a folder. Name one without {suffix}.")
        return cls(output.with_name(f"{output.name}.parts"), output, suffix)

    def beside(self, ending: str) -> Path:
        """A name beside the output: OUTPUT.rejected.csv."""
        output = self.file or self.parts
        return output.with_name(output.name + ending)


@dataclass(frozen=True)
class Outcome:
    """How the job ended. `rejected`: their list, if there are any. `residues_per_s`: None: nothing was computed."""

    counts: Counts
    output: Path
    rejected: Path | None
    residues_per_s: float | None
    notes: tuple[str, ...]


def check_places(request: Request) -> None:
    """Raises: InputError: what is wrong with the names of input and output, known before the model is looked for."""
    Place.of(request)
    if request.input != STDIN:
        open_bytes(request.input)[0].close()


def run_job(request: Request, folder: Path, run_id: str | None = None) -> Outcome:
    """Predict what is not done yet.

    Args: folder: of the tuned model. run_id: of the run that left it, where the store knows it.
    Raises: InputError: a mistake in the request or its files; what was written is kept.
    """
    model, options, place = read_described(folder), request.options, Place.of(request)
    check_kind(place.suffix, model.kind)
    if options.plots and model.kind != "contacts":
        raise InputError(f"plots={options.plots}: a model of the kind {model.kind} has no contact maps. Set 0.")
    position = Position()
    watched = Watched(position)
    items = read_sequences(
        request.input,
        columns=model.columns(options.columns),
        refuse=model.refusal(options.length_policy),
        position=position,
    )
    merge = options.merge and model.has_adapter
    device, notes = device_for(request.hardware, model)
    settings = Settings(device.precision, merge, model.policy(options.length_policy))
    identity = {"plmft": importlib.metadata.version("plmft"), "model": model.digest, **asdict(settings)}
    plots = Plots(options.plots, place.beside(".plots"))
    if place.file is not None and place.file.exists() and not place.parts.exists():
        counts, there = _found_complete(place, identity, items, options.chunk)
        return Outcome(counts, place.file, there, None, notes + model.notes + plots.notes(counts.skipped))
    output = ChunkedOutput(place.parts, identity, suffix=".parquet", rejected=place.beside(".rejected.csv"))
    computer = Computer(model, settings, device.torch_type, request.hardware.tokens_per_batch, plots)
    if not place.parts.exists():
        computer.load()  # what is wrong with it is told before anything is written
    with output.alone(options.chunk, options.part) as done:
        with bar(watched) as shown:
            counts = run_chunks(
                watched.reading(items, options.part),
                output,
                size=options.chunk,
                shard=options.part,
                done=done,
                compute_and_write=lambda _, given, path: computer.write(given, path, watched, shown),
                progress=shown.chunk,
            )
        if place.file is not None:
            _put_together(place, output, counts, model, run_id)
    rejected = output.rejected(options.part)
    there = rejected if counts.rejected else None
    notes += model.notes + plots.notes(counts.skipped)
    if model.is_transformer and watched.residues_per_s:
        from plmft.models import kernels

        notes += kernels.notes(device.torch_type)
    return Outcome(counts, place.file or place.parts, there, watched.residues_per_s, notes)


def _put_together(place: Place, output: ChunkedOutput, counts: Counts, model: Described, run_id: str | None) -> None:
    """The file of its parts, and beside it what it is; the parts go. Raises: InputError: no room."""
    parts = list_parts(place.parts)
    about = {
        "identity": read_identity(place.parts),
        **model.origin(run_id),
        "weights": model.weights,
        "input": digest_of_all(digest for _, _, digest, _ in parts),
        "sequences": counts.done + counts.skipped,
        "rejected": counts.rejected,
    }
    with output.put_together(place.file) as draft:
        assemble([file for *_, file in parts], draft, place.suffix)
        write_whole(place.beside(".about.json"), f"{json.dumps(about, indent=2)}\n".encode())


def _found_complete(
    place: Place, identity: dict[str, Any], items: Iterator[Given | Rejected], chunk: int
) -> tuple[Counts, Path | None]:
    """Nothing is left to do, if it is the same model and the same input. Raises: InputError: it is not.

    Returns: and the list of rejected sequences, if there are any.
    """
    way_out = f"Name another output, or remove {place.file}."
    try:
        about = json.loads(place.beside(".about.json").read_text())
        known, digest, sequences, rejected = (about[k] for k in ("identity", "input", "sequences", "rejected"))
    except (OSError, ValueError, KeyError):
        raise unknown(place.file) from None
    differ = told_differences(known, {**identity, "chunk": chunk, "shards": 1})
    if differ:
        raise InputError(f"{place.file} holds results made otherwise, and they are not replaced ({differ}). {way_out}")
    if digest_of_all(map(digest_of, chunks_of(items, chunk))) != digest:
        raise InputError(f"{place.file} was computed from another input. {way_out}")
    return Counts(0, sequences, rejected), place.beside(".rejected.csv") if rejected else None
