"""Ranking metrics of resampled proteins against scikit-learn on the resample itself, written out."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from plmft.metrics.intervals import bootstrap_interval
from plmft.metrics.ranking import (
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    grouped_statistic,
)

SEEDS = st.integers(0, 2**32)
METRICS = {auroc_of_counts: roc_auc_score, average_precision_of_counts: average_precision_score}


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 8), st.sampled_from([1, 4, 1000]))
def test_resampled_groups_equal_sklearn(seed: int, n: int, groups: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive, group = rng.integers(0, levels, n) / levels, rng.random(n) < 0.4, rng.integers(0, groups, n)
    chosen = rng.integers(0, groups, groups)
    every = np.concatenate([np.flatnonzero(group == g) for g in chosen])  # a protein drawn twice stands here twice
    for metric, reference in METRICS.items():
        found = grouped_statistic(metric, scores, positive, group, groups)(chosen)
        if len(every) and positive[every].any() and not positive[every].all():
            assert found == pytest.approx(reference(positive[every], scores[every]), abs=1e-12)
        else:
            assert found is None


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_only_the_order_of_scores_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(-5, 5, 40).astype(np.float32), np.arange(40) % 3 == 0
    order = rng.permutation(40)
    for metric in (auroc, average_precision):
        assert metric(np.exp(scores)[order], positive[order]) == metric(scores, positive)
    assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive))


def test_known_values() -> None:
    positive = np.arange(10) >= 7
    for scores, area, precision in ((np.arange(10), 1, 1), (np.zeros(10), 0.5, 0.3)):
        assert (auroc(scores, positive), average_precision(scores, positive)) == (area, pytest.approx(precision))
    assert auroc(-np.arange(10), positive) == 0
    assert average_precision(-np.arange(10), positive) == pytest.approx(np.mean([1 / 8, 2 / 9, 3 / 10]))


def test_a_resample_of_80_000_residues_costs_milliseconds(rng: np.random.Generator) -> None:
    """A tenth of the resamples of an interval, in processor time: all are to take no more than some seconds."""
    scores, positive, group = rng.random(80_000), rng.random(80_000) < 0.1, rng.integers(0, 300, 80_000)
    statistic = grouped_statistic(average_precision_of_counts, scores, positive, group, 300)
    begun = time.process_time()
    low, high = bootstrap_interval(statistic, 300, seed=0, resamples=100)
    assert time.process_time() - begun < 1.5
    assert low < average_precision(scores, positive) < high
