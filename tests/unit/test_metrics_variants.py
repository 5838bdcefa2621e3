"""Metrics of variant scores against scipy, scikit-learn and a slow loop; ESM-1v's own scores on a real scan."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score, roc_auc_score

from plmft.metrics.evaluate import SCORERS, evaluate
from plmft.metrics.variants import VARIANT_NAMES, ndcg, variant_interval, variant_metrics

DATA = os.environ.get("PLMFT_DATA")
BLAT = Path(DATA).resolve() / "mutation_effects" / "BLAT_ECOLX_Ranganathan2015_labeled.csv.gz" if DATA else None
values = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=60)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predicted, measured = np.array(pairs, dtype=np.float64).T
    return predicted, measured


@given(values)
def test_each_metric_equals_that_of_others_with_ties(pairs: list[tuple[int, int]]) -> None:
    predicted, measured = columns(pairs)
    found = variant_metrics(predicted, measured)
    if np.ptp(predicted) and np.ptp(measured):
        assert found["spearman"] == pytest.approx(spearmanr(predicted, measured).statistic)
    else:
        assert "spearman" not in found
    fit = measured > np.median(measured)
    if fit.any():
        assert found["auroc"] == pytest.approx(roc_auc_score(fit, predicted))
    else:
        assert "auroc" not in found


def slow_ndcg(predicted: np.ndarray, measured: np.ndarray) -> float:
    """One rank after the other: the best tenth as predicted over the best tenth as measured."""
    gains = [(value - min(measured)) / (max(measured) - min(measured)) for value in measured]
    found = best = 0.0
    by_score = sorted(range(len(gains)), key=lambda i: -predicted[i])
    by_gain = sorted(gains, reverse=True)
    for rank in range(1, len(gains) // 10 + 1):
        found += gains[by_score[rank - 1]] / np.log2(rank + 1)
        best += by_gain[rank - 1] / np.log2(rank + 1)
    return found / best


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=10, max_size=80))
def test_ndcg_equals_a_slow_loop(pairs: list[tuple[int, int]]) -> None:
    predicted, measured = columns(pairs)
    if np.ptp(measured) == 0:
        assert ndcg(predicted, measured) is None
    else:
        assert ndcg(predicted, measured) == pytest.approx(slow_ndcg(predicted, measured))


@pytest.mark.parametrize("n", [10, 19, 20, 30, 70, 101, 1000])
def test_ndcg_equals_sklearn_without_ties(rng: np.random.Generator, n: int) -> None:
    predicted, measured = rng.normal(size=n), rng.normal(size=n)
    gains = (measured - measured.min()) / np.ptp(measured)
    assert ndcg(predicted, measured) == pytest.approx(ndcg_score(gains[None], predicted[None], k=n // 10))


def test_known_values(rng: np.random.Generator) -> None:
    measured = rng.permutation(40).astype(float)
    assert variant_metrics(3 * measured - 7, measured) == pytest.approx({"spearman": 1, "auroc": 1, "ndcg": 1})
    assert variant_metrics(-measured, measured)["spearman"] == pytest.approx(-1)
    assert variant_metrics(-measured, measured)["auroc"] == 0
    constant = variant_metrics(np.zeros(40), measured)
    assert constant["auroc"] == 0.5 and "spearman" not in constant
    assert variant_metrics(measured[:9], measured[:9]).keys() == {"spearman", "auroc"}  # no tenth of nine
    assert variant_metrics(measured, np.ones(40)) == {}
    ten = np.arange(10.0)
    assert ndcg(-ten, ten) == 0.0  # the worst variant alone: no gain


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_only_the_order_of_scores_counts(seed: int) -> None:
    """And the unit of what was measured does not."""
    rng = np.random.default_rng(seed)
    predicted, measured = rng.normal(size=60), rng.normal(size=60)
    found = variant_metrics(predicted, measured)
    assert found.keys() == set(VARIANT_NAMES)
    assert variant_metrics(np.exp(2 * predicted), measured) == pytest.approx(found)
    assert variant_metrics(predicted, 0.1 * measured - 3) == pytest.approx(found)


def test_what_is_not_finite_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        variant_metrics([1.0, np.nan, 2.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_intervals_hold_the_metric_and_are_seeded(rng: np.random.Generator, name: str) -> None:
    measured = rng.normal(size=90)
    predicted = measured + rng.normal(size=90)
    value = variant_metrics(predicted, measured)[name]
    low, high = variant_interval(name, predicted, measured, (), 3)
    assert low <= value <= high and high - low < 0.6
    assert (low, high) == variant_interval(name, predicted, measured, (), 3)
    assert (low, high) != variant_interval(name, predicted, measured, (), 4)


def test_the_interval_of_auroc_resamples_variants(rng: np.random.Generator) -> None:
    """Against counted pairs of resamples drawn by hand; the median is that of each resample."""
    measured = rng.normal(size=30)
    predicted = measured + rng.normal(size=30)
    draws = np.random.default_rng(5)
    found = []
    for _ in range(1000):
        i = draws.integers(0, 30, 30)
        fit = measured[i] > np.median(measured[i])
        pairs = predicted[i][fit][:, None] - predicted[i][~fit][None, :]
        found.append(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    wanted = tuple(np.quantile(found, [0.025, 0.975]))
    assert variant_interval("auroc", predicted, measured, (), 5) == pytest.approx(wanted)


def test_the_kind_is_scored_so(rng: np.random.Generator) -> None:
    predicted, measured = list(rng.normal(size=50)), [np.asarray(m) for m in rng.normal(size=50)]
    found = evaluate("variant_scoring", predicted, measured, seed=0, primary="spearman")
    assert found.keys() == {*VARIANT_NAMES, "spearman_ci_low", "spearman_ci_high"}
    assert SCORERS["variant_scoring"].names == VARIANT_NAMES


@pytest.mark.slow
@pytest.mark.skipif(BLAT is None or not BLAT.is_file(), reason="PLMFT_DATA names no folder with the scan of TEM-1")
def test_the_scores_of_esm1v_rank_tem1_as_known() -> None:
    """Meier et al. 2021's own scores, wild-type marginals of five models, against 2,500 µg/mL."""
    table = pd.read_csv(BLAT)
    models = [f"esm1v_t33_650M_UR90_{i}" for i in range(1, 6)]
    measured = table["2500"].to_numpy()
    each = [variant_metrics(table[model].to_numpy(), measured) for model in models]
    assert [round(found["spearman"], 3) for found in each] == [0.662, 0.663, 0.645, 0.686, 0.706]
    mean = table[models].mean(axis=1).to_numpy()
    found = evaluate("variant_scoring", mean, measured, seed=0, primary="spearman")
    assert round(found["spearman"], 3) == 0.703
    assert found["spearman_ci_low"] < 0.703 < found["spearman_ci_high"]
    assert found["auroc"] == pytest.approx(roc_auc_score(measured > np.median(measured), mean))
    assert found["ndcg"] == pytest.approx(slow_ndcg(mean, measured))
