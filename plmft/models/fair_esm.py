"""Read a fair-esm checkpoint (.pt) of ESM-2 or ESM-1b under the names of transformers' `EsmModel`.

The two are the same network with other names; nothing is computed, so hidden states are equal. Names and prefixes as
in fair-esm 2.0.0 (Rives et al. 2021, Lin et al. 2023).
"""

import argparse
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from plmft import InputError
from plmft.models.pickles import read_pickle
from plmft.models.spec import TransformerSpec

OUTER = {
    "embed_tokens": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "emb_layer_norm_before": "embeddings.layer_norm",
    "emb_layer_norm_after": "encoder.emb_layer_norm_after",
}
INNER = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn.rot_emb": "attention.self.rotary_embeddings",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
ARGUMENTS = {"layers": "layers", "embed_dim": "width", "attention_heads": "heads", "token_dropout": "token_dropout"}


def read_fair_esm(path: Path, spec: TransformerSpec) -> dict[str, Tensor]:
    """The weights in `path` by `EsmModel`'s names; those that it has no place for (heads) keep fair-esm's.

    Raises: InputError: the file holds code, can't be read, is no ESM-2 or ESM-1b, or differs from the typed figures.
    """
    saved = read_pickle(path, allowed=(argparse.Namespace,))
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        raise InputError(f"{path} is no fair-esm checkpoint: it has no weights under 'model'. {_way_out()}")
    state = {_without_prefix(name): tensor for name, tensor in saved["model"].items()}
    _check(spec, path, _arguments(saved, path), state)
    return {_name(name): tensor for name, tensor in state.items()}


def _way_out() -> str:
    return "Give an ESM-2 or ESM-1b file of fair-esm, or a transformers checkpoint as model.path=FOLDER."


def _without_prefix(name: str) -> str:
    return name.removeprefix("encoder.").removeprefix("sentence_encoder.")


def _arguments(saved: dict[str, Any], path: Path) -> dict[str, Any]:
    """Training arguments without their prefix `encoder_`; those of ESM-2 lie in `cfg`, those of ESM-1b in `args`."""
    arguments = saved["cfg"].get("model") if isinstance(saved.get("cfg"), dict) else saved.get("args")
    if not isinstance(arguments, argparse.Namespace):
        raise InputError(f"{path} is no fair-esm checkpoint: it has no training arguments. {_way_out()}")
    return {name.removeprefix("encoder_"): value for name, value in vars(arguments).items()}


def _check(spec: TransformerSpec, path: Path, arguments: dict[str, Any], state: dict[str, Tensor]) -> None:
    found = {figure: arguments.get(argument) for argument, figure in ARGUMENTS.items()}
    found["position_embedding_type"] = "absolute" if "embed_positions.weight" in state else "rotary"
    found["emb_layer_norm_before"] = "emb_layer_norm_before.weight" in state
    rows = {
        "vocabulary": "embed_tokens.weight",
        "feedforward": "layers.0.fc1.weight",
        "positions": "embed_positions.weight",
    }
    found |= {figure: len(state[name]) for figure, name in rows.items() if name in state}
    spec.check_figures(found, str(path))


def _name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{kind}"
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", module)
    if layer and layer[2] in INNER:
        return f"encoder.layer.{layer[1]}.{INNER[layer[2]]}.{kind}"
    return name
