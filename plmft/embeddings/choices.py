"""What a user chooses of an embedding job; light, so that mistakes are told before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt, MinLen

from plmft import InputError
from plmft.config.words import Grammar
from plmft.data.whole_file import named
from plmft.embeddings.block import Per
from plmft.inference.parts import Shard
from plmft.inference.sequences import Columns
from plmft.models.spec import Spec
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware

CONFIG = "embed"
GROUPS = ("model", "hardware", "tracking", "seed")

FormatName = Literal["h5", "h5_by_id", "parquet", "arrow", "npy", "safetensors"]
Pooling = Literal["mean", "cls", "max", "none"]
FILES = {".h5": "h5", ".hdf5": "h5", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"} | {
    ".safetensors": "safetensors"
}
NO_FILES = (".csv", ".tsv", ".txt", ".json", ".npy", ".npz", ".pt", ".pkl", ".fasta", ".fa", ".gz")
MOST, PART_BYTES, TYPICAL_LENGTH = 1024, 512_000_000, 350


@dataclass(frozen=True)
class Choices:
    """The options; see conf/embed.yaml. Raises: InputError: options that exclude each other, a shard that can't be."""

    columns: Columns
    format: FormatName | None = None
    layers: int | Annotated[tuple[int, ...], MinLen(1)] = (-1,)
    per: Per = "sequence"
    pooling: Pooling | None = None
    dtype: Literal["float32", "float16"] = "float32"
    length_policy: Literal["window", "crop", "refuse"] = "window"
    shard: str | None = None
    chunk: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.per == "residue" and self.pooling not in (None, "none"):
            raise InputError(f"pooling={self.pooling}: makes one vector a sequence. Set per=sequence, or leave it out.")
        if self.per == "sequence" and self.pooling == "none":
            raise InputError("pooling=none: keeps the vectors of residues. Set per=residue, or pooling=mean.")
        _ = self.part

    @property
    def part(self) -> Shard:
        """The shard; all of it where none is named."""
        return Shard() if self.shard is None else Shard.parse(self.shard)

    @property
    def pooled_by(self) -> Pooling:
        """What it means where it was left out."""
        return self.pooling or ("none" if self.per == "residue" else "mean")

    def part_size(self, width: int) -> int:
        """Sequences of a part. width: numbers of a row, over all layers."""
        if self.chunk is not None:
            return self.chunk
        rows = TYPICAL_LENGTH if self.per == "residue" else 1
        fits = PART_BYTES // (rows * width * 4)
        return max(16, min(MOST, 1 << (max(1, fits).bit_length() - 1)))


@dataclass(frozen=True)
class Request:
    """A whole command. Raises: InputError: an output that can't be written so."""

    input: str
    output: str
    choices: Choices
    model: Spec
    hardware: Hardware
    tracking: Tracking
    seed: int
    run: str | None = None  # embed with the backbone of this tuned model, instead of model

    def __post_init__(self) -> None:
        suffix, wanted = self.path.suffix.lower(), self.choices.format
        if suffix in NO_FILES:
            raise InputError(
                f"output={self.output}: embeddings are not written as {suffix}. Name a folder (format=npy makes NumPy "
                f"arrays in it), or a file that ends in {', '.join(FILES)}."
            )
        if self.is_file and wanted is not None and wanted.removesuffix("_by_id") != FILES[suffix]:
            raise InputError(f"output={self.output}: its name says {FILES[suffix]}, and format={wanted}. Drop one.")
        if self.is_file and self.choices.part.count > 1:
            raise InputError(f"output={self.output}: shards share a folder, not a file. Name one without {suffix}.")
        hardware = self.hardware
        if hardware.devices * hardware.nodes > 1 or hardware.strategy != "single":
            raise InputError(
                f"hardware.devices={hardware.devices}, strategy={hardware.strategy}: one process embeds on one device. "
                "Start one for each with shard=1/N to shard=N/N and CUDA_VISIBLE_DEVICES, into one folder."
            )

    @property
    def path(self) -> Path:
        """Of the output."""
        return named(self.output)

    @property
    def is_file(self) -> bool:
        """True: parts are joined into one file in the end."""
        return self.path.suffix.lower() in FILES

    @property
    def format_name(self) -> str:
        """Of the parts, and of the file."""
        return self.choices.format or FILES.get(self.path.suffix.lower(), "safetensors")


def read_request(arguments: Sequence[str]) -> Request:
    """Raises: InputError: no key=value; a key that is unknown or missing; a value that is not allowed."""
    grammar = Grammar(CONFIG, list(Choices.__annotations__), GROUPS, required=("input", "output"), optional=("run",))
    literal, parts = grammar.read(arguments)
    return Request(**literal, choices=parts.pop(CONFIG), **parts)


def resolve_layers(layers: int | Sequence[int], count: int | None, model: str) -> tuple[int, ...]:
    """The layers' own numbers, ascending, as fair-esm's `repr_layers` and transformers' `hidden_states` have them.

    Args:
        layers: negative ones count from the end. count: of the model; None: it gives the vectors of its last one only.
    Raises: InputError: one twice, or one that the model has not.
    """
    layers = [layers] if isinstance(layers, int) else list(layers)
    if count is None:
        if layers != [-1]:
            raise InputError(f"layers={layers}: {model} is no transformer and gives its last layer only. Set [-1].")
        return (-1,)
    wrong = [layer for layer in layers if not -count - 1 <= layer <= count]
    if wrong:
        raise InputError(
            f"layers={layers}: {model} has no layer {wrong[0]}. It has 0 (the embedding) to {count} (the last, "
            "also -1)."
        )
    found = [layer % (count + 1) for layer in layers]
    if len(set(found)) < len(found):
        raise InputError(f"layers={layers}: one is named twice; they are {found} of {model}. Leave it out.")
    return tuple(sorted(found))
