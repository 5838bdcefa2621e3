import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.metrics.intervals import (
    accuracy_interval,
    bootstrap_interval,
    resampled_indices,
    spearman_interval,
    spearman_statistic,
)
from plmft.metrics.regression import spearman

SEEDS = st.integers(0, 2**32)


def correlated(seed, n, values):
    rng = np.random.default_rng(seed)
    measured = rng.integers(0, values, n).astype(float)
    return measured + rng.integers(0, values, n), measured


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(2, 60), st.sampled_from([2, 3, 10, 10_000]))
def test_fast_spearman_equals_ranking_each_resample(seed, n, values):
    predicted, measured = correlated(seed, n, values)
    fast = spearman_statistic(predicted, measured)
    for indices in resampled_indices(n, seed, 5):
        expected = spearman(predicted[indices], measured[indices])
        assert fast(indices) == (None if expected is None else pytest.approx(expected, abs=1e-12))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 60), st.sampled_from([2, 3, 10, 10_000]))
def test_fast_spearman_interval_equals_the_generic_one(seed, n, values):
    predicted, measured = correlated(seed, n, values)
    generic = bootstrap_interval(lambda i: spearman(predicted[i], measured[i]), n, seed=seed, resamples=50)
    fast = spearman_interval(predicted, measured, seed=seed, resamples=50)
    assert fast == (None if generic is None else pytest.approx(generic, abs=1e-12))


def test_fast_spearman_is_exact_for_a_large_sample():
    predicted, measured = correlated(0, 27_217, 300)
    indices = next(resampled_indices(27_217, 1, 1))
    expected = spearman(predicted[indices], measured[indices])
    assert spearman_statistic(predicted, measured)(indices) == pytest.approx(expected, abs=1e-14)


def test_perfect_ranking_has_an_interval_of_one():
    values = np.random.default_rng(0).normal(size=50)
    assert spearman_interval(np.exp(values), values, seed=0, resamples=100) == (1.0, 1.0)


def test_same_seed_same_interval_other_seed_another():
    predicted, measured = correlated(0, 80, 50)
    first, again, other = (spearman_interval(predicted, measured, seed=s, resamples=200) for s in (3, 3, 4))
    assert first == again != other
    assert first == pytest.approx(other, abs=0.1)


def test_the_bootstrap_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    bootstrap_interval(lambda i: float(i.mean()), 10, seed=0, resamples=10)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_resamples_are_drawn_with_replacement_from_all_samples():
    drawn = np.stack(list(resampled_indices(20, 0, 2000)))
    assert drawn.shape == (2000, 20) and drawn.dtype == np.int64
    shares = np.bincount(drawn.ravel(), minlength=20) / drawn.size
    assert shares == pytest.approx(np.full(20, 1 / 20), abs=5 * np.sqrt(1 / 20 / drawn.size))  # 5 standard errors
    assert len(np.unique(drawn[0])) < 20


def test_interval_of_a_mean_equals_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, 4000)
    low, high = bootstrap_interval(lambda i: float(values[i].mean()), 4000, seed=1, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.1)


def test_higher_level_wider_interval():
    values = np.random.default_rng(0).normal(size=50)
    ends = [
        bootstrap_interval(lambda i: float(values[i].mean()), 50, seed=1, level=level) for level in (0.5, 0.9, 0.99)
    ]
    widths = [high - low for low, high in ends]
    assert widths == sorted(widths)


def test_coverage_of_a_known_mean():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(400):
        values = rng.normal(size=60)
        low, high = bootstrap_interval(lambda i, v=values: float(v[i].mean()), 60, seed=seed, resamples=200)
        covered.append(low <= 0 <= high)
    # the percentile interval of 60 normal values covers about 94 %; 4 standard errors of 400 trials are 5 %
    assert 0.89 <= np.mean(covered) <= 0.99


def test_too_few_samples_have_no_interval():
    assert bootstrap_interval(lambda i: 1.0, 1, seed=0) is None
    assert spearman_interval([1.0, 2.0], [3.0, 5.0], seed=0) is None  # half of the resamples are constant
    assert spearman_interval([1.0] * 50, list(range(50)), seed=0) is None


@pytest.mark.parametrize(("undefined", "known"), [(25, True), (26, False)])
def test_interval_only_while_the_undefined_resamples_fit_in_a_tail(undefined, known):
    answers = iter([None] * undefined + [1.0] * (1000 - undefined))
    assert (bootstrap_interval(lambda i: next(answers), 5, seed=0) is not None) == known


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_accuracy_interval_equals_resampling_whole_proteins(seed):
    rng = np.random.default_rng(seed)
    right = [rng.random(length) < rng.random() for length in rng.integers(1, 30, 12)]
    correct, labelled = np.array([r.sum() for r in right]), np.array([len(r) for r in right])
    slow = bootstrap_interval(
        lambda i: float(np.concatenate([right[k] for k in i]).mean()), 12, seed=seed, resamples=100
    )
    assert accuracy_interval(correct, labelled, seed=seed, resamples=100) == pytest.approx(slow, abs=1e-12)


def test_accuracy_interval_ignores_proteins_without_label():
    correct, labelled = np.array([3, 0, 5, 9]), np.array([4, 0, 9, 9])
    kept = labelled > 0
    assert accuracy_interval(correct, labelled, seed=0) == accuracy_interval(correct[kept], labelled[kept], seed=0)


def test_proteins_are_the_unit_not_residues():
    correct, labelled = np.array([100, 0] * 20), np.full(40, 100)  # all right or all wrong: 40 samples, not 4,000
    low, high = accuracy_interval(correct, labelled, seed=0, resamples=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.25 / 40), rel=0.1)
