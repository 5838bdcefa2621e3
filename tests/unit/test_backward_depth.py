"""What a backward pass reaches and keeps: no graph below what learns, and few activations with checkpointing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from plmft.models.predictor import Predictor
from plmft.models.tuning import Bias, DoRA, Frozen, Full, LastLayers, LoRA, Tuning
from tests.unit.networks import packed
from tests.unit.tuned_models import predictor_of

RANK = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ("attention", "feedforward")}
DEPTHS = [(Frozen(), 0), (LastLayers(1), 1), (LoRA(**RANK, layers=1), 1), (LoRA(**RANK), 2), (Bias(), 2), (Full(), 2)]


def gradients(predictor: Predictor, rng: np.random.Generator, family: str) -> tuple[dict[str, Tensor], int]:
    """Of what learns, and bytes that the graph keeps beside the weights."""
    owned = {w.untyped_storage().data_ptr() for w in predictor.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    _, batch = packed(rng, family, [40, 55, 60, 33], predictor.kind)
    predictor.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = predictor.loss_sum(batch)
    bytes_kept = sum(kept.values())
    loss.backward()
    return {name: p.grad.clone() for name, p in predictor.named_parameters() if p.requires_grad}, bytes_kept


@pytest.mark.parametrize(("tuning", "depth"), DEPTHS, ids=lambda x: getattr(x, "name", x))
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_no_graph_is_built_below_what_learns(family: str, tuning: Tuning, depth: int, rng: np.random.Generator) -> None:
    backbone = predictor_of(family, tuning, "residue_classification").backbone
    _, batch = packed(rng, family, [7, 30])
    tracked = [state.requires_grad for state in backbone.states(batch)]
    if tuning.name == "full" or (tuning.name == "bias" and family == "bert"):  # BERT's embedding has a constant
        assert tracked == [True, True, True]
    else:
        assert tracked == [False] * (3 - depth) + [True] * depth


@pytest.mark.parametrize("tuning", [Full(), LoRA(**RANK), DoRA(**RANK), LastLayers(1), Bias()], ids=lambda t: t.name)
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_checkpointing_keeps_less_and_changes_no_gradient(family: str, tuning: Tuning) -> None:
    predictor = predictor_of(family, tuning, "residue_classification")
    usual, all_bytes = gradients(predictor, np.random.default_rng(0), family)
    predictor.backbone.checkpointing = True
    found, few_bytes = gradients(predictor, np.random.default_rng(0), family)
    assert found.keys() == usual.keys() and len(found) > 2
    for name, gradient in usual.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)
        assert gradient.abs().sum() > 0 or "lora_A" in name or "key.bias" in name, f"{name} has no gradient"
    assert few_bytes < (0.75 if tuning.name == "last_layers" else 0.5) * all_bytes


def test_checkpointing_draws_the_same_dropout_again() -> None:
    predictor = predictor_of("esm2", LoRA(**{**RANK, "dropout": 0.5}), "residue_classification").train()
    with torch.no_grad():
        for name, weights in predictor.named_parameters():
            if ".lora_B" in name:
                weights.normal_(std=0.1)
    torch.manual_seed(1)
    usual, _ = gradients(predictor, np.random.default_rng(0), "esm2")
    predictor.backbone.checkpointing = True
    torch.manual_seed(1)
    found, _ = gradients(predictor, np.random.default_rng(0), "esm2")
    for name, gradient in usual.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-6)


def test_nothing_is_checkpointed_without_a_graph(rng: np.random.Generator) -> None:
    predictor = predictor_of("esm2", Frozen(), "residue_classification")
    _, batch = packed(rng, "esm2", [5, 9], "residue_classification")
    usual = predictor.backbone(batch)
    predictor.backbone.checkpointing = True
    assert torch.equal(predictor.backbone(batch), usual)
    predictor.loss_sum(batch).backward()
    assert all(p.grad is not None for p in predictor.head.parameters())
