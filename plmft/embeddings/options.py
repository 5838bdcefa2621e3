"""The options of search, plot and probe: composed by Hydra from one flat file, checked, and made a frozen record.

Costs Hydra's and pydantic's import, about half a second; nothing heavier is imported before the options are right.
"""

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from plmft import InputError

Options = TypeVar("Options")
HELP = ("-h", "--help")


def read_options(arguments: Sequence[str], config: str, options: type[Options]) -> Options:
    """The record `options`, a frozen dataclass with a field a key of conf/<config>.yaml.

    Raises: InputError: an unknown key, a key that must be set, a value of another type or out of range.
    """
    from omegaconf import OmegaConf

    from plmft.config.compose import check_command_line, compose_config

    dashed = [word for word in arguments if word.startswith("-")]
    if dashed:
        raise InputError(f"{dashed[0]}: options have the form key=value; --help lists them.")
    check_command_line(list(arguments), config)
    plain = OmegaConf.to_container(compose_config(list(arguments), config), resolve=True)
    plain |= _as_typed(arguments, plain, options)
    absent = [key for key, type_ in typing.get_type_hints(options).items() if type_ is str and plain[key] is None]
    if absent:
        raise InputError(f"{' and '.join(absent)} must be set. Give {' '.join(f'{key}=...' for key in absent)}")
    errors = list(_wrong(plain, options))
    if errors:
        raise InputError("\n".join(errors))
    return options(**{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})


def _as_typed(arguments: Sequence[str], plain: Mapping[str, Any], options: type) -> dict[str, str]:
    """What Hydra read as a number or a truth where a text is meant: runs and files may be called so."""
    types = typing.get_type_hints(options)
    typed = dict(word.lstrip("+").split("=", 1) for word in arguments if "=" in word)
    texts = (key for key, value in plain.items() if isinstance(value, int | float) and key in typed)
    return {key: typed[key] for key in texts if types[key] in (str, str | None)}


def _wrong(plain: Mapping[str, Any], options: type) -> Iterator[str]:
    """A message for each value that its field's type does not allow."""
    from pydantic import TypeAdapter, ValidationError

    from plmft.config.check import closest

    types = typing.get_type_hints(options, include_extras=True)
    for key in (field.name for field in fields(options)):
        value = plain[key]
        try:
            TypeAdapter(types[key]).validate_python(tuple(value) if isinstance(value, list) else value, strict=True)
        except ValidationError as error:
            found = next((e for e in error.errors() if e["type"] != "none_required"), error.errors()[0])
            allowed = found.get("ctx", {}).get("expected", "")
            choices = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")] if allowed else []
            reason = found["msg"].replace("Input should be", "must be")
            yield f"{key}={value}: {reason}.{closest(str(value), choices)}"
