"""Check a composed config before anything heavy is imported: every `_target_` against its signature and types.

All errors are found in one walk and told together, each with its key, its value, what is allowed and the nearest
spelling. Costs about a tenth of a second, which is the import of pydantic.
"""

import difflib
import importlib
import inspect
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from plmft import InputError

TARGET = "_target_"
LARGEST_SEED = 2**32 - 1  # NumPy's legacy generator takes no larger one
# the keys that belong to no part
ROOT = {"seed": Annotated[int, Ge(0), Le(LARGEST_SEED)], "batch_size": Annotated[int, Ge(1)]}


def check(config: Mapping[str, Any]) -> None:
    """Raises: InputError: one line for each offence, or for each rule between parts that is broken."""
    errors = [*_check_root(config), *_check_parts(config, "")]
    if not errors:
        errors = list(_check_rules(config))
    if errors:
        raise InputError("\n".join(errors))


def _check_root(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        if key in ROOT:
            yield from _check_value(key, value, ROOT[key])
        elif not (isinstance(value, Mapping) and TARGET in value):
            yield f"{key}={value}: there is no such key.{nearest(key, [k for k in config if k != key])}"


def _check_parts(node: Mapping[str, Any], path: str) -> Iterator[str]:
    if TARGET in node:
        yield from _check_target(node, path)
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _check_parts(value, f"{path}.{key}" if path else str(key))


def _check_target(node: Mapping[str, Any], path: str) -> Iterator[str]:
    try:
        target = find_target(node[TARGET])
    except (ImportError, AttributeError) as error:
        yield f"{path}.{TARGET}={node[TARGET]}: not found ({error})."
        return
    parameters = inspect.signature(target).parameters
    annotations = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    for key, value in node.items():
        if key == TARGET:
            continue
        if key not in parameters:
            yield f"{path}.{key}={value}: {path} has no option {key!r}.{nearest(key, parameters)}"
        elif not (isinstance(value, Mapping) and TARGET in value):
            yield from _check_value(f"{path}.{key}", value, annotations.get(key, Any))
    for key, parameter in parameters.items():
        if key not in node and parameter.default is inspect.Parameter.empty:
            yield f"{path}.{key} is missing."


def find_target(name: str) -> Callable[..., Any]:
    """The class or function that a `_target_` names; only plmft's own may be named."""
    module, _, attribute = name.rpartition(".")
    if not module.startswith("plmft."):
        raise ImportError("only parts of plmft can be named")
    return getattr(importlib.import_module(module), attribute)


def _check_value(key: str, value: Any, annotation: Any) -> Iterator[str]:
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{key}={value}: must be a finite number."
        return
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        # of the arms of `X | None`, the one that tells about X is the informative one
        told = [e for e in error.errors() if e["type"] != "none_required"] or error.errors()
        reason = told[0]["msg"].replace("Input should be", "must be")
        allowed = told[0].get("ctx", {}).get("expected")
        choices = [c.strip(" '") for c in allowed.replace(" or ", ",").split(",")] if allowed else []
        yield f"{key}={value}: {reason}.{closest(str(value), choices)}"


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...? It takes: ...' or '' where nothing is known."""
    known = list(known)
    return f"{closest(word, known)} It takes: {', '.join(known)}." if known else ""


def closest(word: str, known: Sequence[str]) -> str:
    """' Did you mean ...?', or '' where nothing is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_rules(config: Mapping[str, Any]) -> Iterator[str]:
    model, tuning = config["model"], find_target(config["tuning"][TARGET]).name
    if find_target(model[TARGET]).from_scratch and tuning == "none":
        yield f"model={model['name']}: it is no language model, which tuning=none scores. Choose ESM-2 or ProtBERT."
    elif find_target(model[TARGET]).from_scratch and tuning != "full":
        yield f"tuning={tuning}: {model['name']} has no pretrained weights to keep. Set tuning=full."
    if config["task"]["head"].get("normalize") and config["batch_size"] == 1 and tuning != "none":
        yield "batch_size=1: one sequence can't be normalised. Set a larger one, or task.head.normalize=false."
    if model.get("checkpoint") and model.get("path"):
        yield "model.path and model.checkpoint are both set. Leave one out."
