"""What `python -m plmft.predict` is asked for, checked before anything heavy is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt

from plmft import InputError
from plmft.inference.parts import Shard
from plmft.inference.sequences import Columns
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware

CONFIG, PART = "predict", "predict"
LITERAL = ("model", "input", "output")  # taken as they stand: paths may hold what Hydra would read as its own
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
    literal, words = _parted(arguments)
    absent = [key for key in LITERAL if not literal.get(key)]
    if absent:
        raise InputError(f"{absent[0]} is not set. Give {' '.join(f'{key}=...' for key in absent)}; --help tells more.")
    parts = _composed(words)
    return Request(**literal, options=parts[PART], hardware=parts["hardware"], tracking=parts["tracking"])


def _parted(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The literal words by key, and the others as Hydra takes them."""
    from plmft.config.check import nearest

    own = list(Options.__annotations__)
    literal, words = {}, []
    for word in arguments:
        key, equals, value = word.partition("=")
        if key in LITERAL and equals:
            literal[key] = value
            continue
        first = key.partition(".")[0]
        if not equals or first not in (*own, *GROUPS):
            told = "" if equals else " Options have the form key=value."
            raise InputError(f"{word}: there is no such option.{told}{nearest(first, (*LITERAL, *own, *GROUPS))}")
        words.append(f"{PART}.{word}" if first in own else word)
    return literal, words


def _composed(words: list[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from plmft.config.check import check
    from plmft.config.compose import check_command_line, compose_config, parts_of

    try:
        check_command_line(words, CONFIG)
        plain = OmegaConf.to_container(compose_config(words, CONFIG), resolve=True)
        check(plain)
    except InputError as error:
        raise InputError(str(error).replace(f"{PART}.", "")) from None  # as it was written
    parts = parts_of({name: plain[name] for name in (PART, *GROUPS)})
    hardware = parts["hardware"]
    if hardware.devices * hardware.nodes > 1 or hardware.strategy != "single":
        raise InputError(
            f"hardware.devices={hardware.devices}, strategy={hardware.strategy}: one process predicts on one device. "
            "Start one for each with shard=1/N to shard=N/N and CUDA_VISIBLE_DEVICES, into one folder."
        )
    return parts
