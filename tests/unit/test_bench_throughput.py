"""The throughput protocol: batches under a budget, nothing lost or counted twice, padding counted as tokens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.bench.throughput import Throughput, cut_batches
from plmft.efficiency.flops import Peak
from tests.unit.bench_parts import small_bench

QUICK = Throughput(
    sequences=8,
    fixed_lengths=(10,),
    batchings=("packed", "bucketed", "unsorted"),
    tokens_per_batch=(64, 256),
    precisions=None,
    seconds=0.001,
)


@pytest.fixture(autouse=True)
def peak(monkeypatch):
    monkeypatch.setattr("plmft.bench.metering.peak_of", lambda *_: Peak(1e15, "typed"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"), "hardware.usd_per_hour=2.0")


@pytest.fixture
def short(monkeypatch, bench):
    """Real lengths stand for short ones: what is tested is the counting."""
    pool = ["ACDEFGHIKL" * n for n in (1, 1, 2, 3, 1, 2, 1, 1)]
    monkeypatch.setattr(type(bench), "_drawn", (pool, "typed"))
    return pool


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.sampled_from(["packed", "bucketed", "unsorted"]))
def test_each_sequence_is_in_one_batch_and_no_batch_is_over_the_budget(bench, lengths, batching):
    sequences = ["A" * n for n in lengths]
    batches = cut_batches(bench, sequences, batching, 64)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        tokens = [lengths[n] + 2 for n in batch]
        computed = sum(tokens) if batching == "packed" else len(tokens) * max(tokens)
        assert computed <= 64 or len(batch) == 1
    if batching != "unsorted":
        order = [lengths[n] for batch in batches for n in batch]
        assert order == sorted(lengths, reverse=True)


def test_rows_count_real_residues_and_mark_the_best_batch(bench, short):
    rows = list(QUICK.measure(bench))
    real = [row for row in rows if row["material"] == "typed"]
    assert [(r["batching"], r["tokens_per_batch"]) for r in real] == [
        (b, t) for b in ("packed", "bucketed", "unsorted") for t in (64, 256)
    ]
    mean = sum(map(len, short)) / len(short)
    for row in rows:
        at = mean if row["material"] == "typed" else 10
        assert row["residues_per_s"] == pytest.approx(at * row["sequences_per_s"])
        padded = row["tokens_per_s"] * (1 - row["padding_fraction"])
        assert padded == pytest.approx((at + 2) * row["sequences_per_s"])
        assert row["usd_per_1m_sequences"] > 0
        assert "energy_j" in row or "energy_j: " in row["note"]
    assert all(row["padding_fraction"] == 0 for row in rows if row["batching"] == "packed")
    unsorted = [row for row in real if row["batching"] == "unsorted"]
    assert all(row["padding_fraction"] > 0.2 for row in unsorted)
    for batching in ("packed", "bucketed", "unsorted"):
        group = [row for row in real if row["batching"] == batching]
        best = max(group, key=lambda row: row["sequences_per_s"])
        assert [row["best"] for row in group] == ["yes" if row is best else "no" for row in group]


def test_rectangles_of_one_length_are_measured_once(bench, short):
    fixed = [row["batching"] for row in QUICK.measure(bench) if row["material"] != "typed"]
    assert fixed == ["packed"] * 2 + ["bucketed"] * 2


def test_running_out_of_memory_is_a_row(bench, short, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("plmft.bench.throughput.measured", full)
    rows = list(QUICK.measure(bench))
    assert all(row["note"].startswith("out of memory: CUDA out of memory") for row in rows)
    assert {row["best"] for row in rows} == {"no"}


def test_other_errors_are_not_taken_for_a_lack_of_memory(bench, short, monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("plmft.bench.throughput.measured", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(QUICK.measure(bench))
