"""Three figures of a run, 900 pixels wide: how it learned, how predictions lie, which classes are taken for which.

Drawn on Figure objects without pyplot, so nothing global is touched and any thread may draw. A figure takes some
100 ms; many points are shown as hexagons by density.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f5a99", "#c8641e", "#808080"
POINTS_TILL_HEXAGONS = 1000
CLASSES_WITH_NUMBERS = 12
CLASSES_WITH_NAMES = 40


@dataclass(frozen=True)
class History:
    """What a run learned.

    Args:
        train_steps, train_loss: optimizer steps and the loss at each, same length.
        valid_steps, valid: optimizer steps at which the validation metric was taken, and its values; one an epoch.
        metric: the metric's name. best_step: the step whose checkpoint was chosen.
    """

    train_steps: Sequence[int]
    train_loss: Sequence[float]
    valid_steps: Sequence[int]
    valid: Sequence[float]
    metric: str
    best_step: int | None = None


def learning_curve(history: History) -> Figure:
    """Training loss by step above, validation metric by epoch below, the chosen checkpoint marked."""
    figure = _figure(height=5.4)
    top, bottom = figure.subplots(2, sharex=True)
    top.plot(
        history.train_steps,
        history.train_loss,
        color=BLUE,
        linewidth=0.8,
        alpha=0.35,
        marker=_marker(history.train_steps),
        label="each step",
    )
    steps, smooth = _running_mean(history.train_steps, history.train_loss)
    top.plot(steps, smooth, color=BLUE, linewidth=1.6, label="running mean")
    top.set_ylabel("training loss")
    top.legend(frameon=False)
    bottom.plot(history.valid_steps, history.valid, color=ORANGE, marker="o", markersize=4, linewidth=1.4)
    bottom.set(ylabel=f"validation {history.metric}", xlabel="optimizer step")
    if history.best_step in history.valid_steps:
        best = history.valid[list(history.valid_steps).index(history.best_step)]
        bottom.plot(history.best_step, best, "o", markersize=10, fillstyle="none", color=ORANGE, markeredgewidth=1.4)
        bottom.annotate(
            f"chosen: {best:.3f}", (history.best_step, best), (0, -20), textcoords="offset points", ha="center"
        )
    return figure


def predicted_against_measured(
    predicted: np.ndarray,
    measured: np.ndarray,
    *,
    unit: str,
    title: str,
    subsets: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Predicted against measured values, one panel for all and one for each subset, with the line of equality.

    Args:
        predicted, measured: (N,) float, in `unit`; a pair that is not finite is counted, but not drawn.
        title: of the panel of all; the place for its Spearman. subsets: a panel's title to its mask, (N,) bool.
    """
    panels = {title: np.ones(len(measured), dtype=bool)} | dict(subsets or {})
    figure = _figure(height=3.9 if len(panels) > 1 else 7.5)
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    drawable = np.isfinite(predicted) & np.isfinite(measured)
    _equality(axes, np.concatenate([measured[drawable], predicted[drawable]]))
    norm = LogNorm(vmin=0.3, vmax=max(10, drawable.sum() / 100))  # below 1, so that a single sequence is seen
    for ax, (name, mask) in zip(axes, panels.items(), strict=True):
        _points(ax, measured[mask & drawable], predicted[mask & drawable], norm)
        ax.set_title(f"{name}\n{mask.sum():,} sequences", fontsize=11)
        ax.set_xlabel(f"measured ({unit})" if unit else "measured")
    axes[0].set_ylabel(f"predicted ({unit})" if unit else "predicted")
    if drawable.sum() > POINTS_TILL_HEXAGONS:
        bar = figure.colorbar(ScalarMappable(norm, "Blues"), ax=axes, label="sequences in a hexagon", shrink=0.8)
        bar.ax.set_ylim(1, norm.vmax)
    return figure


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """Shares of each measured class that were predicted as each class.

    Args:
        matrix: (C, C) int, measured by predicted. classes: C names.
    """
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    figure = _figure(height=7.5)
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ax.set(xlabel="predicted class", ylabel="measured class")
    if len(classes) <= CLASSES_WITH_NAMES:
        ax.set_xticks(range(len(classes)), classes, rotation=90 if sum(map(len, classes)) > 60 else 0)
        ax.set_yticks(range(len(classes)), classes)
    if len(classes) <= CLASSES_WITH_NUMBERS:
        _write_shares(ax, matrix, shares)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, label="share of the measured class", shrink=0.8)
    return figure


def _figure(height: float) -> Figure:
    return Figure(figsize=(9, height), dpi=100, layout="constrained")


def _marker(values: Sequence[int]) -> str:
    return "o" if len(values) < 20 else ""


def _running_mean(steps: Sequence[int], values: Sequence[float]) -> tuple[Sequence[int], np.ndarray]:
    width = max(1, len(values) // 50)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    return steps[len(steps) - len(smooth) :], smooth


def _equality(axes: Sequence[Axes], values: np.ndarray) -> None:
    """The line of equality over the range of all values, the same in every panel."""
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5
    for ax in axes:
        ax.plot([low, high], [low, high], color=GREY, linewidth=1, linestyle="--")
        ax.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")


def _points(ax: Axes, measured: np.ndarray, predicted: np.ndarray, norm: LogNorm) -> None:
    if len(measured) <= POINTS_TILL_HEXAGONS:
        ax.scatter(measured, predicted, s=10, color=BLUE, alpha=0.5, linewidths=0)
        return
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    ax.hexbin(
        measured,
        predicted,
        gridsize=45,
        extent=(left, right, bottom, top),
        cmap="Blues",
        norm=norm,
        mincnt=1,
        linewidths=0.2,
    )


def _write_shares(ax: Axes, matrix: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), share in np.ndenumerate(shares):
        ink = "white" if share > 0.55 else "black"
        ax.text(column, row, f"{share:.1%}\n{matrix[row, column]:,}", ha="center", va="center", color=ink)
