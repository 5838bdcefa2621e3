"""Paired resamples: the metric is that of plmft.metrics, equal models are not told apart, and better ones are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft.metrics.evaluate import evaluate
from plmft.page.choice import choose
from plmft.page.configurations import contests
from plmft.page.significance import (
    difference,
    holm,
    of_configuration,
    predictions_of,
    resampled,
    statistic_of,
    unpaired,
)
from tests.unit.page_runs import predictions, scored


@pytest.mark.parametrize("metric", ["spearman", "mae", "mse", "rmse"])
def test_a_regression_is_scored_as_elsewhere(tmp_path: Path, metric: str) -> None:
    table = predictions_of(predictions(tmp_path / "p", 1.0, count=40))
    statistic = statistic_of(table, metric)
    every = np.arange(40)
    known = evaluate(
        "sequence_regression",
        table["predicted"].to_numpy(),
        table["measured"].to_numpy(),
        seed=0,
        with_intervals=False,
        primary="spearman",
    )
    assert statistic(every) == pytest.approx(known[metric])


def test_accuracy_is_over_residues_of_resampled_proteins_and_leaves_out_what_has_no_label() -> None:
    table = pd.DataFrame(
        {"sequence": ["MKV", "AC"], "measured": ["HH.", "EC"], "predicted": ["HEE", "EC"], "id": ["a", "b"]}
    )
    statistic = statistic_of(table, "accuracy")
    assert statistic(np.array([0, 1])) == pytest.approx(3 / 4)
    assert statistic(np.array([0, 0])) == pytest.approx(2 / 4)
    classes = pd.DataFrame({"sequence": ["MKV", "AC"], "measured": ["in", "out"], "predicted": ["in", "in"]})
    assert statistic_of(classes, "accuracy")(np.array([0, 1])) == 0.5


def test_what_cannot_be_resampled_says_why() -> None:
    assert "no measured values" in statistic_of(pd.DataFrame({"id": ["a"], "predicted": [1.0]}), "precision_at_l5")


def test_the_same_predictions_are_not_told_apart_and_better_ones_are(tmp_path: Path) -> None:
    tables = [
        predictions_of(predictions(tmp_path / f"{i}", noise, seed=seed, order=i))
        for i, (noise, seed) in enumerate([(0.5, 1), (0.5, 1), (3.0, 2)])
    ]
    values = resampled([statistic_of(table, "spearman") for table in tables], 300)
    assert difference(values[0], values[1]) == (0, 0, 1)
    low, high, p = difference(values[0], values[2])
    assert 0 < low < high and 0 < p <= 2 / 1000
    assert difference(values[0], np.full(1000, np.nan)) is None


def test_seeds_that_scatter_widen_the_difference() -> None:
    steady = np.tile(np.linspace(0.5, 0.6, 1000), (3, 1))
    scattered = steady + np.array([[-0.1], [0.0], [0.1]])
    narrow, wide = (np.std(of_configuration(values)) for values in (steady, scattered))
    assert wide > narrow * 1.5


def test_holm_is_as_published() -> None:
    # Holm 1979: the least of m times m, the next times m - 1, never falling
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_one_that_is_clearly_worse_is_told_among_forty(rng: np.random.Generator) -> None:
    """1,000 resamples tell no less than 0.002, which times 39 is more than 0.05."""
    records = rng.normal(0, 0.02, 1000)  # what the resampled records do to all models alike
    levels = [0.9, *np.linspace(0.899, 0.89, 38), 0.7]
    values = [level + records + rng.normal(0, 0.02, 1000) for level in levels]
    runs = [scored(f"{i}", level, settings=(("n", f"{i}"),)) for i, level in enumerate(levels[:-1])]
    runs.append(scored("worse", levels[-1], model="majority", costs={"cost/wall_time_s": 0.1}))
    (contest,) = contests(runs, {})
    contest.p = {(0, i): difference(values[0], values[i])[2] for i in range(1, 40)}
    choice = choose(contest)
    assert len(choice.as_good) == 38 and choice.p[39] < 0.01
    assert contest.configurations[choice.take].first.run_id != "worse", "the fastest of all"


def test_without_scatter_resamples_tell_what_they_can() -> None:
    assert difference(np.full(1000, 1.0), np.zeros(1000)) == (1, 1, 2 / 1000)


def test_intervals_alone_tell_less_than_pairs() -> None:
    assert unpaired((0.4, 0.6), (0.4, 0.6), 0.0) == 1.0
    assert unpaired((0.4, 0.6), (0.41, 0.61), 0.01) > 0.8
    assert unpaired((0.4, 0.5), (0.8, 0.9), 0.4) < 1e-6
