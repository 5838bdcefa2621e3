import sys

import numpy as np
import pytest

from plmft.tracking.plots import History, confusion_matrix, learning_curve, predicted_against_measured


def pixels(figure, path):
    figure.savefig(path)
    return int.from_bytes(path.read_bytes()[16:20], "big")  # a PNG's width


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def test_learning_curve_draws_the_numbers_it_is_given(tmp_path):
    history = History([1, 2, 3, 4], [4.0, 3.0, 2.0, 1.0], [2, 4], [0.1, 0.3], "spearman", best_step=4)
    figure = learning_curve(history)
    top, bottom = figure.axes
    assert list(top.lines[0].get_ydata()) == history.train_loss
    assert list(bottom.lines[0].get_ydata()) == history.valid
    assert labels(bottom) == ("optimizer step", "validation spearman")
    assert bottom.texts[0].get_text() == "chosen: 0.300"
    assert pixels(figure, tmp_path / "curve.png") == 900


def test_running_mean_ends_at_the_last_step():
    steps = np.arange(100, 400)
    line = learning_curve(History(steps, np.full(300, 2.0), [], [], "mae")).axes[0].lines[1]
    assert line.get_xdata()[-1] == 399
    np.testing.assert_allclose(line.get_ydata(), 2.0)


def test_a_diverged_run_can_be_drawn(tmp_path):
    history = History([1, 2], [1.0, float("nan")], [2], [float("nan")], "spearman", best_step=None)
    pixels(learning_curve(history), tmp_path / "curve.png")


@pytest.mark.parametrize("number", [0, 1, 50, 3000])
def test_predicted_against_measured(tmp_path, number):
    generator = np.random.default_rng(0)
    measured = generator.normal(size=number)
    predicted = measured + generator.normal(size=number)
    bright = measured > 0
    figure = predicted_against_measured(
        predicted, measured, unit="log units", title="all: Spearman 0.700", subsets={"bright": bright}
    )
    everything, subset = figure.axes[:2]
    assert labels(everything) == ("measured (log units)", "predicted (log units)")
    assert everything.get_title() == f"all: Spearman 0.700\n{number:,} sequences"
    assert subset.get_title() == f"bright\n{bright.sum():,} sequences"
    assert everything.get_xlim() == everything.get_ylim() == subset.get_xlim()
    assert pixels(figure, tmp_path / "scatter.png") == 900


def test_hexagons_hold_every_sequence():
    values = np.random.default_rng(0).normal(size=(2, 5000))
    figure = predicted_against_measured(*values, unit="", title="all")
    assert figure.axes[0].collections[0].get_array().sum() == 5000


def test_values_that_are_not_finite_are_counted_but_not_drawn(tmp_path):
    figure = predicted_against_measured(np.array([1.0, np.nan]), np.array([1.0, 2.0]), unit="", title="all")
    assert len(figure.axes[0].collections[0].get_offsets()) == 1
    assert "2 sequences" in figure.axes[0].get_title()
    pixels(figure, tmp_path / "scatter.png")


def test_confusion_matrix_gives_shares_of_each_measured_class(tmp_path):
    figure = confusion_matrix(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]), ["helix", "strand", "coil"])
    ax = figure.axes[0]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["75.0%\n3", "25.0%\n1", "0.0%\n0", "0.0%\n0", "100.0%\n2", *["0.0%\n0"] * 4]
    assert labels(ax) == ("predicted class", "measured class")
    assert pixels(figure, tmp_path / "matrix.png") == 900


def test_many_classes_are_drawn_without_text():
    ax = confusion_matrix(np.eye(100, dtype=int), [f"class {i}" for i in range(100)]).axes[0]
    assert len(ax.texts) == 0


def test_nothing_global_is_touched():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
