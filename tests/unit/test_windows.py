"""Long sequences in windows: each residue once, from where it stands deepest; short ones as ever (field note 5)."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.models.head_spec import ResidueHead
from plmft.models.predictor import Predictor
from plmft.models.windows import Windows, window_starts
from tests.conftest import random_sequence
from tests.unit.networks import TOKENIZERS, backbone

CONTEXT = 12


def batch_of(family: str, lengths: list[int], rng: np.random.Generator):
    made = [Record(f"r{i}", random_sequence(rng, n), np.zeros(n, int), "train") for i, n in enumerate(lengths)]
    return EncodedSplit(made, TOKENIZERS[family], "residue_classification").pack(np.arange(len(lengths)))


@given(st.integers(1, 500), st.integers(2, 60))
def test_windows_cover_everything_and_overlap_by_half(residues: int, context: int) -> None:
    starts = window_starts(residues, context)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert starts[-1] + min(context, residues) == residues
    assert all(later - earlier <= (context + 1) // 2 for earlier, later in itertools.pairwise(starts))


@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert"])
def test_a_sequence_that_fits_is_read_as_without_windows(family: str, rng: np.random.Generator) -> None:
    model = backbone(family).eval()
    batch = batch_of(family, [CONTEXT, 3, 2 * CONTEXT, 5], rng)
    found = Windows.of(CONTEXT, TOKENIZERS[family]).read(model, batch)
    short = batch.owner != 2
    torch.testing.assert_close(found[short], model(batch)[short], rtol=1e-5, atol=1e-5)
    assert found.shape == model(batch).shape


@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert"])
@pytest.mark.parametrize("length", [CONTEXT - 1, CONTEXT, CONTEXT + 1, 31, 60])
def test_each_residue_comes_from_the_window_in_which_it_stands_deepest(
    family: str, length: int, rng: np.random.Generator
) -> None:
    """Against a loop that reads each window as a sequence of its own; two windows may hold a residue equally deep."""
    model, tokenizer = backbone(family).eval(), TOKENIZERS[family]
    batch = batch_of(family, [length], rng)
    letters = [tokenizer.vocabulary[t] for t in batch.tokens[batch.is_residue]]
    candidates: list[list[tuple[float, torch.Tensor]]] = [[] for _ in letters]
    for start in window_starts(length, CONTEXT):
        inside = letters[start : start + CONTEXT]
        end = start + len(inside)
        record = Record("w", "".join(inside), np.zeros(len(inside), int), "train")
        alone = EncodedSplit([record], tokenizer, "residue_classification").pack(np.array([0]))
        for i, vector in zip(range(start, end), model(alone)[alone.is_residue], strict=True):
            left, right = (i - start if start else np.inf), (end - 1 - i if end < length else np.inf)
            candidates[i].append((min(left, right), vector))
    found = Windows.of(CONTEXT, tokenizer).read(model, batch)[batch.is_residue]
    for vector, options in zip(found, candidates, strict=True):
        deepest = max(depth for depth, _ in options)
        assert any(depth == deepest and torch.allclose(vector, other, rtol=1e-4, atol=1e-5) for depth, other in options)


def test_gradients_flow_through_windows(rng: np.random.Generator) -> None:
    model = backbone("esm2")
    predictor = Predictor(model, ResidueHead(0.0).build(32, 3, "residue_classification"), "residue_classification")
    predictor.windows = Windows.of(CONTEXT, TOKENIZERS["esm2"])
    predictor.loss_sum(batch_of("esm2", [40, 7], rng)).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "query.weight" in n
    )
    assert [len(p) for p in predictor.predict(batch_of("esm2", [40, 7], rng))] == [40, 7]
