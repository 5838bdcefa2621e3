"""Chosen layers: those of transformers and fair-esm, one forward pass for all, packed = one sequence at a time."""

import numpy as np
import pytest
import torch
from transformers import BertModel, EsmModel

from plmft import InputError
from plmft.embeddings.choices import resolve_layers
from plmft.embeddings.layers import ChosenLayers
from plmft.embeddings.vectors import Reader
from plmft.models.build import build_backbone
from plmft.models.tokenizer import ESM
from plmft.models.weights import locate
from plmft.models.windows import Windows
from tests.conftest import random_sequence
from tests.unit import test_model_fair_esm as fair_esm
from tests.unit.networks import TOKENIZERS, backbone

FAMILIES, LAYERS, LENGTHS = ("esm2", "esm1b", "bert"), (0, 1, 2, 3), (9, 1, 40, 17)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def reader(model: torch.nn.Module, layers: tuple[int, ...], family: str, pooling: str = "none", **options) -> Reader:
    options = {"windows": None, "device": "cpu", "precision": "fp32", "tokens_per_batch": 50} | options
    return Reader(ChosenLayers(model.eval(), layers), len(layers), TOKENIZERS[family], pooling, **options)


def hidden_states(model: torch.nn.Module, family: str, sequence: str) -> list[np.ndarray]:
    """(L, D) of each layer by transformers, special tokens left out."""
    kind = BertModel if family == "bert" else EsmModel
    plain = kind(model.network.config, add_pooling_layer=False).eval()
    plain.load_state_dict(model.network.state_dict(), strict=False)
    tokens = torch.from_numpy(TOKENIZERS[family].encode(sequence))[None]
    with torch.no_grad():
        states = plain(tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True).hidden_states
    return [state[0, 1:-1].numpy() for state in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_transformers_hidden_state(family: str, rng: np.random.Generator) -> None:
    model, sequence = backbone(family), random_sequence(rng, 23)
    (found,) = reader(model, LAYERS, family)([sequence])
    wanted = hidden_states(model, family, sequence)
    assert len(wanted) == len(LAYERS)
    for layer, states in enumerate(wanted):
        np.testing.assert_allclose(found[:, layer], states, **CLOSE)


@pytest.mark.parametrize("family", fair_esm.FAMILIES)
def test_every_layer_is_fair_esms(family: str, rng: np.random.Generator, tmp_path) -> None:
    theirs, sequence = fair_esm.fair(family), random_sequence(rng, 23)
    spec = fair_esm.small(family, fair_esm.checkpoint(theirs, tmp_path / "model.pt"))
    (found,) = reader(build_backbone(spec, locate(spec)), LAYERS, family)([sequence])
    tokens = torch.from_numpy(ESM.encode(sequence))[None]
    with torch.no_grad():
        states = theirs(tokens, repr_layers=list(LAYERS))["representations"]
    for layer in LAYERS:
        np.testing.assert_allclose(found[:, layer], states[layer][0, 1:-1].numpy(), **CLOSE)


@pytest.mark.parametrize("pooling", ["none", "mean", "max", "cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_one_at_a_time(family: str, pooling: str, rng: np.random.Generator) -> None:
    model, sequences = backbone(family), [random_sequence(rng, length) for length in LENGTHS]
    together = reader(model, (1, 3), family, pooling)(sequences)
    for sequence, found in zip(sequences, together, strict=True):
        (alone,) = reader(model, (1, 3), family, pooling)([sequence])
        assert found.shape == (len(sequence) if pooling == "none" else 1, 2, 32)
        np.testing.assert_allclose(found, alone, **CLOSE)


def test_pooling_is_over_residues_alone(rng: np.random.Generator) -> None:
    model, sequences = backbone("esm2"), [random_sequence(rng, length) for length in LENGTHS]
    residues = reader(model, (0, 2), "esm2")(sequences)
    for pooling, of in (("mean", np.mean), ("max", np.max)):
        for found, rows in zip(reader(model, (0, 2), "esm2", pooling)(sequences), residues, strict=True):
            np.testing.assert_allclose(found[0], of(rows, 0), **CLOSE)


def test_windows_work_on_every_layer(rng: np.random.Generator) -> None:
    model, sequence, windows = backbone("esm2"), random_sequence(rng, 30), Windows.of(20, ESM)
    (found,) = reader(model, (1, 3), "esm2", windows=windows)([sequence])
    for number, layer in enumerate((1, 3)):
        (wanted,) = reader(model, (layer,), "esm2", windows=windows)([sequence])
        np.testing.assert_allclose(found[:, number], wanted[:, 0], **CLOSE)
    (first,) = reader(model, (3,), "esm2")([sequence[:20]])
    np.testing.assert_allclose(found[:10, 1], first[:10, 0], **CLOSE)


def test_deeper_layers_are_not_computed(rng: np.random.Generator) -> None:
    model = backbone("esm2")
    model.network.encoder.layer[2].forward = None  # the third: a call would fail
    assert reader(model, (0, 2), "esm2")([random_sequence(rng, 5)])[0].shape == (5, 2, 32)


def test_values_that_are_not_finite_are_told(rng: np.random.Generator) -> None:
    model = backbone("esm2")
    with torch.no_grad():
        model.network.embeddings.word_embeddings.weight[ESM.vocabulary.index("W")] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity for WWA"):
        reader(model, (3,), "esm2")(["ACD", "WWA"])


@pytest.mark.parametrize(
    "layers, found", [((-1,), (6,)), ((6, 0), (0, 6)), ((-7,), (0,)), (3, (3,)), ((5, -6), (1, 5))]
)
def test_layers_by_number(layers, found) -> None:
    assert resolve_layers(layers, 6, "m") == found


@pytest.mark.parametrize("layers, told", [((7,), "no layer 7"), ((-8,), "no layer -8"), ((6, -1), "named twice")])
def test_layers_that_are_not_there(layers, told) -> None:
    with pytest.raises(InputError, match=told):
        resolve_layers(layers, 6, "m")


def test_a_model_without_layers_gives_its_last() -> None:
    assert resolve_layers((-1,), None, "cnn") == (-1,)
    with pytest.raises(InputError, match="no transformer"):
        resolve_layers((2,), None, "cnn")
