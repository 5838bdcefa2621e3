"""Adapters merged for inference predict what they predicted beside their weights; so with weights of four bits."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from plmft import InputError
from plmft.models.adapters import merge_adapters
from plmft.models.predictor import parameter_counts
from plmft.models.tuned import load
from plmft.models.tuning import DoRA, LoRA, QLoRA, Tuning, check_bitsandbytes, top_layers
from tests.unit.networks import packed
from tests.unit.tuned_models import predictor_of, saved, spec, train

RANK = {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": ("attention", "feedforward")}
# the 16 levels (Dettmers et al. 2023, appendix E)
NF4 = torch.tensor([-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0,
                    0.0795803, 0.1609302, 0.24611229, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0])  # fmt: skip
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="no bitsandbytes")
ADAPTERS = [LoRA(**RANK), DoRA(**RANK), LoRA(**RANK, layers=1), pytest.param(QLoRA(**RANK), marks=needs_bitsandbytes)]


@pytest.mark.parametrize("tuning", ADAPTERS, ids=lambda t: f"{t.name}-{t.layers}")
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_merged_predicts_what_unmerged_does(
    tmp_path: Path, family: str, tuning: Tuning, rng: np.random.Generator
) -> None:
    saved(tmp_path / "model", family, tuning, "residue_classification", rng)
    apart, merged = load(tmp_path / "model"), load(tmp_path / "model", merge=True)
    modules = list(merged.predictor.backbone.modules())
    assert not any(isinstance(module, LoraLayer) for module in modules)
    assert {type(module) for module in modules if isinstance(module, nn.Linear)} == {nn.Linear}
    _, batch = packed(rng, family, [7, 30, 1])
    with torch.no_grad():
        before, after = apart.predictor.backbone(batch), merged.predictor.backbone(batch)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert not torch.equal(after, predictor_of(family, tuning, "residue_classification").eval().backbone(batch))


def test_dora_is_its_formula(rng: np.random.Generator) -> None:
    """W' = m (W + sBA) / |W + sBA|, row by row (Liu et al. 2024), in float64."""
    predictor = predictor_of("esm2", DoRA(**RANK), "residue_classification")
    train(predictor, rng, "esm2", steps=3)
    layer = predictor.backbone.network.encoder.layer[1].intermediate.dense
    base, a, b = (
        w.detach().double() for w in (layer.base_layer.weight, layer.lora_A.default.weight, layer.lora_B.default.weight)
    )
    matrix = base + 8 / 2 * b @ a
    wanted = layer.lora_magnitude_vector.default.weight.detach()[:, None] * matrix / matrix.norm(dim=1, keepdim=True)
    merge_adapters(predictor.backbone.network)
    merged = predictor.backbone.network.encoder.layer[1].intermediate.dense
    torch.testing.assert_close(merged.weight.double(), wanted, rtol=1e-6, atol=1e-7)
    assert (wanted - base).abs().max() > 1e-3


def test_merging_a_model_without_adapters_is_loading_it(tmp_path: Path, rng: np.random.Generator) -> None:
    from plmft.models.tuning import Full

    saved(tmp_path / "model", "esm2", Full(), "sequence_regression", rng)
    sequences = ["MKVAC", "WWW"]
    assert load(tmp_path / "model", merge=True).predict(sequences) == load(tmp_path / "model").predict(sequences)


@needs_bitsandbytes
@pytest.mark.parametrize("shape", [(32, 32), (480, 480), (64, 96)])  # rows that are, and are not, whole blocks of 64
def test_four_bits_are_nf4(shape: tuple[int, int]) -> None:
    """Against the definition: in each block, the nearest of 16 levels times the largest magnitude."""
    from plmft.models.four_bits import PackedLinear

    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0])
    nn.init.normal_(linear.weight, std=0.02)
    packed_layer = PackedLinear(linear)
    blocks = linear.weight.detach().view(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / largest)[..., None] - NF4).abs().argmin(-1)
    torch.testing.assert_close(packed_layer.unpacked(torch.float32), (NF4[nearest] * largest).view(shape))
    assert packed_layer.weight.numel() * 2 == linear.weight.numel() and packed_layer.weight.dtype == torch.uint8
    x = torch.randn(5, shape[1], requires_grad=True)
    (packed_layer(x) ** 2).sum().backward()
    plain = x.detach().requires_grad_()
    (nn.functional.linear(plain, packed_layer.unpacked(torch.float32), linear.bias) ** 2).sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)
    again = nn.Linear(shape[1], shape[0])
    again.weight = nn.Parameter(packed_layer.unpacked(torch.float32))
    assert torch.equal(PackedLinear(again).weight, packed_layer.weight)
    assert torch.equal(PackedLinear(again).scales, packed_layer.scales)


@needs_bitsandbytes
def test_every_projection_is_held_in_four_bits_and_counted_in_full() -> None:
    from plmft.models.four_bits import PackedLinear

    predictor = predictor_of("esm2", QLoRA(**RANK), "residue_classification")
    assert sum(isinstance(module, PackedLinear) for module in predictor.modules()) == 2 * 6
    usual = predictor_of("esm2", LoRA(**RANK), "residue_classification")
    assert parameter_counts(predictor) == parameter_counts(usual)


def test_without_bitsandbytes_qlora_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tuning=qlora.*bitsandbytes.*pip install bitsandbytes"):
        check_bitsandbytes()
    with pytest.raises(InputError, match="tuning=qlora"):
        predictor_of("esm2", QLoRA(**RANK), "sequence_regression")


def test_more_layers_than_there_are_is_refused() -> None:
    assert list(top_layers(2, 6)) == [4, 5] and list(top_layers(6, 6)) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(InputError, match=r"tuning\.layers=3: the model has 2 layers"):
        predictor_of("esm2", LoRA(**RANK, layers=3), "sequence_regression")
    assert spec().layers == 2
