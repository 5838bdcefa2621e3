"""Check a composed config before anything heavy is imported: every `_target_` against its signature and types.

All errors are found in one walk and told together, each with its key, its value, what is allowed and the nearest
spelling. Costs about a tenth of a second, which is the import of pydantic.
"""

import difflib
import importlib
import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import TypeAdapter, ValidationError

from plmft import InputError
from plmft.models.direct_spec import DirectSpec
from plmft.models.tuning import check_bitsandbytes
from plmft.tracking.lineage import mask
from plmft.training.hardware import GPU_PRECISIONS, check_zero

TARGET = "_target_"
NAME, LONGEST_NAME_BYTES = re.compile(r"\w[^/\\\x00-\x1f\x7f\ud800-\udfff]*"), 100
LARGEST_SEED = 2**32 - 1  # NumPy's legacy generator takes no larger one
# the keys that belong to no part
ROOT = {"seed": Annotated[int, Ge(0), Le(LARGEST_SEED)], "batch_size": Annotated[int, Ge(1)]}


def check(config: Mapping[str, Any], *, packages: bool = True) -> None:
    """Raises: InputError: one line for each offence, or for each rule between parts that is broken.

    Args: packages: look for the optional packages that some options need; not for a run on another machine.
    """
    errors = [*_check_root(config), *_check_parts(config, "")]
    if not errors:
        errors = list(_check_rules(config, packages))
    if errors:
        raise InputError(mask("\n".join(errors)))


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


def _check_name(key: str, name: str) -> Iterator[str]:
    """Folders are called by it: it must not lead out of the runs folder, nor be longer than file systems allow."""
    if not NAME.fullmatch(name) or len(name.encode(errors="replace")) > LONGEST_NAME_BYTES:
        shown = name if len(name) <= LONGEST_NAME_BYTES else f"{name[:20]}..."
        yield (
            f"{key}={shown!r}: it names folders. Begin with a letter or digit, leave out / and \\ and line breaks, and "
            f"keep to {LONGEST_NAME_BYTES} bytes."
        )


def _check_rules(config: Mapping[str, Any], packages: bool) -> Iterator[str]:
    for part in ("model", "task"):
        yield from _check_name(f"{part}.name", config[part].get("name") or part)
    model, tuning = config["model"], find_target(config["tuning"][TARGET]).name
    if find_target(model[TARGET]).from_scratch and tuning == "none":
        yield f"model={model['name']}: it is no language model, which tuning=none scores. Choose ESM-2 or ProtBERT."
    elif find_target(model[TARGET]).from_scratch and tuning != "full":
        yield f"tuning={tuning}: {model['name']} has no pretrained weights to keep. Set tuning=full."
    if config["task"]["head"].get("normalize") and config["batch_size"] == 1 and tuning != "none":
        yield "batch_size=1: one sequence can't be normalised. Set a larger one, or task.head.normalize=false."
    if model.get("checkpoint") and model.get("path"):
        yield "model.path and model.checkpoint are both set. Leave one out."
    yield from _check_tuning(config, tuning)
    yield from _check_hardware(config)
    yield from _check_ranks(config, tuning)
    if packages:
        yield from _check_packages(config, tuning)


def _check_tuning(config: Mapping[str, Any], tuning: str) -> Iterator[str]:
    model, layers = config["model"], config["tuning"].get("layers")
    if layers is not None and "layers" in model and layers > model["layers"]:
        yield f"tuning.layers={layers}: {model['name']} has {model['layers']} layers. Set at most that many."
    if config["optim"]["layer_decay"] != 1 and tuning == "full" and find_target(model[TARGET]).from_scratch:
        yield f"optim.layer_decay: {model['name']} has no pretrained layers to keep. Set 1.0."
    if tuning == "qlora" and config["hardware"]["strategy"] in ("fsdp", "zero3"):
        yield "tuning=qlora: weights of four bits can't be sharded. Set hardware.strategy=ddp."


def _check_packages(config: Mapping[str, Any], tuning: str) -> Iterator[str]:
    strategy = config["hardware"]["strategy"]
    try:
        if tuning == "qlora":
            check_bitsandbytes()
        if strategy.startswith("zero"):
            check_zero(strategy, config["hardware"]["precision"])
    except InputError as error:
        yield str(error)


def _check_hardware(config: Mapping[str, Any]) -> Iterator[str]:
    model, hardware = config["model"], config["hardware"]
    precision = hardware["precision"]
    if hardware["accelerator"] == "cpu" and precision in GPU_PRECISIONS:
        yield f"hardware.precision={precision}: needs a GPU. Set bf16 or fp32."
    for option in ("gradient_checkpointing", "compile"):
        if hardware[option] and find_target(model[TARGET]).from_scratch:
            yield f"hardware.{option}=true: {model['name']} is no transformer. Set false."


def _check_ranks(config: Mapping[str, Any], tuning: str) -> Iterator[str]:
    """What several processes can share, and how."""
    model, hardware = config["model"], config["hardware"]
    strategy, devices, nodes = hardware["strategy"], hardware["devices"], hardware["nodes"]
    if hardware["offload"] and not strategy.startswith("zero"):
        yield f"hardware.offload=true: {strategy} can't. Set hardware=zero3_offload, or false."
    if tuning == "dora" and strategy == "zero3":
        yield "tuning=dora: PEFT reads adapters where zero3 holds parts of them. Set hardware=zero2, or tuning=lora."
    if strategy.startswith("zero") and devices * nodes == 1:
        yield f"hardware.strategy={strategy}: one process has nothing to share. Set hardware=auto, or more devices."
    if devices * nodes == 1:
        return
    several = f"hardware.devices={devices}" if nodes == 1 else f"hardware.nodes={nodes}"
    if strategy == "single":
        yield f"{several}: hardware.strategy=single is one process. Set hardware=ddp or another strategy."
    if issubclass(find_target(model[TARGET]), DirectSpec):
        yield f"{several}: {model['name']} is fitted by one process. Set hardware=auto."
    elif tuning == "none" or config["task"].get("attention"):
        what = "tuning=none" if tuning == "none" else "a regression on attention maps"
        yield f"{several}: {what} is computed by one process. Set hardware=auto."
    if strategy == "fsdp" and find_target(model[TARGET]).from_scratch:
        yield f"hardware.strategy=fsdp: {model['name']} is no transformer. Set hardware=ddp."
    if strategy == "fsdp" and hardware["precision"] in ("fp16", "bf16_weights"):
        yield f"hardware.precision={hardware['precision']}: fsdp shards fp32 weights. Set bf16 or fp32."
