"""Figures of probabilities and contacts: what is drawn is what was given, whatever the sizes."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft.data.contacts import in_contact, known_pairs
from plmft.metrics.calibration import reliability, with_temperature
from plmft.metrics.contacts import precisions
from plmft.metrics.ranking import auroc, average_precision
from plmft.tracking.plots import confusion_matrix
from plmft.tracking.plots_classes import (
    f1_by_threshold,
    most_frequent,
    reliability_diagram,
    roc_and_precision_recall,
)
from plmft.tracking.plots_contacts import contact_map, precision_by_protein


def width(figure, path):
    figure.savefig(path / "figure.png")
    return int.from_bytes((path / "figure.png").read_bytes()[16:20], "big")  # a PNG's width in pixels


def probabilities(rng, n, classes, signal=1.5):
    """(n, C) probabilities that lean to the (n,) measured classes, of which the first are the most frequent."""
    share = np.arange(classes, 0, -1.0)
    measured = rng.choice(classes, n, p=share / share.sum())
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), measured] += signal
    odds = np.exp(logits)
    return odds / odds.sum(1, keepdims=True), measured


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(ax):
    """The lines with a colour of their own, as (x, y): without grey helper lines."""
    return [line.get_data() for line in ax.lines if line.get_linestyle() == "-"]


def test_reliability_draws_filled_bins_and_their_counts(rng, tmp_path):
    given, measured = probabilities(rng, 500, 3)
    before, after = reliability(given, measured, 10), reliability(with_temperature(given, 2.0), measured, 10)
    figure = reliability_diagram(before, after)
    top, bottom = figure.axes
    filled = before.count > 0
    x, y = curves(top)[0]
    np.testing.assert_array_equal(x, before.confidence[filled])
    np.testing.assert_array_equal(y, before.accuracy[filled])
    assert [text.get_text() for text in top.get_legend().get_texts()] == [
        f"as predicted: calibration error {before.error:.3f}",
        f"with temperature: calibration error {after.error:.3f}",
    ]
    assert [bar.get_height() for bar in bottom.patches] == [*before.count, *after.count]
    assert width(figure, tmp_path) == 900


def test_reliability_without_a_temperature(rng, tmp_path):
    figure = reliability_diagram(reliability(*probabilities(rng, 5, 2)))
    assert len(figure.axes[1].patches) == 15
    assert width(figure, tmp_path) == 900


def test_curves_of_two_classes_are_of_the_second(rng, tmp_path):
    scores, measured = probabilities(rng, 300, 2)
    figure = roc_and_precision_recall(scores, measured, ("N", "B"))
    roc, precision = figure.axes
    (found,) = curves(roc)
    area, average = auroc(scores[:, 1], measured == 1), average_precision(scores[:, 1], measured == 1)
    assert np.trapezoid(found[1], found[0]) == pytest.approx(area, abs=1e-12)
    assert legend(figure) == [f"B: AUROC {area:.3f}, average precision {average:.3f}"]
    (recall, precise) = curves(precision)[0]
    assert (recall[0], recall[-1]) == (0, 1)
    assert precise[-1] >= (measured == 1).mean()
    assert precision.lines[-1].get_ydata()[0] == pytest.approx((measured == 1).mean()), "what chance gives"
    assert width(figure, tmp_path) == 900


def test_average_precision_is_the_area_under_the_drawn_steps(rng):
    scores, measured = probabilities(rng, 200, 2)
    recall, precise = curves(roc_and_precision_recall(scores, measured, ("N", "B")).axes[1])[0]
    area = sum((recall[i] - recall[i - 1]) * precise[i] for i in range(1, len(recall)))
    assert area == pytest.approx(average_precision(scores[:, 1], measured == 1), abs=1e-12)


def test_many_samples_are_thinned_and_the_area_is_kept(rng, tmp_path):
    scores, measured = probabilities(rng, 100_000, 3)
    figure = roc_and_precision_recall(scores, measured, ("H", "E", "C"))
    for c, (x, y) in enumerate(curves(figure.axes[0])):
        assert len(x) < 1000
        assert np.trapezoid(y, x) == pytest.approx(auroc(scores[:, c], measured == c), abs=2e-3)
    assert all(len(x) < 1000 for x, _ in curves(figure.axes[1]))


def test_ties_are_one_step():
    (x, y) = curves(roc_and_precision_recall(np.full((10, 2), 0.5), np.arange(10) % 2, ("N", "B")).axes[0])[0]
    assert (list(x), list(y)) == ([0, 1], [0, 1])


def test_samples_without_a_label_are_left_out(rng):
    scores, measured = probabilities(rng, 100, 2)
    masked = np.where(np.arange(100) < 40, -100, measured)
    kept = masked >= 0
    all_of_them = roc_and_precision_recall(scores, masked, ("N", "B"))
    assert legend(all_of_them) == legend(roc_and_precision_recall(scores[kept], measured[kept], ("N", "B")))


def test_the_most_frequent_of_1195_classes(rng, tmp_path):
    scores, measured = probabilities(rng, 718, 1195, 5.0)
    figure = roc_and_precision_recall(scores, measured, [f"fold number {i} with a long name" for i in range(1195)])
    frequent = sorted(np.argsort(-np.bincount(measured), kind="stable")[:10])
    assert [text.split(":")[0] for text in legend(figure)] == [
        f"fold number {c} with a long name"[:23] + "…" for c in frequent
    ]
    assert figure.get_suptitle() == "the 10 most frequent of 1,195 classes"
    assert width(figure, tmp_path) == 900


@pytest.mark.parametrize("measured", [[0, 0, 0], [1, 1, 1], [-100, -100, -100]])
def test_a_split_with_one_class_or_none_has_no_curves(measured, tmp_path):
    figure = roc_and_precision_recall(np.full((3, 2), 0.5), np.array(measured), ("N", "B"))
    assert curves(figure.axes[0]) == curves(figure.axes[1]) == []
    assert width(figure, tmp_path) == 900


@pytest.mark.parametrize("f1", [[0.1, 0.6, 0.2], [0.0, 0.0, 0.0], [0.1, 0.2, 1.0]])
def test_f1_has_its_maximum_marked(f1, tmp_path):
    thresholds = np.array([0.01, 0.4, 0.9])
    figure = f1_by_threshold(thresholds, np.array(f1))
    ax = figure.axes[0]
    best = int(np.argmax(f1))
    assert [t.get_text() for t in ax.texts] == [f"F-max {f1[best]:.3f} at {thresholds[best]:.2f}"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), f1)
    assert width(figure, tmp_path) == 900


@given(st.integers(41, 50), st.integers(0, 10_000))
def test_classes_beyond_the_most_frequent_become_one(c, seed):
    matrix = np.random.default_rng(seed).choice([0, 0, 1, 5], (c, c))
    small, names = most_frequent(matrix, [str(i) for i in range(c)], most=5)
    kept = [int(name) for name in names[:-1]]
    assert names[-1] == "other" and len(names) == 5 and kept == sorted(kept)
    assert small.sum() == matrix.sum()
    others = [i for i in range(c) if i not in kept]
    assert min(matrix[kept].sum(1)) >= max(matrix[others].sum(1))
    np.testing.assert_array_equal(small[:-1, :-1], matrix[np.ix_(kept, kept)])
    np.testing.assert_array_equal(small[:-1, -1], matrix[np.ix_(kept, others)].sum(1))
    np.testing.assert_array_equal(small[-1, :-1], matrix[np.ix_(others, kept)].sum(0))


def test_classes_that_can_be_named_stay():
    matrix = np.arange(1600).reshape(40, 40)
    same, names = most_frequent(matrix, [str(i) for i in range(40)])
    assert same is matrix and names == [str(i) for i in range(40)]
    assert len(most_frequent(np.eye(1195, dtype=int), [str(i) for i in range(1195)])[1]) == 25


def test_1195_classes_can_be_drawn(tmp_path):
    figure = confusion_matrix(*most_frequent(np.eye(1195, dtype=int), [str(i) for i in range(1195)]))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [*map(str, range(24)), "other"]
    assert width(figure, tmp_path) == 900


def protein(rng, length, unresolved=()):
    """(L, 3) coordinates of a walk that folds back on itself, and (L, L) scores that know something of it."""
    cb = np.cumsum(rng.normal(size=(length, 3)) * 2, axis=0)
    near = -np.linalg.norm(cb[:, None] - cb[None], axis=-1)
    noise = rng.normal(size=near.shape) * 3
    cb[list(unresolved)] = np.nan
    return near + noise + noise.T, cb


def drawn(figure):
    """Label (without its number) to the set of (row, column) that the map marks."""
    return {
        group.get_label().split(":")[0]: {(int(y), int(x)) for x, y in group.get_offsets()}
        for group in figure.axes[0].collections
    }


def test_a_contact_map_has_truth_below_and_the_strongest_above(rng, tmp_path):
    scores, cb = protein(rng, 60, unresolved=(7, 8, 30))
    figure = contact_map(scores, cb, "1ABC")
    first, second = known_pairs(cb)
    touching = in_contact(cb, first, second)
    true = {(int(j) + 1, int(i) + 1) for i, j in zip(first[touching], second[touching], strict=True)}
    marks = drawn(figure)
    assert marks["contacts"] == true
    right, wrong = marks["predicted rightly"], marks["predicted wrongly"]
    assert {(j, i) for i, j in right} <= true and not {(j, i) for i, j in wrong} & true
    assert len(right) + len(wrong) == 60
    assert len(right) / 60 == pytest.approx(precisions([scores], [cb])[0, 0])
    assert all(row < column for row, column in right | wrong) and all(row > column for row, column in true)
    assert "unresolved: 3 residues" in legend(figure)
    assert width(figure, tmp_path) == 900


@pytest.mark.parametrize(("length", "unresolved"), [(1, ()), (6, ()), (7, ()), (12, range(12))])
def test_a_map_of_a_short_or_unresolved_protein(rng, tmp_path, length, unresolved):
    figure = contact_map(*protein(rng, length, unresolved), "short")
    marks = drawn(figure)
    predicted = marks["predicted rightly"] | marks["predicted wrongly"]
    assert len(predicted) == (1 if length == 7 else 0)
    assert width(figure, tmp_path) == 900


def test_precision_by_protein_leaves_out_what_is_not_defined(tmp_path):
    values = np.array([0.2, np.nan, 0.6, 1.0])
    figure = precision_by_protein(values, np.array([50, 60, 70, 80]), "precision_at_l")
    left, right = figure.axes
    assert figure.get_suptitle() == "3 proteins, mean 0.600"
    assert sum(bar.get_width() for bar in left.patches) == 3
    assert right.collections[0].get_offsets().tolist() == [[50, 0.2], [70, 0.6], [80, 1.0]]
    assert left.get_ylabel() == "precision_at_l"
    assert width(figure, tmp_path) == 900


def test_no_protein_with_a_precision(tmp_path):
    figure = precision_by_protein(np.array([np.nan]), np.array([5]), "precision_at_l5")
    assert figure.get_suptitle() == "0 proteins"
    assert width(figure, tmp_path) == 900


def test_nothing_global_is_touched():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
