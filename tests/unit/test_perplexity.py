"""Perplexity against loops, and which residues are masked, together with which, in which pass."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from plmft import InputError
from plmft.data.task import DataPlace
from plmft.metrics.evaluate import SCORERS, evaluate
from plmft.metrics.perplexity import PERPLEXITY_NAMES, perplexity_interval, perplexity_metrics
from plmft.models.head_spec import Perplexity
from plmft.models.tokenizer import ESM, PROTBERT, Tokenizer
from plmft.models.zero_shot import LikelihoodReader, masked_log_likelihoods, residue_log_likelihoods
from plmft.tasks.perplexity import perplexity
from tests.conftest import random_sequence


class Uniform(nn.Module):
    """Every token of the vocabulary is equally likely; remembers what it was given."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self._vocabulary = vocabulary
        self.passes: list[list[list[int]]] = []

    def log_probabilities(self, batch, places: torch.Tensor) -> torch.Tensor:
        ends = batch.cu_seqlens.tolist()
        self.passes.append([batch.tokens[a:b].tolist() for a, b in itertools.pairwise(ends)])
        return torch.full((len(places), self._vocabulary), -np.log(self._vocabulary))


def reader(tokenizer: Tokenizer, context: int, budget: int) -> tuple[LikelihoodReader, Uniform]:
    model = Uniform(len(tokenizer.vocabulary))
    return LikelihoodReader(model, tokenizer, context, budget), model


tokenizers = st.sampled_from([ESM, PROTBERT])
lengths, contexts, budgets = st.integers(1, 45), st.integers(1, 30), st.integers(1, 90)


@given(tokenizers, lengths, contexts, budgets, st.integers(0, 99))
@settings(max_examples=60)
def test_pseudo_masks_each_residue_once_and_alone(
    tokenizer: Tokenizer, length: int, context: int, budget: int, seed: int
) -> None:
    """In its own window, with the special tokens around it, within the budget unless it is alone."""
    sequence = random_sequence(np.random.default_rng(seed), length)
    read, model = reader(tokenizer, context, budget)
    found = residue_log_likelihoods(read, sequence)
    np.testing.assert_allclose(found, -np.log(len(tokenizer.vocabulary)), rtol=1e-6)
    wanted = []
    for p in range(length):
        begin = max(0, min(p - context // 2, length - context))
        tokens = tokenizer.encode(sequence[begin : begin + context])
        tokens[p - begin + 1] = tokenizer.mask
        wanted.append(tuple(tokens.tolist()))
    given_ = [tuple(tokens) for batch in model.passes for tokens in batch]
    assert Counter(given_) == Counter(wanted)
    assert all(len(batch) == 1 or sum(map(len, batch)) <= budget for batch in model.passes)


@given(tokenizers, lengths, st.floats(0.01, 0.99), st.integers(0, 99))
@settings(max_examples=60)
def test_masked_masks_a_share_in_one_pass(tokenizer: Tokenizer, length: int, share: float, seed: int) -> None:
    """All that are scored are masks: none is kept, none is another residue."""
    sequence = random_sequence(np.random.default_rng(seed), length)
    read, model = reader(tokenizer, 60, 1000)
    found = masked_log_likelihoods(read, sequence, share, np.random.default_rng(seed))
    scored = ~np.isnan(found)
    assert scored.sum() == max(1, round(share * length))
    ((tokens,),) = model.passes
    wanted = tokenizer.encode(sequence)
    wanted[np.flatnonzero(scored) + 1] = tokenizer.mask
    assert tokens == wanted.tolist()


@given(st.integers(10, 60), st.integers(2, 12), st.integers(0, 99))
@settings(max_examples=40)
def test_masked_beyond_the_context_masks_all_of_a_window(length: int, context: int, seed: int) -> None:
    """No window shows a residue that is scored, in it or in another."""
    sequence = random_sequence(np.random.default_rng(seed), length)
    read, model = reader(ESM, context, 1000)
    scored = ~np.isnan(masked_log_likelihoods(read, sequence, 0.3, np.random.default_rng(seed)))
    whole = ESM.encode(sequence)[1:-1]
    whole[scored] = ESM.mask
    windows = {tuple(whole[b : b + context]) for b in range(length)}
    assert all(tuple(tokens[1:-1]) in windows for batch in model.passes for tokens in batch)


@given(st.text(st.sampled_from("ACXBZUOJ"), min_size=1, max_size=40), tokenizers, st.integers(0, 99))
@settings(max_examples=40)
def test_only_amino_acids_are_scored(sequence: str, tokenizer: Tokenizer, seed: int) -> None:
    """What X, B or U stands for is not known, or not to every model."""
    read, model = reader(tokenizer, 60, 1000)
    known = np.array([c in "AC" for c in sequence])
    np.testing.assert_array_equal(~np.isnan(residue_log_likelihoods(read, sequence)), known)
    assert sum(map(len, model.passes)) == known.sum()
    scored = ~np.isnan(masked_log_likelihoods(read, sequence, 0.5, np.random.default_rng(seed)))
    assert not (scored & ~known).any()
    assert scored.sum() == (max(1, round(0.5 * known.sum())) if known.any() else 0)


def test_other_seeds_mask_other_residues() -> None:
    read, _ = reader(ESM, 400, 1000)
    sequence = "MKTAYIAKQR" * 30
    draws = [~np.isnan(masked_log_likelihoods(read, sequence, 0.15, np.random.default_rng([s, 0]))) for s in range(200)]
    assert {d.sum() for d in draws} == {45}
    counts = np.sum(draws, axis=0)  # binomial: 30 of 200 at each position, standard deviation 5
    assert counts.min() > 5 and counts.max() < 60


def test_metrics_equal_a_loop(rng: np.random.Generator) -> None:
    proteins = [-rng.exponential(2, n) for n in (1, 30, 7)]
    proteins[1][::3] = np.nan
    scored = [[v for v in p if not np.isnan(v)] for p in proteins]
    every = [v for p in scored for v in p]
    found = perplexity_metrics(proteins, [None] * 3)
    assert found["perplexity"] == pytest.approx(np.exp(-sum(every) / len(every)))
    assert found["perplexity_per_protein"] == pytest.approx(np.mean([np.exp(-sum(p) / len(p)) for p in scored]))


def test_known_values() -> None:
    fair = [np.full(n, -np.log(20)) for n in (3, 50)]
    assert perplexity_metrics(fair, [None] * 2) == pytest.approx({"perplexity": 20, "perplexity_per_protein": 20})
    certain = [np.zeros(4), np.array([np.nan, 0.0])]
    assert perplexity_metrics(certain, [None] * 2) == {"perplexity": 1, "perplexity_per_protein": 1}
    long_and_short = [np.full(99, -np.log(4)), np.full(1, -np.log(400))]
    found = perplexity_metrics(long_and_short, [None] * 2)
    assert found == pytest.approx({"perplexity": 4 * 100**0.01, "perplexity_per_protein": 202})


@pytest.mark.parametrize("name", PERPLEXITY_NAMES)
def test_intervals_resample_proteins(rng: np.random.Generator, name: str) -> None:
    proteins = [-rng.exponential(2 + rng.random(), int(n)) for n in rng.integers(5, 60, 40)]
    value = perplexity_metrics(proteins, [None] * 40)[name]
    low, high = perplexity_interval(name, proteins, [None] * 40, (), 1)
    assert low < value < high
    draws, found = np.random.default_rng(1), []
    for _ in range(1000):
        chosen = [proteins[i] for i in draws.integers(0, 40, 40)]
        found.append(perplexity_metrics(chosen, [None] * 40)[name])
    assert (low, high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def test_proteins_without_an_amino_acid_are_left_out() -> None:
    nothing, some = np.full(3, np.nan), np.full(2, -np.log(5))
    assert perplexity_metrics([nothing, some], [None] * 2) == perplexity_metrics([some], [None])
    assert perplexity_metrics([nothing], [None]) == {}
    assert perplexity_interval("perplexity_per_protein", [nothing, some, some], [None] * 3, (), 0) == pytest.approx(
        (5, 5)
    )


def test_the_kind_is_scored_so() -> None:
    found = evaluate("masked_lm", [np.zeros(3)], [np.asarray(None)], seed=0, primary="perplexity")
    assert found == {"perplexity": 1, "perplexity_per_protein": 1}  # no interval of one protein
    assert SCORERS["masked_lm"].names == PERPLEXITY_NAMES


def test_the_task_reads_a_fasta(tmp_path: Path) -> None:
    file = tmp_path / "x.fasta"
    file.write_text(">a first\nMKT\nAY\n>b\nMK\n>a again\nMKT\n")
    task = perplexity(Perplexity("pseudo", 0.15), str(file))
    records = task.read(DataPlace(None, tmp_path)).records
    assert [(r.id, r.sequence) for r in records] == [("0:a", "MKTAY"), ("1:b", "MK"), ("2:a", "MKT")]
    assert {r.split for r in records} == {"test"} and task.needs == ("test",)
    assert records[1].where == f"{file}, line 4"
    with pytest.raises(InputError, match=r"task\.file=null: name a FASTA file"):
        perplexity(Perplexity("pseudo", 0.15), None).read(DataPlace(None, tmp_path))
