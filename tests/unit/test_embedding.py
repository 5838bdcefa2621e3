"""Embedding: packed = one sequence at a time, in the order that was asked for, pooled or by residue."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.models.embedding import embed, embed_sequences
from plmft.models.tokenizer import Tokenizer
from plmft.models.weights import build
from plmft.models.windows import Windows
from tests.conftest import random_sequence
from tests.unit.networks import FAMILIES, TOKENIZERS, backbone, records
from tests.unit.small_models import small

LENGTHS = [7, 1, 40, 19, 40, 2]


def alone(model: torch.nn.Module, tokenizer: Tokenizer, sequence: str) -> np.ndarray:
    """(L, D) vectors of the residues of one sequence, in a batch of its own."""
    batch = EncodedSplit([Record("r", sequence, None, "test")], tokenizer, "masked_lm").pack(np.array([0]))
    with torch.no_grad():
        return model(batch)[batch.is_residue].numpy()


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "residues"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_one_at_a_time(family: str, pooled: bool, rng: np.random.Generator) -> None:
    made, model = records(rng, LENGTHS, "sequence_regression"), backbone(family)
    split = EncodedSplit(made, TOKENIZERS[family], "sequence_regression")
    seen: list[int] = []
    for numbers, vectors in embed(model, split, tokens_per_batch=50, pooled=pooled):
        for number, found in zip(numbers, vectors, strict=True):
            wanted = alone(model, TOKENIZERS[family], made[number].sequence)
            np.testing.assert_allclose(found, wanted.mean(0) if pooled else wanted, rtol=1e-4, atol=1e-5)
            seen.append(int(number))
    assert sorted(seen) == list(range(len(LENGTHS)))
    assert [LENGTHS[i] for i in seen] == sorted(LENGTHS, reverse=True)


def test_both_sequences_of_a_pair_are_given(rng: np.random.Generator) -> None:
    made, model = records(rng, LENGTHS, "pair_classification"), backbone("esm2")
    split = EncodedSplit(made, TOKENIZERS["esm2"], "pair_classification")
    for numbers, vectors in embed(model, split, tokens_per_batch=100, pooled=False):
        sequences = [sequence for number in numbers for sequence in made[number].sequences]
        for sequence, found in zip(sequences, vectors, strict=True):
            np.testing.assert_allclose(found, alone(model, TOKENIZERS["esm2"], sequence), rtol=1e-4, atol=1e-5)


def test_dropout_makes_no_noise(rng: np.random.Generator) -> None:
    model = backbone("esm2")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    split = EncodedSplit(records(rng, [9], "sequence_regression"), TOKENIZERS["esm2"], "sequence_regression")
    first, second = (next(embed(model.train(), split, tokens_per_batch=99, pooled=True))[1][0] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.fixture
def spec():
    return small("esm2")


@pytest.fixture
def model(spec):
    from plmft.models.backbone import EsmBackbone

    torch.manual_seed(0)
    return EsmBackbone(build(spec)).eval()


def test_sequences_come_back_in_their_order(spec, model, rng: np.random.Generator) -> None:
    sequences = [random_sequence(rng, n) for n in LENGTHS]
    residues = embed_sequences(spec, sequences, backbone=model, pooled=False, tokens_per_batch=45)
    means = embed_sequences(spec, sequences, backbone=model, tokens_per_batch=45)
    assert means.shape == (6, 32) and means.dtype == np.float32
    for sequence, found, mean in zip(sequences, residues, means, strict=True):
        wanted = alone(model, spec.tokenizer, sequence)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean, wanted.mean(0), rtol=1e-4, atol=1e-5)


def test_weights_are_found_as_a_run_finds_them(spec, rng: np.random.Generator) -> None:
    sequences, random = [random_sequence(rng, n) for n in LENGTHS], replace(spec, init="random")
    torch.manual_seed(3)
    first = embed_sequences(random, sequences)
    torch.manual_seed(3)
    assert np.array_equal(first, embed_sequences(random, sequences))
    assert not np.array_equal(first, embed_sequences(random, sequences))


def test_weights_in_bf16_give_the_vectors_of_bf16(spec, model, rng: np.random.Generator) -> None:
    sequences = [random_sequence(rng, n) for n in LENGTHS]
    exact = embed_sequences(spec, sequences, backbone=model)
    rounded = embed_sequences(spec, sequences, backbone=model, precision="bf16")
    assert 0 < np.abs(rounded - exact).max() < 0.02 * np.abs(exact).max()
    assert np.array_equal(embed_sequences(spec, sequences, backbone=model, precision="bf16_weights"), rounded)


def test_long_sequences_are_read_in_windows_or_refused(spec, model, rng: np.random.Generator) -> None:
    spec, sequences = replace(spec, context=12), [random_sequence(rng, n) for n in (30, 12, 5)]
    with pytest.raises(InputError, match=r"Sequence 0 has 30 residues; small takes 12\. Set windows=True"):
        embed_sequences(spec, sequences, backbone=model)
    found = embed_sequences(spec, sequences, backbone=model, pooled=False, windows=True)
    assert [len(vectors) for vectors in found] == [30, 12, 5]
    np.testing.assert_allclose(found[1], alone(model, spec.tokenizer, sequences[1]), rtol=1e-4, atol=1e-5)
    split = EncodedSplit([Record("r", sequences[0], None, "test")], spec.tokenizer, "masked_lm")
    batch = split.pack(np.array([0]))
    with torch.no_grad():
        wanted = Windows.of(12, spec.tokenizer).read(model, batch)[batch.is_residue]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sequences", "said"),
    [
        ("ACD", "Give a list of at least one sequence."),
        ([], "Give a list of at least one sequence."),
        (["ACD", ""], "Sequence 1 is ''. It must be a text of at least one residue."),
        (["ACd"], "Sequence 0 has 'd' at position 3, which is no amino acid."),
        (["A-C"], "Sequence 0 has '-' at position 2"),
    ],
)
def test_bad_input_is_told(spec, model, sequences: object, said: str) -> None:
    with pytest.raises(InputError) as told:
        embed_sequences(spec, sequences, backbone=model)
    assert said in str(told.value)
