"""Packed = padded = one at a time, forward and gradients, layer by layer, for every family (field notes 4, 15-17)."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.data.packing import EncodedSplit, PackedBatch, cut
from plmft.data.sampler import EvaluationBatches, TrainingSteps, step_index
from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from tests.unit.networks import CONTEXT, FAMILIES, TOKENIZERS, backbone, packed, records

LENGTHS = [1, CONTEXT, 7, 7, 33, 2]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
OUTPUTS = {
    "sequence_regression": 1,
    "sequence_classification": 3,
    "sequence_multilabel": 3,
    "residue_classification": 3,
    "pair_classification": 3,
}


def padded_states(model: torch.nn.Module, batch: PackedBatch, family: str) -> list[torch.Tensor]:
    """The Hugging Face forward pass over a rectangle, real tokens only, all layers."""
    tokens, mask = batch.padded(TOKENIZERS[family].pad)
    out = model.network(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True)
    return [*(state[mask] for state in out.hidden_states[:-1]), out.last_hidden_state[mask]]


@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert"])
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_packed_equals_padded_at_every_layer(family: str, masked: bool, rng: np.random.Generator) -> None:
    model = backbone(family).eval()
    if family == "esm2":  # published ESM-2 holds rounded frequencies, which must be the ones in use
        rotary = model.network.rotary_embeddings
        rotary.inv_freq = (rotary.inv_freq * 1.03).half().float()
    _, batch = packed(rng, family, LENGTHS)
    if masked:
        batch.tokens[5], batch.tokens[9] = TOKENIZERS[family].mask, TOKENIZERS[family].mask
    ours, theirs = list(model.states(batch)), padded_states(model, batch, family)
    for layer, (mine, other) in enumerate(zip(ours[:-1], theirs[:-1], strict=True)):
        torch.testing.assert_close(mine, other, **CLOSE, msg=f"layer {layer}")
    torch.testing.assert_close(model(batch), theirs[-1], **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_one_at_a_time_forward_and_gradients(family: str, rng: np.random.Generator) -> None:
    model = backbone(family)
    split, batch = packed(rng, family, LENGTHS)
    together = model(batch)
    direction = torch.randn_like(together)
    (together * direction).mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = [model(split.pack(np.array([i]))) for i in range(len(LENGTHS))]
    torch.testing.assert_close(together, torch.cat(alone), **CLOSE)
    (torch.cat(alone) * direction).mean().backward()
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, **CLOSE, msg=name)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_loss_does_not_depend_on_the_token_budget(kind: str, normalize: bool, rng: np.random.Generator) -> None:
    lengths = [5, 40, 12, 33, 1, 60, 8]
    split, _ = packed(rng, "esm2", lengths, kind)
    head = ResidueHead(0.0) if kind == "residue_classification" else SequenceHead("attention", normalize, 16, 0.0)
    predictor = Predictor(backbone("esm2"), head.build(32, OUTPUTS[kind], kind), kind)
    predictor.class_weights = torch.tensor([0.5, 2.0, 1.5]) if OUTPUTS[kind] == 3 else None
    losses, gradients = [], []
    for budget in (1, 64, 10_000):
        step = split.step(np.arange(len(lengths)), budget)
        predictor.zero_grad()
        losses.append(predictor.backward_step(step, torch.Tensor.backward))
        gradients.append(torch.cat([p.grad.flatten() for p in predictor.parameters() if p.grad is not None]))
    assert len(split.step(np.arange(7), 1).micro) == 7
    torch.testing.assert_close(losses[0], losses[1], **CLOSE)
    torch.testing.assert_close(losses[0], losses[2], **CLOSE)
    torch.testing.assert_close(gradients[0], gradients[2], **CLOSE)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_predictions_do_not_depend_on_the_token_budget(kind: str, rng: np.random.Generator) -> None:
    split, _ = packed(rng, "esm2", LENGTHS, kind)
    head = ResidueHead(0.0) if kind == "residue_classification" else SequenceHead("mean", True, 16, 0.0)
    predictor = Predictor(backbone("esm2"), head.build(32, OUTPUTS[kind], kind), kind).eval()
    found = {}
    for budget in (1, 10_000):
        batches = EvaluationBatches(split, budget)
        found[budget] = {}
        for batch in (batches[i] for i in range(len(batches))):
            found[budget].update(zip(batch.index.tolist(), predictor.predict(batch), strict=True))
    for i, length in enumerate(LENGTHS):
        np.testing.assert_allclose(found[1][i], found[10_000][i], rtol=1e-4, atol=1e-5)
        if kind in ("sequence_classification", "pair_classification", "residue_classification"):
            np.testing.assert_allclose(found[1][i].sum(-1), 1, rtol=1e-5)
        assert np.shape(found[1][i]) == {1: (), 3: (3,)}[OUTPUTS[kind]] or np.shape(found[1][i]) == (length, 3)


def test_a_pair_is_scored_the_same_either_way_round(rng: np.random.Generator) -> None:
    made = records(rng, [9, 30], "pair_classification")
    turned = [replace(r, sequence=r.partner, partner=r.sequence) for r in made]
    predictor = Predictor(
        backbone("esm2"),
        SequenceHead("mean", False, 16, 0.0).build(32, 3, "pair_classification"),
        "pair_classification",
    ).eval()
    one, other = (
        predictor.predict(EncodedSplit(side, TOKENIZERS["esm2"], "pair_classification").pack(np.arange(2)))
        for side in (made, turned)
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_targets_stay_with_their_sequences(rng: np.random.Generator) -> None:
    """Field note 1: labels are carried, whatever the order. Each residue's label tells its own letter."""
    letters = {c: i for i, c in enumerate("ACDEFGHIKLMNPQRSTVWY")}
    made = records(rng, [3, 50, 11, 27, 11], "residue_classification")
    tagged = [type(r)(r.id, r.sequence, np.array([letters[c] for c in r.sequence]), r.split, r.where) for r in made]
    split = EncodedSplit(tagged, TOKENIZERS["esm2"], "residue_classification")
    vocabulary = TOKENIZERS["esm2"].vocabulary
    for index in (np.array([3, 0, 4]), np.array([1, 2])):
        batch = split.pack(index)
        at = batch.is_residue
        assert [letters[vocabulary[t]] for t in batch.tokens[at]] == batch.targets[at].tolist()
        assert (batch.targets[~at] == -100).all()
        assert batch.residues == sum(len(made[i].sequence) for i in index)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 120))
def test_cut_keeps_order_and_budget(lengths: list[int], budget: int) -> None:
    parts = list(cut(np.array(lengths), budget))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in parts:
        held = lengths[part]
        assert sum(held) <= budget or len(held) == 1
    for first, second in itertools.pairwise(parts):
        assert sum(lengths[first]) + lengths[second.start] > budget


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 33), st.integers(0, 5))
def test_every_record_once_an_epoch(n: int, batch_size: int, epoch: int) -> None:
    steps = -(-n // batch_size)
    seen = np.concatenate([step_index(n, batch_size, 7, epoch, k) for k in range(steps)])
    assert sorted(seen) == list(range(n))


def test_order_is_a_function_of_seed_and_epoch(rng: np.random.Generator) -> None:
    assert (step_index(100, 10, 0, 0, 3) == step_index(100, 10, 0, 0, 3)).all()
    assert (step_index(100, 10, 0, 0, 3) != step_index(100, 10, 0, 1, 3)).any()
    assert (step_index(100, 10, 0, 0, 3) != step_index(100, 10, 1, 0, 3)).any()
    split, _ = packed(rng, "esm2", [4] * 25)
    steps = TrainingSteps(split, batch_size=10, tokens_per_batch=12, seed=0)
    step = steps[(0, 2)]
    assert len(steps) == 3 and step.targets == 5
    assert torch.cat([m.index for m in step.micro]).tolist() == step_index(25, 10, 0, 0, 2).tolist()


def test_evaluation_sees_each_record_once_longest_first(rng: np.random.Generator) -> None:
    split, _ = packed(rng, "esm2", [4, 30, 11, 4, 25, 60])
    batches = EvaluationBatches(split, 40)
    index = [int(i) for k in range(len(batches)) for i in batches[k].index]
    assert sorted(index) == list(range(6))
    assert index[0] == 5


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_bf16_autocast_stays_near_fp32(dtype: torch.dtype, rng: np.random.Generator) -> None:
    """Rotary angles stay in float32; what is left is rounding: bf16 keeps 8 bits, so a few per mille a layer."""
    model = backbone("esm2").eval()
    _, batch = packed(rng, "esm2", [CONTEXT, 9])
    with torch.no_grad():
        exact = model(batch)
        with torch.autocast("cpu", dtype):
            rough = model(batch)
    assert ((rough.float() - exact).norm() / exact.norm()) < 0.02
