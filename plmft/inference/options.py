"""What `python -m plmft.predict` is asked for, checked before anything heavy is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt

from plmft import InputError
from plmft.config.words import Grammar
from plmft.inference.parts import Shard
from plmft.inference.sequences import Columns
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware

CONFIG = "predict"
GROUPS = ("hardware", "tracking")


@dataclass(frozen=True)
class Options:
    """How sequences are predicted. Raises: InputError: a shard that can't be."""

    columns: Columns
    chunk: Annotated[int, Gt(0)] = 1024
    shard: str | None = None
    length_policy: Literal["auto", "refuse", "crop", "window"] = "auto"
    merge: bool = True
    plots: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        _ = self.part

    @property
    def part(self) -> Shard:
        """The shard; all of it where none is named."""
        return Shard() if self.shard is None else Shard.parse(self.shard)


@dataclass(frozen=True)
class Request:
    """A whole command."""

    model: str
    input: str
    output: str
    options: Options
    hardware: Hardware
    tracking: Tracking


def read_request(arguments: Sequence[str]) -> Request:
    """The command line's. Raises: InputError: an option that is unknown or missing, or a value that is not allowed."""
    grammar = Grammar(CONFIG, list(Options.__annotations__), GROUPS, required=("model", "input", "output"))
    literal, parts = grammar.read(arguments)
    hardware = parts["hardware"]
    if hardware.devices * hardware.nodes > 1 or hardware.strategy != "single":
        raise InputError(
            f"hardware.devices={hardware.devices}, strategy={hardware.strategy}: one process predicts on one device. "
            "Start one for each with shard=1/N to shard=N/N and CUDA_VISIBLE_DEVICES, into one folder."
        )
    return Request(**literal, options=parts[CONFIG], hardware=hardware, tracking=parts["tracking"])
