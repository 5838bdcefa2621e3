"""Small checkpoints as a user would have them: a folder of transformers, a file of fair-esm, and traps."""

from dataclasses import fields, replace
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from plmft.config.compose import compose_config
from plmft.models.spec import TYPED, TransformerSpec
from plmft.models.weights import build, save_network
from tests.unit import small_models, test_model_fair_esm

MODELS = {"esm2": "esm2_8m", "esm1b": "esm1b", "bert": "protbert"}


class Trap:
    """Touches a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def overrides(spec: TransformerSpec) -> list[str]:
    """The model's group, and every figure of `spec` in place of the published ones."""
    assert {field.name for field in fields(spec)}.issuperset(TYPED)
    figures = [f"model.{name}={getattr(spec, name)}" for name in (*TYPED, "context")]
    return [f"model={MODELS[spec.family]}", *figures]


def of_size(model: str, **figures: int) -> list[str]:
    """The overrides for a published architecture in another size, with random weights, its parameters counted."""
    spec = instantiate(OmegaConf.to_container(compose_config([f"model={model}", "model.init=random"])["model"]))
    spec = replace(spec, **figures)
    with torch.device("meta"):
        count = sum(weights.numel() for weights in build(spec).parameters())
    figures["parameters"] = count
    return [f"model={model}", "model.init=random", *(f"model.{name}={value}" for name, value in figures.items())]


def folder(path: Path, family: str) -> list[str]:
    """Save a small network of random weights as transformers does; returns the overrides that choose it."""
    spec = small_models.small(family)
    save_network(small_models.randomised(small_models.build(spec)), path)
    return [*overrides(spec), f"model.path={path}"]


def fair_esm(path: Path, family: str) -> list[str]:
    """Save one as fair-esm does; returns the overrides that choose it."""
    test_model_fair_esm.checkpoint(test_model_fair_esm.fair(family), path)
    return [*overrides(test_model_fair_esm.small(family, path)), f"model.checkpoint={path}"]


def set_trap(path: Path, marker: Path) -> None:
    """Add code to a PyTorch file."""
    torch.save(torch.load(path, weights_only=False) | {"extra": Trap(marker)}, path)


def springs(path: Path, marker: Path) -> bool:
    """True if the trap does spring where pickles are not refused."""
    torch.load(path, weights_only=False)
    return marker.exists()
