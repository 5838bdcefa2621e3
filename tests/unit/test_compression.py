"""What each variant does to a model, and what it leaves as it was."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from plmft import InputError
from plmft.bench import compress_cell, compress_int8, compress_prune
from plmft.bench.compress_variants import VARIANTS, Given, state_bytes, variant
from plmft.bench.compression import ALL
from plmft.models.predictor import Predictor
from plmft.models.tuning import Frozen
from tests.unit.networks import backbone, packed
from tests.unit.tuned_models import HEADS, saved

LENGTHS = [20, 41, 12, 33]
KIND = "residue_classification"


@pytest.fixture
def predictor():
    body = backbone("esm2")
    torch.manual_seed(1)
    return Predictor(body, HEADS[KIND].build(body.width, 3, KIND), KIND).eval().requires_grad_(False)


@pytest.fixture
def batch(rng):
    return packed(rng, "esm2", LENGTHS, KIND)[1]


def scores(predictor, batch):
    with torch.inference_mode():
        return predictor(batch).float()


def given_of(predictor, batch, tmp_path):
    class Tuned:
        pass

    tuned = Tuned()
    tuned.predictor = predictor
    return Given(tmp_path, tuned, [batch], tmp_path, 1)


def layers(predictor):
    return predictor.backbone.network.encoder.layer


@pytest.mark.parametrize(
    ("name", "least", "disk"),
    [("bf16", 0.999, 0.62), ("fp16", 0.9999, 0.62), ("int8_dynamic", 0.99, 0.75), ("int8_static", 0.99, 0.55)],
)
def test_fewer_bits_are_close_and_smaller(name, least, disk, predictor, batch, tmp_path):
    wanted, size = np.concatenate(predictor.predict(batch)), state_bytes(predictor)
    found = VARIANTS[name].make(given_of(predictor, batch, tmp_path))
    predicted = np.concatenate(found.predict(batch))
    assert found.disk_bytes < disk * size
    assert least < np.corrcoef(predicted.ravel(), wanted.ravel())[0, 1] < 1


def test_four_bits_are_close_and_smallest(predictor, batch, tmp_path):
    pytest.importorskip("torchao")
    wanted, size = np.concatenate(predictor.predict(batch)), state_bytes(predictor)
    found = VARIANTS["int4"].make(given_of(predictor, batch, tmp_path))
    assert found.disk_bytes < 0.45 * size
    assert 0.9 < np.corrcoef(np.concatenate(found.predict(batch)).ravel(), wanted.ravel())[0, 1] < 1


def test_a_static_scale_clips_what_calibration_never_saw():
    linear = nn.Linear(16, 8)
    inside = torch.rand(5, 16) * 2 - 1
    static = compress_int8.StaticLinear(linear, -1.0, 1.0)
    with torch.inference_mode():
        torch.testing.assert_close(static(inside), linear(inside), atol=0.03, rtol=0.03)
        torch.testing.assert_close(static(inside * 50), static((inside * 50).clamp(-1, 1)), atol=1e-5, rtol=1e-5)


def test_calibration_finds_the_range_of_each_layer(predictor, batch):
    found = list(compress_int8.encoder_layers(predictor))
    ranges = compress_int8._ranges(predictor, found, [batch])
    hidden = layers(predictor)[0].attention.LayerNorm(next(iter(predictor.backbone.states(batch))))
    first = next(i for i, (_, child, _) in enumerate(found) if child == "query")
    assert ranges[first] == pytest.approx((float(hidden.min()), float(hidden.max())), rel=1e-5)
    assert all(type(linear) is nn.Linear for _, _, linear in found)


def test_half_of_the_weights_are_zero_and_they_are_the_smaller_half(predictor):
    before = [linear.weight.clone() for _, _, linear in compress_int8.encoder_layers(predictor)]
    compress_prune.magnitude(predictor)
    for (_, _, linear), old in zip(compress_int8.encoder_layers(predictor), before, strict=True):
        gone = linear.weight == 0
        assert int(gone.sum()) == old.numel() // 2
        assert old[gone].abs().max() <= old[~gone].abs().min()


def test_two_of_four_are_zero_and_they_are_the_smaller_two(predictor):
    before = [linear.weight.clone() for _, _, linear in compress_int8.encoder_layers(predictor)]
    compress_prune.two_of_four(predictor)
    for (_, _, linear), old in zip(compress_int8.encoder_layers(predictor), before, strict=True):
        new, old = linear.weight.view(-1, 4), old.view(-1, 4)
        assert ((new == 0).sum(1) == 2).all()
        torch.testing.assert_close(new, torch.where(new == 0, 0.0, old))
        assert (old.abs().masked_fill(new != 0, 0).amax(1) <= old.abs().masked_fill(new == 0, 9).amin(1)).all()


def test_the_head_that_reaches_nothing_goes_first_and_changes_nothing(predictor, batch):
    dense = layers(predictor)[1].attention.output.dense
    dense.weight[:, 16:24] = 0.0  # the third head of four
    wanted = scores(predictor, batch)
    compress_prune.heads(predictor, [batch], share=1 / 12)
    assert [layer.attention.self.num_attention_heads for layer in layers(predictor)] == [4, 3, 4]
    assert dense.weight.shape == (32, 24)
    torch.testing.assert_close(scores(predictor, batch), wanted, rtol=1e-5, atol=1e-5)
    assert not any(weights.requires_grad for weights in predictor.parameters())


def test_each_layer_keeps_a_head(predictor, batch):
    compress_prune.heads(predictor, [batch], share=1.0)
    assert [layer.attention.self.num_attention_heads for layer in layers(predictor)] == [1, 1, 1]
    assert scores(predictor, batch).isfinite().all()


def test_the_importance_of_a_head_is_the_derivative_by_its_gate(predictor, batch):
    found = compress_prune._head_importance(predictor, list(layers(predictor)), [batch])
    dense, step = layers(predictor)[0].attention.output.dense, 1e-2
    losses = []
    for gate in (1 + step, (1 - step) / (1 + step)):
        dense.weight[:, 8:16] *= gate
        with torch.no_grad():
            losses.append(float(predictor.loss_sum(batch)))
    assert float(found[0][1]) == pytest.approx(abs(losses[0] - losses[1]) / (2 * step), rel=0.02)


def test_the_layer_that_does_nothing_goes_first(predictor, batch):
    for dense in (layers(predictor)[1].attention.output.dense, layers(predictor)[1].output.dense):
        dense.weight.zero_()
        dense.bias.zero_()
    wanted = scores(predictor, batch)
    compress_prune.layers_dropped(predictor, [batch])
    assert len(layers(predictor)) == 2
    torch.testing.assert_close(scores(predictor, batch), wanted, rtol=1e-5, atol=1e-5)


def test_what_is_no_transformer_is_told(rng, tmp_path):
    body = backbone("onehot_cnn")
    predictor = Predictor(body, HEADS[KIND].build(body.width, 3, KIND), KIND).eval()
    for name in ("int8_dynamic", "prune_50", "heads_75", "layers_75"):
        with pytest.raises(InputError, match="OneHotCnn is no transformer"):
            VARIANTS[name].make(given_of(predictor, packed(rng, "onehot_cnn", LENGTHS, KIND)[1], tmp_path))


@pytest.mark.parametrize("name", ["int8_static", "heads_75", "layers_75", "ort_int8_static"])
def test_nothing_to_choose_by_is_told(name, predictor, batch, tmp_path):
    without = dataclasses.replace(given_of(predictor, batch, tmp_path), calibration=[])
    with pytest.raises(InputError, match="neither validation nor training records"):
        VARIANTS[name].make(without)


def test_a_labs_own_function(predictor, batch, tmp_path, monkeypatch):
    (tmp_path / "mylab.py").write_text("def without_bias(p):\n    p.head.linear.bias.data.zero_()\n    return p\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    predictor.head.linear.bias += 1.0
    found = variant("mylab.without_bias").make(given_of(predictor, batch, tmp_path))
    assert predictor.head.linear.bias.eq(0).all()
    assert len(found.predict(batch)) == len(LENGTHS)
    sys.modules.pop("mylab")


def test_what_a_run_held_in_bfloat16_is_compressed_from_float32(tmp_path, rng):
    saved(tmp_path / "m", "esm2", Frozen(), KIND, rng, precision="bf16_weights")
    tuned = compress_cell._loaded(SimpleNamespace(model=tmp_path / "m", windowed=False), "cpu")
    assert {weights.dtype for weights in tuned.predictor.parameters()} == {torch.float32}


def test_an_unknown_variant_is_refused_by_name():
    with pytest.raises(InputError, match=r"no 'int9'.*int8_dynamic"):
        variant("int9")
    with pytest.raises(InputError, match=r"mylab\.nothing can't be imported"):
        variant("mylab.nothing")


def test_the_protocol_measures_all_of_the_table():
    assert tuple(VARIANTS) == ALL
