"""What is embedded with: a pretrained model, or a tuned one; and all that names its vectors.

A pretrained model comes as a run finds it. Of a tuned one the backbone is taken, its adapters added to the weights.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from plmft import InputError
from plmft.embeddings.choices import Request, resolve_layers
from plmft.embeddings.layers import ChosenLayers
from plmft.embeddings.vectors import Reader
from plmft.models.backbone import TransformerBackbone
from plmft.models.embedding_key import architecture_digest, weights_digest
from plmft.models.precision import hold_for, hold_frozen_in_bf16
from plmft.models.spec import Spec
from plmft.models.windows import Windows

if TYPE_CHECKING:
    from plmft.models.weights import Located
    from plmft.training.hardware import Device

LAYOUT = 1  # raise it when what a job computes, or how it is written, changes
TOKENS = {"cpu": 4096, "cuda": 16384}  # of a forward pass, where hardware.tokens_per_batch is auto
BF16 = ("bf16", "bf16_weights")


@dataclass(frozen=True)
class Source:
    """A model as it was found. weights: random, published or of a run, in a few words."""

    spec: Spec
    backbone: nn.Module
    weights: str
    run: str | None = None


@dataclass(frozen=True)
class Embedding:
    """How sequences become vectors.

    Args:
        read: of sequences. layers: ascending. width: D of one layer.
        context: residues that the model takes; None: any number.
        identity: all that a vector depends on, its sequence aside.
    """

    read: Reader
    layers: tuple[int, ...]
    width: int
    context: int | None
    model: str
    identity: dict[str, Any]


def find_source(request: Request, runs: Path) -> Source:
    """Raises: InputError: no such run, weights that aren't there, or a model without a network."""
    if request.run is not None:
        return _tuned(request, runs)
    from plmft.models.build import build_backbone
    from plmft.models.weights import locate

    spec = request.model
    if spec.from_scratch:
        raise InputError(
            f"model={spec.name}: it has no pretrained weights, so its vectors would say nothing. Choose ESM-2 or "
            "ProtBERT, or run=RUN_ID of a model that was trained."
        )
    located = locate(spec)
    torch.manual_seed(request.seed)
    return Source(spec, build_backbone(spec, located), _named(located, request))


def prepare(request: Request, source: Source, device: "Device") -> Embedding:
    """The backbone on its device, and how it is read.

    Raises: InputError: a layer or a pooling that the model has not.
    """
    choices, spec, backbone = request.choices, source.spec, source.backbone.eval().requires_grad_(False)
    transformer = isinstance(backbone, TransformerBackbone)
    count = len(backbone.network.encoder.layer) if transformer else None
    layers = resolve_layers(choices.layers, count, spec.name)
    if choices.pooled_by == "cls" and not spec.tokenizer.prefix:
        raise InputError(f"pooling=cls: {spec.name} has no first special token. Choose mean or max.")
    windows = Windows.of(spec.context, spec.tokenizer) if choices.length_policy == "window" and spec.context else None
    identity = _identity(request, source, device, layers)
    if device.precision in BF16:  # the same vectors as under autocast alone, sooner
        hold_frozen_in_bf16(backbone)
    hold_for(device.precision, backbone)
    tokens = request.hardware.tokens_per_batch
    read = Reader(
        ChosenLayers(backbone, layers) if transformer else backbone,
        len(layers),
        spec.tokenizer,
        choices.pooled_by,
        windows,
        device.torch_type,
        device.precision,
        TOKENS[device.torch_type] if tokens == "auto" else tokens,
    )
    read.backbone.to(device.torch_type)
    return Embedding(read, layers, backbone.width, spec.context, spec.name, identity)


def _identity(request: Request, source: Source, device: "Device", layers: tuple[int, ...]) -> dict[str, Any]:
    choices, spec = request.choices, source.spec
    return {
        "made_by": "plmft.embed",
        "version": LAYOUT,
        "model": spec.name,
        "weights": source.weights,
        "weights_sha256": weights_digest(source.backbone),
        "architecture_sha256": architecture_digest(source.backbone),
        "tokenizer_sha256": spec.tokenizer.digest,
        "run": source.run,
        "layers": list(layers),
        "width": source.backbone.width,
        "per": choices.per,
        "pooling": choices.pooled_by,
        "length_policy": choices.length_policy,
        "context": spec.context,
        "precision": "bf16" if device.precision in BF16 else device.precision,
        "dtype": choices.dtype,
        "format": request.format_name,
    }


def _named(located: "Located", request: Request) -> str:
    """In a few words, without a path: a copy elsewhere is the same."""
    if located.source == "random":
        return f"random, seed {request.seed}"
    return f"{request.model.hub} {located.revision}" if located.source == "hub" else "local"


def _tuned(request: Request, runs: Path) -> Source:
    from plmft.models.tuned import load
    from plmft.tracking.model_of_run import DESCRIPTION, find_model
    from plmft.tracking.reading import read_address

    found = find_model(request.run, read_address(request.tracking.uri, runs), runs)
    tuned = load(found.folder, merge=True)
    base = json.loads((found.folder / DESCRIPTION).read_text())["base"]["source"]
    weights = "tuned from random weights" if base == "random" else "tuned"
    return Source(tuned.description.spec, tuned.predictor.backbone, weights, found.run_id)
