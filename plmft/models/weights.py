"""Find a backbone's weights, check them against the typed figures, load them, and write them for other readers.

Weights come from a local folder, a fair-esm file, or the hub: its cache first, and the network only for what is not
there. No code from a checkpoint runs: safetensors, or pickles by `weights_only`; of a config.json only numbers are
taken. A weight that is missing is an error, never a random one. Costs one read of the files.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel, EsmConfig, EsmModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from plmft import InputError
from plmft.models.fair_esm import read_fair_esm
from plmft.models.four_bits import plain_state
from plmft.models.hub import CONFIG, fetch, weight_files
from plmft.models.pickles import read_tensors
from plmft.models.spec import PUBLISHED, Spec, TransformerSpec
from plmft.models.tensors import write_tensors

WEIGHTS = "model.safetensors"
LAYER_NORM_EPS = {"esm2": 1e-5, "esm1b": 1e-5, "bert": 1e-12}
HUB_NAMES = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "feedforward": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}
OWN_SETTINGS = ("layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob")  # a checkpoint's, not typed
HEADS = {"lm_head", "cls", "classifier", "qa_outputs", "pooler", "contact_head"}
ROTARY = "rotary_embeddings.inv_freq"


class HeadlessEsm(EsmModel):
    """`EsmModel` without pooler and contact head: no loss reaches them, so that DDP would wait for their gradients."""

    def __init__(self, config: EsmConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        del self.contact_head


class HeadlessBert(BertModel):
    """`BertModel` without pooler, for the same reason."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


@dataclass(frozen=True)
class Located:
    """Where the weights are.

    Args:
        path: a folder with config.json and weights, or a fair-esm file; None: random.
        revision: the hub's commit that was taken; None: not from the hub.
    """

    source: Literal["random", "folder", "fair_esm", "hub"]
    path: Path | None = None
    revision: str | None = None

    @property
    def files(self) -> list[Path]:
        """The files that are loaded; none for random weights."""
        if self.path is None:
            return []
        return [self.path] if self.path.is_file() else [self.path / CONFIG, *weight_files(self.path)]

    def digest(self) -> str | None:
        """SHA-256 over the names and contents of the files that are loaded. Reads them all: ask once.

        None for random weights: the seed decides them.
        """
        if self.path is None:
            return None
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                total.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()


def locate(spec: Spec) -> Located:
    """Find the weights and check their figures, before anything is loaded; downloads what the hub's cache lacks.

    Raises: InputError: settings that exclude each other; nothing there; another network than the typed one.
    """
    given = [f"model.{key}={value}" for key in ("path", "checkpoint") if (value := getattr(spec, key))]
    given += ["model.init=random"] if spec.init == "random" else []
    if len(given) > 1 and not spec.from_scratch:
        raise InputError(f"{' and '.join(given)} exclude each other. Leave one: each says where the weights come from.")
    if spec.init == "random":
        if isinstance(spec, TransformerSpec):
            with torch.device("meta"):
                count = sum(weights.numel() for weights in build(spec).parameters())
            spec.check_figures({"parameters": count}, f"{spec.name} with these figures")
        return Located("random")
    if spec.checkpoint is not None:
        return _locate_fair_esm(spec, Path(spec.checkpoint).expanduser())
    if spec.path is not None:
        found = Located("folder", _checked_folder(Path(spec.path).expanduser()))
    else:
        folder = fetch(spec)
        found = Located("hub", folder, folder.name)
    _read_config(spec, found.path)
    return found


def build(spec: TransformerSpec) -> PreTrainedModel:
    """The network with random float32 weights, as transformers draws them; `torch.device("meta")` allocates none."""
    return _network(spec)(_architecture(spec))


def load(spec: TransformerSpec, located: Located) -> PreTrainedModel:
    """The network with the weights that `locate` found, in float32 and evaluation mode; random ones are drawn.

    Raises: InputError: a file that holds code or can't be read; weights missing, surplus or of other shape.
    """
    if located.source == "random":
        return build(spec).eval()
    config = _architecture(spec) if located.source == "fair_esm" else _read_config(spec, located.path)
    return _fill(spec, config, read_state(spec, located), located.path)


def read_state(spec: TransformerSpec, located: Located) -> dict[str, Tensor]:
    """All weights of the files, by the names in them (for fair-esm, the encoder's by transformers' names).

    Raises: InputError: a file that holds code or can't be read.
    """
    return read_fair_esm(located.path, spec) if located.source == "fair_esm" else _read_folder(located.path)


def save_network(network: PreTrainedModel, folder: Path) -> None:
    """Write config.json and model.safetensors, which `EsmModel` or `BertModel.from_pretrained` and other readers open.

    Adapters that PEFT has put into the network are left out; what is held in fewer bits is written in float32.
    Names are those that the hub's checkpoints use; transformers 5.23 itself writes `gamma`, `beta` and a `*`.
    A reader that wants a pooler or contact head starts it anew: plmft has none.
    Raises: RuntimeError: an empty tensor, as ZeRO-3 leaves where weights are not gathered.
    """
    state = {k.replace(".base_layer.", "."): v for k, v in plain_state(network).items() if ".lora_" not in k}
    if ROTARY in state:
        frequencies = state.pop(ROTARY)
        for layer in range(network.config.num_hidden_layers):
            state[f"encoder.layer.{layer}.attention.self.{ROTARY}"] = frequencies.clone()
    config = copy.deepcopy(network.config)
    config.architectures = ["EsmModel" if config.model_type == "esm" else "BertModel"]
    folder.mkdir(parents=True, exist_ok=True)
    half_written = folder / f"{WEIGHTS}.part"
    write_tensors(state, half_written)
    (folder / CONFIG).write_text(config.to_json_string())
    os.replace(half_written, folder / WEIGHTS)


def _locate_fair_esm(spec: TransformerSpec, path: Path) -> Located:
    if spec.family == "bert":
        raise InputError(f"model.checkpoint={path}: takes ESM-2 or ESM-1b; for {spec.name} give model.path=FOLDER.")
    if not path.is_file():
        raise InputError(f"model.checkpoint={path}: there is no such file. It takes a fair-esm file (.pt).")
    return Located("fair_esm", path)


def _checked_folder(folder: Path) -> Path:
    try:
        lacks = "is no folder" if not folder.is_dir() else _lacks(folder)
    except OSError as error:
        lacks = f"can't be read ({error.strerror})"
    if lacks:
        raise InputError(
            f"model.path={folder}: {lacks}. It takes a folder with a transformers checkpoint, as save_pretrained "
            "writes; a fair-esm file (.pt) is given as model.checkpoint=FILE."
        )
    return folder


def _lacks(folder: Path) -> str | None:
    if not (folder / CONFIG).is_file():
        return f"has no {CONFIG}"
    if not weight_files(folder):
        return "has no model.safetensors or pytorch_model.bin with all its shards"
    return None


def _network(spec: TransformerSpec) -> type[PreTrainedModel]:
    return HeadlessBert if spec.family == "bert" else HeadlessEsm


def _architecture(spec: TransformerSpec) -> PreTrainedConfig:
    """transformers' configuration of the published network; its dropout is 0 in all three families."""
    settings = {hub_name: getattr(spec, name) for name, hub_name in HUB_NAMES.items()}
    settings |= {name: value for name, value in PUBLISHED[spec.family].items() if name != "model_type"}
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return _network(spec).config_class(**settings, layer_norm_eps=LAYER_NORM_EPS[spec.family])


def _read_config(spec: TransformerSpec, folder: Path) -> PreTrainedConfig:
    """The typed network's configuration with the checkpoint's own small settings, if all figures agree.

    Nothing else of config.json is used: some of its settings make transformers load code or other files.
    Raises: InputError: it can't be read, or a figure differs.
    """
    file = folder / CONFIG
    try:
        written = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} can't be read as JSON ({error}). Get the checkpoint again.") from None
    if not isinstance(written, dict):
        raise InputError(f"{file} is no table of settings. Get the checkpoint again.")
    usual = _network(spec).config_class()
    names = [name for name in spec.figures if name != "parameters"]  # counted when loaded
    found = {name: _setting(written, usual, HUB_NAMES.get(name, name)) for name in names}
    spec.check_figures(found, str(file))
    config = _architecture(spec)
    for name in OWN_SETTINGS:
        value = _setting(written, usual, name)
        if not isinstance(value, int | float):
            raise InputError(f"{file}: {name} is {value!r}, which is no number. Get the checkpoint again.")
        setattr(config, name, float(value))
    return config


def _setting(written: dict[str, Any], usual: PreTrainedConfig, name: str) -> Any:
    """As transformers reads it: what a config.json leaves out has its class's default."""
    absent = "absolute" if name == "position_embedding_type" else None  # BertConfig no longer knows it
    value = written.get(name, getattr(usual, name, absent))
    return bool(value) if name == "emb_layer_norm_before" else value  # null there means no


def _read_folder(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            state |= load_file(file) if file.suffix == ".safetensors" else read_tensors(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} can't be read ({error}). It may be cut off: get it again.") from None
    return state


def _fill(spec: TransformerSpec, config: PreTrainedConfig, state: dict[str, Tensor], where: Path) -> PreTrainedModel:
    network_class = _network(spec)
    with _unheard():
        network, report = network_class.from_pretrained(
            None,
            config=config,
            state_dict=_own(state, network_class.base_model_prefix),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # reported, and refused below
            output_loading_info=True,
        )
    faults = {
        "missing": set(report["missing_keys"]) - {ROTARY},  # computed where a file leaves it out
        "surplus": report["unexpected_keys"],
        "of other shape": [f"{name} {tuple(found)}" for name, found, _ in report["mismatched_keys"]],
    }
    told = [f"{kind}: {', '.join(sorted(names)[:3])} ({len(names)})" for kind, names in faults.items() if names]
    if told:
        raise InputError(f"{where} does not fit {spec.name}. Weights {'; '.join(told)}. Give its own checkpoint.")
    spec.check_figures({"parameters": sum(weights.numel() for weights in network.parameters())}, str(where))
    return network


@contextmanager
def _unheard() -> Iterator[None]:
    """Hold back transformers' progress bar and its report of faults: ours is the one message."""
    bar, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def _own(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder's weights by its own names: without the prefix and heads of a larger model, and names of old."""
    own = {}
    for name, tensor in state.items():
        name = name.removeprefix(f"{prefix}.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.endswith(ROTARY):
            name = ROTARY  # once a layer in files, once in the network; all are equal
        if name.partition(".")[0] not in HEADS and not name.endswith("position_ids"):
            own[name] = tensor
    return own
