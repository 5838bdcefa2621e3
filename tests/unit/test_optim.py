"""The learning rate of each weight by its depth, and what decays."""

import pytest
import torch

from plmft.models.tuning import Full, LastLayers, LoRA, Tuning
from plmft.training.optim import Optim, steps_below_head
from tests.unit.tuned_models import predictor_of


def optim(layer_decay: float) -> Optim:
    return Optim(0.1, 1, None, 0.5, 0.0, "constant", 1.0, None, layer_decay)


def rates(family: str, tuning: Tuning, layer_decay: float) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by name; each weight that learns is in one group."""
    predictor = predictor_of(family, tuning, "residue_classification")
    optimizer, _ = optim(layer_decay).build(predictor, 10)
    of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    learning = [p for p in predictor.parameters() if p.requires_grad]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(of) == len(learning)
    return {name: of[id(p)] for name, p in predictor.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("head.out.weight", 0),
        ("backbone.network.encoder.emb_layer_norm_after.weight", 0),
        ("backbone.network.encoder.layer.5.output.dense.weight", 1),
        ("backbone.network.encoder.layer.0.attention.self.query.lora_A.default.weight", 6),
        ("backbone.network.embeddings.word_embeddings.weight", 7),
        ("backbone.network.embeddings.LayerNorm.bias", 7),
    ],
)
def test_depth_is_read_from_the_name(name: str, steps: int) -> None:
    assert steps_below_head([name, "backbone.network.encoder.layer.5.LayerNorm.weight"])[name] == steps


@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert"])
def test_rates_fall_from_layer_to_layer(family: str) -> None:
    """Two layers: the head learns at lr, the embedding at lr · decay³."""
    found = rates(family, Full(), 0.5)
    for name, (rate, decay) in found.items():
        below = 3 if "embeddings" in name else 2 if ".layer.0." in name else 1 if ".layer.1." in name else 0
        assert rate == pytest.approx(0.1 * 0.5**below), name
        one_dimensional = name.endswith("bias") or "norm" in name.lower()
        assert decay == (0.0 if one_dimensional else 0.5), name


def test_one_is_off_and_keeps_the_two_groups_of_before() -> None:
    predictor = predictor_of("esm2", Full(), "residue_classification")
    optimizer, _ = optim(1.0).build(predictor, 10)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.5), (0.1, 0.0)]


@pytest.mark.parametrize("tuning", [LoRA(2, 4, 0.0, ("attention",)), LastLayers(1)], ids=lambda t: t.name)
def test_depth_counts_the_layers_that_do_not_learn(tuning: Tuning) -> None:
    found = rates("esm2", tuning, 0.5)
    assert {rate for name, (rate, _) in found.items() if ".layer.1." in name} == {0.05}
    if tuning.name == "lora":
        assert {rate for name, (rate, _) in found.items() if ".layer.0." in name} == {0.025}


def test_the_schedule_scales_every_rate_alike() -> None:
    predictor = predictor_of("esm2", Full(), "residue_classification")
    optimizer, schedule = Optim(0.1, 1, None, 0.0, 0.0, "linear", 1.0, None, 0.5).build(predictor, 10)
    before = [group["lr"] for group in optimizer.param_groups]
    for parameter in predictor.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.9 * rate for rate in before])
