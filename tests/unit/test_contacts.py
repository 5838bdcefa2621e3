"""Contacts: which pairs count, precision against a slow reference, the pair head in blocks, attention maps."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.contacts import count_pairs, in_contact, known_pairs, read_contacts, read_structure_list
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.metrics.contacts import CONTACT_NAMES, contact_interval, contact_metrics, precisions, separation_baseline
from plmft.models import pair_head
from plmft.models.attention_regression import attention_maps, corrected, fit_contact_regression
from plmft.models.head_spec import PairHead
from plmft.models.predictor import Predictor
from tests.conftest import random_sequence
from tests.unit.networks import TOKENIZERS, backbone


def chain(rng: np.random.Generator, length: int, missing: int = 0) -> np.ndarray:
    """A random walk in steps of 3.8 Å."""
    steps = rng.normal(size=(length, 3))
    cb = (3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True)).cumsum(0).astype(np.float32)
    cb[rng.permutation(length)[:missing]] = np.nan
    return cb


def slow_precision(scores: np.ndarray, cb: np.ndarray, low: int, high: float, part: int) -> float | None:
    """By the definition, with loops; no two scores are equal."""
    pairs = []
    for i in range(len(cb)):
        for j in range(i + 1, len(cb)):
            distance = float(np.sqrt(((cb[i] - cb[j]) ** 2).sum()))
            if low <= j - i <= high and not np.isnan(distance):
                pairs.append((scores[i, j], distance < 8.0))
    best = sorted(pairs, reverse=True)[: len(cb) // part]
    return sum(hit for _, hit in best) / len(best) if best else None


RANGES = {"": (6, np.inf), "_short": (6, 11), "_medium": (12, 23), "_long": (24, np.inf)}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(7, 60), min_size=1, max_size=4))
def test_precision_equals_the_definition(seed: int, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    measured = [chain(rng, n, missing=n // 8) for n in lengths]
    predicted = [rng.random((n, n)) for n in lengths]
    for name, column in zip(CONTACT_NAMES, precisions(predicted, measured).T, strict=True):
        part, _, suffix = name.removeprefix("precision_at_").partition("_")
        for value, scores, cb in zip(column, predicted, measured, strict=True):
            expected = slow_precision(scores, cb, *RANGES[f"_{suffix}" if suffix else ""], int(part[1:] or 1))
            assert np.isnan(value) if expected is None else value == pytest.approx(expected)


def test_a_perfect_and_a_constant_predictor(rng: np.random.Generator) -> None:
    cb = chain(rng, 90)
    first, second = known_pairs(cb)
    hits = in_contact(cb, first, second)
    scores = np.zeros((90, 90))
    scores[first, second] = hits
    perfect = contact_metrics([scores], [cb])
    assert perfect["precision_at_l"] == pytest.approx(min(1, hits.sum() / 90))
    constant = contact_metrics([np.ones((90, 90))], [cb])  # ties share: no better than chance
    assert constant["precision_at_l5"] == pytest.approx(hits.mean())
    long = second - first >= 24
    assert constant["precision_at_l_long"] == pytest.approx(hits[long].mean())


def test_a_range_without_pairs_is_left_out_and_means_are_over_proteins(rng: np.random.Generator) -> None:
    short, long = chain(rng, 20), chain(rng, 80)
    maps = [rng.random((20, 20)), rng.random((80, 80))]
    both = contact_metrics(maps, [short, long])
    assert both["precision_at_l_long"] == contact_metrics(maps[1:], [long])["precision_at_l_long"]
    alone = [contact_metrics([m], [c])["precision_at_l"] for m, c in zip(maps, (short, long), strict=True)]
    assert both["precision_at_l"] == pytest.approx(np.mean(alone))
    assert "precision_at_l_long" not in contact_metrics(maps[:1], [short])
    low, high = contact_interval("precision_at_l", maps, [short, long], [], 0)
    assert low == pytest.approx(min(alone)) and high == pytest.approx(max(alone))
    with pytest.raises(InputError, match="nothing to score"):
        contact_metrics([np.ones((5, 5))], [chain(rng, 5)])


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_pairs_are_counted_as_they_are_listed(seed: int, length: int) -> None:
    cb = chain(np.random.default_rng(seed), length, missing=length // 5)
    assert count_pairs(cb) == len(known_pairs(cb)[0])


def test_the_separation_baseline_is_a_frequency(rng: np.random.Generator) -> None:
    train = [Record(str(i), "A" * 50, chain(rng, 50), "train") for i in range(5)]
    test = [Record("t", "A" * 60, chain(rng, 60), "test")]
    (found,) = separation_baseline(train, test)
    hits, pairs = 0, 0
    for record in train:
        for i in range(50 - 9):
            pairs += 1
            hits += float(np.linalg.norm(record.target[i] - record.target[i + 9])) < 8
    assert found[3, 12] == found[12, 3] == pytest.approx(hits / pairs)
    assert found[0, 55] == 0


def batch_of(rng: np.random.Generator, lengths: list[int]):
    made = [Record(str(i), random_sequence(rng, n), chain(rng, n, n // 6), "train") for i, n in enumerate(lengths)]
    split = EncodedSplit(made, TOKENIZERS["esm2"], "contacts")
    return made, split, split.pack(np.arange(len(lengths)))


def test_the_loss_in_blocks_equals_all_pairs_at_once(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    made, split, batch = batch_of(rng, [30, 5, 47, 8])
    head = PairHead(8, 16, 0.0).build(12, 1, "contacts")
    torch.nn.init.normal_(head.separation.weight)
    vectors = torch.randn(len(batch.tokens), 12, requires_grad=True)
    found = []
    for pairs in (60, 10**6):
        monkeypatch.setattr(pair_head, "PAIRS_PER_BLOCK", pairs)
        head.zero_grad()
        vectors.grad = None
        loss = head.loss_sum(vectors, batch)
        loss.backward()
        found.append((loss.detach(), vectors.grad.clone(), head.layers[0].weight.grad.clone()))
        found[-1] += tuple(torch.tensor(p) for p in head.predict(vectors, batch))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    expected = 0.0  # from the probabilities themselves
    for record, probabilities in zip(made, head.predict(vectors, batch), strict=True):
        first, second = known_pairs(record.target)
        p, hit = probabilities[first, second].astype(np.float64), in_contact(record.target, first, second)
        expected -= np.log(np.where(hit, p, 1 - p)).sum()
    assert float(found[0][0]) == pytest.approx(expected, rel=1e-4)
    assert split.target_counts.tolist() == [len(known_pairs(r.target)[0]) for r in made]


def test_maps_are_symmetric_and_leave_neighbours_out(rng: np.random.Generator) -> None:
    _, split, batch = batch_of(rng, [20, 9])
    model = backbone("esm2")
    predictor = Predictor(model, PairHead(8, 16, 0.0).build(32, 1, "contacts"), "contacts").eval()
    for probabilities, length in zip(predictor.predict(batch), (20, 9), strict=True):
        assert probabilities.shape == (length, length) and probabilities.dtype == np.float32
        np.testing.assert_array_equal(probabilities, probabilities.T)
        at = np.arange(length)
        near = np.abs(at[:, None] - at[None, :]) < 6
        assert (probabilities[near] == 0).all() and (probabilities[~near] > 0).all()
    (alone,) = predictor.predict(split.pack(np.array([1])))
    np.testing.assert_allclose(alone, predictor.predict(batch)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["esm2", "esm1b", "bert"])
def test_attention_maps_equal_those_of_transformers(family: str, rng: np.random.Generator) -> None:
    model = backbone(family).eval()
    made = [Record("a", random_sequence(rng, 25), chain(rng, 25), "train")]
    batch = EncodedSplit(made, TOKENIZERS[family], "contacts").pack(np.array([0]))
    model.network.set_attn_implementation("eager")
    theirs = model.network(batch.tokens[None], output_attentions=True).attentions
    for ours, (wanted,) in zip(attention_maps(model, batch), theirs, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_correction_takes_away_what_busy_residues_share() -> None:
    busy = torch.rand(12) + 0.5
    plain = (busy[:, None] * busy[None, :])[None]
    assert corrected(plain).abs().max() < 1e-5
    plain[0, 2, 9] += 3
    found = corrected(plain)[0]
    assert int(found.argmax()) in (2 * 12 + 9, 9 * 12 + 2)
    torch.testing.assert_close(found, found.T)


def test_regression_finds_the_map_that_tells(rng: np.random.Generator) -> None:
    coordinates = [chain(rng, 40) for _ in range(4)]
    maps = []
    for cb in coordinates:
        near = (np.linalg.norm(cb[:, None] - cb[None], axis=2) < 8).astype(np.float32)
        noise = rng.normal(size=(3, 40, 40)).astype(np.float32)
        maps.append(np.stack([noise[0], near + 0.1 * noise[1], noise[2]]))
    fitted = fit_contact_regression(maps[:3], coordinates[:3], strength=0.15, seed=0)
    assert fitted.weights.argmax() == 1
    assert contact_metrics([fitted.predict(maps[3])], [coordinates[3]])["precision_at_l5"] > 0.9
    with pytest.raises(InputError, match="0 contacts in 595 pairs"):
        fit_contact_regression(maps[:1], [np.arange(120).reshape(40, 3) * 100.0], strength=0.15, seed=0)


def test_the_readers_name_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl.gz"
    good = {"id": "a", "sequence": "GA", "cb": [[0, 1, 2], None]}
    file.write_bytes(gzip.compress(f"{json.dumps(good)}\n{{'id'}}\n".encode()))
    with pytest.raises(InputError, match=r"c.jsonl.gz, line 2: an object with id, sequence and cb"):
        list(read_contacts(file, "train"))
    file.write_bytes(gzip.compress(json.dumps(good).encode()))
    (record,) = read_contacts(file, "train")
    assert record.target.shape == (2, 3) and np.isnan(record.target[1]).all()
    listed = tmp_path / "list.csv"
    listed.write_text("file,split\na.pdb,train\n")
    with pytest.raises(InputError, match="no column chain; the columns are file, split"):
        list(read_structure_list(listed))
    listed.write_text("file,chain,split\na.pdb,A,training\n")
    with pytest.raises(InputError, match=r"list.csv, line 2: column 'split': 'training' is not one of"):
        list(read_structure_list(listed))
