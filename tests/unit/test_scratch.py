"""Networks on one-hot residues: packed = padded = one at a time, in values and gradients; sizes and FLOPs are exact."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.efficiency.flops import conv_forward_flops
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.scratch import OneHotBiLstm, OneHotResNet, PackedConv
from plmft.models.spec import OneHotBiLstmSpec, OneHotResNetSpec
from plmft.models.tokenizer import ONEHOT
from plmft.models.tuned import Description, Tuned, load, save
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.training.run_flops import backbone_flops
from tests.unit.networks import records

LENGTHS = [7, 1, 30, 2, 12]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SHAPES = {"resnet": (3, 1), "resnet dilated": (5, 3), "resnet even": (4, 2)}
NETWORKS = [*SHAPES, "bilstm"]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "bilstm":
        return OneHotBiLstm(21, hidden=8, layers=2)
    kernel, dilation = SHAPES[name]
    made = OneHotResNet(21, 16, kernel, 2, dilation)
    with torch.no_grad():
        for weights in made.parameters():  # norms and biases too, which begin as 1 and 0
            weights.add_(0.3 * torch.randn_like(weights))
    return made


def packed(rng: np.random.Generator, lengths: list[int]) -> tuple[EncodedSplit, PackedBatch]:
    split = EncodedSplit(records(rng, lengths, "sequence_regression"), ONEHOT, "sequence_regression")
    return split, split.pack(np.arange(len(lengths)))


def padded_resnet(model: OneHotResNet, tokens: Tensor, mask: Tensor) -> Tensor:
    """The same network over a rectangle, whose padding is zeroed before each convolution."""
    hidden = model.embedding(F.one_hot(tokens, 21).float())
    for block in model.blocks:
        inner = hidden
        for norm, convolution in zip(block.norms, block.convolutions, strict=True):
            zeroed = (F.gelu(norm(inner)) * mask[..., None]).transpose(1, 2)
            options = {"dilation": convolution.dilation, "padding": "same"}
            inner = F.conv1d(zeroed, convolution.weight, **options).transpose(1, 2)
        hidden = hidden + inner
    return model.norm(hidden)


def padded_lstm(model: OneHotBiLstm, tokens: Tensor, mask: Tensor) -> Tensor:
    """The same cells, one residue after the other, by the equations of the LSTM; the mask holds the state."""
    hidden = F.one_hot(tokens, 21).float()
    for layer in range(model.lstm.num_layers):
        directions = [one_direction(model.lstm, hidden, mask, layer, backward) for backward in (False, True)]
        hidden = torch.cat(directions, dim=-1)
    return hidden


def one_direction(lstm: nn.LSTM, inputs: Tensor, mask: Tensor, layer: int, backward: bool) -> Tensor:
    suffix = f"l{layer}_reverse" if backward else f"l{layer}"
    weights = {name: getattr(lstm, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    state = cell = torch.zeros(len(inputs), lstm.hidden_size)
    found = [torch.zeros(0)] * inputs.shape[1]
    steps = range(inputs.shape[1])
    for t in reversed(steps) if backward else steps:
        gates = inputs[:, t] @ weights["weight_ih"].T + weights["bias_ih"]
        gates = gates + state @ weights["weight_hh"].T + weights["bias_hh"]
        enter, forget, candidate, leave = gates.chunk(4, dim=1)
        moved = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        here = mask[:, t, None]
        cell = torch.where(here, moved, cell)
        state = torch.where(here, leave.sigmoid() * moved.tanh(), state)
        found[t] = state
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_equals_padded(name: str, rng: np.random.Generator) -> None:
    model, (_, batch) = network(name), packed(rng, LENGTHS)
    tokens, mask = batch.padded()
    by_rectangle = padded_lstm if name == "bilstm" else padded_resnet
    found = model(batch)
    assert found.shape == (sum(LENGTHS), model.width)
    torch.testing.assert_close(found, by_rectangle(model, tokens, mask)[mask], **CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_packed_equals_one_at_a_time_forward_and_gradients(name: str, rng: np.random.Generator) -> None:
    model, (split, batch) = network(name), packed(rng, LENGTHS)
    together = model(batch)
    direction = torch.randn_like(together)
    (together * direction).mean().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}  # raises where one got none
    model.zero_grad()
    alone = torch.cat([model(split.pack(np.array([i]))) for i in range(len(LENGTHS))])
    torch.testing.assert_close(together, alone, **CLOSE)
    (alone * direction).mean().backward()
    for n, gradient in gradients.items():
        assert gradient.any(), n
        torch.testing.assert_close(model.get_parameter(n).grad, gradient, **CLOSE, msg=n)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_sequence_sees_another(name: str, rng: np.random.Generator) -> None:
    """To the last bit: another neighbour of the same length changes nothing."""
    model = network(name)
    made = records(rng, [9, 14, 9], "sequence_regression")
    split = EncodedSplit(made, ONEHOT, "sequence_regression")
    first, second = (model(split.pack(np.array([i, 1])))[9:] for i in (0, 2))
    assert torch.equal(first, second)


def test_a_convolution_reaches_as_far_as_its_kernel() -> None:
    convolution = PackedConv(1, 1, kernel=3, dilation=2)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[[1.0, 10.0, 100.0]]]))
    records_ = records(np.random.default_rng(0), [4, 2], "sequence_regression")
    batch = EncodedSplit(records_, ONEHOT, "sequence_regression").pack(np.arange(2))
    found = convolution(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]]), batch)
    assert found[:, 0].tolist() == [310, 420, 31, 42, 50, 60]


SPECS = [
    OneHotResNetSpec("r", 16, 5, 2, 2, 21 * 16 + 16 + 4 * (16 * 16 * 5 + 32) + 32, "", ""),
    OneHotBiLstmSpec("b", 8, 2, 2 * (32 * (21 + 8) + 64) + 2 * (32 * (16 + 8) + 64), "", ""),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.family)
def test_flops_are_twice_the_weights_that_a_residue_meets(spec: OneHotResNetSpec) -> None:
    model = spec.build()
    assert sum(p.numel() for p in model.parameters()) == spec.parameters
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1)
    assert conv_forward_flops(spec.products, 100) == 2 * 100 * matrices == backbone_flops(spec, [60, 40])


@pytest.mark.parametrize("kind", ["sequence_regression", "residue_classification"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.family)
def test_a_saved_model_predicts_the_same(
    tmp_path: Path, spec: OneHotResNetSpec, kind: str, rng: np.random.Generator
) -> None:
    torch.manual_seed(0)
    regression = kind == "sequence_regression"
    head = SequenceHead("mean", True, 8, 0.0) if regression else ResidueHead(0.0)
    predictor = build_predictor(
        spec, Located("random"), tuning=Full(), head=head, kind=kind, outputs=1 if regression else 3
    )
    split = EncodedSplit(records(rng, LENGTHS, kind), ONEHOT, kind)
    optimizer = torch.optim.Adam(predictor.parameters(), 0.01)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = predictor.loss_sum(split.pack(np.arange(len(LENGTHS))))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    description = Description(spec, Full(), head, "demo", kind, () if regression else ("H", "E", "C"), "")
    save(predictor, description, Located("random"), tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.description.spec == spec
    sequences = ["MKV", "A", "W" * 60, "ACDEFGHIKLMNPQRSTVWYXUZOB", "M" * 300]
    made = [again.record(i, s) for i, s in enumerate(sequences)]
    expected = Tuned(predictor.eval(), description).predict_records(made, 100)
    for mine, other in zip(again.predict_records(made, 100), expected, strict=True):
        np.testing.assert_array_equal(mine, other)
