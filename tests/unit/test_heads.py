"""Heads see each sequence's residues, never a special token or a neighbour."""

import numpy as np
import pytest
import torch

from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.heads import attention_pool, max_pool, mean_pool
from plmft.models.predictor import Predictor
from tests.unit.networks import backbone, packed

LENGTHS = [1, 9, 4]
KIND, RESIDUES = "sequence_regression", "residue_classification"


def test_mean_pool_is_the_mean_of_the_residues(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    vectors = torch.randn(len(batch.tokens), 6)
    expected = [vectors[batch.owner == i][1:-1].mean(0) for i in range(3)]
    torch.testing.assert_close(mean_pool(vectors, batch), torch.stack(expected))


def test_max_pool_is_the_highest_of_the_residues(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    vectors = torch.randn(len(batch.tokens), 6)
    expected = [vectors[batch.owner == i][1:-1].amax(0) for i in range(3)]
    torch.testing.assert_close(max_pool(vectors, batch), torch.stack(expected))


def test_attention_pool_is_a_softmax_within_each_sequence(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    vectors, scores = torch.randn(len(batch.tokens), 6), 30 * torch.randn(len(batch.tokens))
    expected = []
    for i in range(3):
        inside = (batch.owner == i) & batch.is_residue
        expected.append(torch.softmax(scores[inside], 0) @ vectors[inside])
    torch.testing.assert_close(attention_pool(vectors, scores, batch), torch.stack(expected))
    torch.testing.assert_close(attention_pool(vectors, torch.zeros_like(scores), batch), mean_pool(vectors, batch))


@pytest.mark.parametrize("pooling", ["mean", "max", "attention", "cls"])
def test_a_sequence_head_ignores_what_it_should(pooling: str, rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    head = SequenceHead(pooling, normalize=False, hidden=8, dropout=0.0).build(6, 1, "sequence_regression")
    vectors = torch.randn(len(batch.tokens), 6)
    used = batch.is_residue if pooling != "cls" else batch.positions == 0
    other = torch.where(used[:, None], vectors, torch.randn_like(vectors))
    torch.testing.assert_close(head(vectors, batch), head(other, batch))
    assert head(vectors, batch).shape == (3, 1)


def test_residue_head_scores_every_token(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    scores = ResidueHead(0.0).build(6, 3, RESIDUES)(torch.randn(len(batch.tokens), 6), batch)
    assert scores.shape == (len(batch.tokens), 3)


def test_predictions_are_in_the_unit_of_the_data(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    model = backbone("esm2")
    predictor = Predictor(model, SequenceHead("mean", False, 8, 0.0).build(32, 1, KIND), KIND).eval()
    raw = np.array(predictor.predict(batch))
    predictor.fit_scale([3.0, 5.0])  # mean 4, deviation 1
    np.testing.assert_allclose(np.array(predictor.predict(batch)), raw + 4, rtol=1e-5)
    predictor.fit_scale([2.0, 2.0])
    np.testing.assert_allclose(np.array(predictor.predict(batch)), raw + 2, rtol=1e-5)


def test_residue_predictions_hold_residues_alone(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS, "residue_classification")
    predictor = Predictor(backbone("esm2"), ResidueHead(0.0).build(32, 3, RESIDUES), RESIDUES).eval()
    found = predictor.predict(batch)
    assert [len(f) for f in found] == LENGTHS
    scores = predictor(batch)
    assert (np.concatenate(found) == scores[batch.is_residue].softmax(-1).detach().numpy()).all()
