"""Figures of class probabilities, in the style of plots.py: reliability, ROC and precision-recall, F1 by threshold.

Curves are thinned to some hundred points, so that 270,000 residues are drawn as fast as 300 sequences; what takes time
is one sort a class. Areas in the legends are those of plmft.metrics.ranking, from all samples.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from plmft.metrics.calibration import Reliability
from plmft.metrics.ranking import auroc_of_counts, average_precision_of_counts
from plmft.tracking.plots import BLUE, CLASSES_WITH_NAMES, GREY, ORANGE

CLASSES_WITH_CURVES = 10
POINTS = 400  # along an axis; more than it has pixels
CLASSES_TOGETHER = 25  # of a confusion matrix with too many classes
# ten that can be told apart, also in grey and by colour-blind readers in pairs of dark and light
COLOURS = (BLUE, ORANGE, "#2f8f4e", "#8a4fa3", "#b8860b", "#17a2b8", "#b0305c", "#6b6b6b", "#7fb2e5", "#e5a97f")


def reliability_diagram(before: Reliability, after: Reliability | None = None) -> Figure:
    """Share right by predicted probability against the line of equality, and below how many samples have which.

    Args:
        before: of the probabilities as they are. after: of those with the temperature of the validation split.
    """
    figure = _figure(height=7.5)
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    drawn = [(before, BLUE, "as predicted"), (after, ORANGE, "with temperature")]
    for number, (part, colour, name) in enumerate((p, c, n) for p, c, n in drawn if p is not None):
        filled = part.count > 0
        label = f"{name}: calibration error {part.error:.3f}"
        top.plot(part.confidence[filled], part.accuracy[filled], "o-", color=colour, markersize=5, label=label)
        edges = np.linspace(0, 1, len(part.count) + 1)
        width = (edges[1] - edges[0]) * (0.9 if after is None else 0.42)
        middles = (edges[1:] + edges[:-1]) / 2 + (0 if after is None else (number - 0.5) * width)
        bottom.bar(middles, part.count, width, color=colour)
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share right")
    top.legend(frameon=False, loc="upper left")
    bottom.set(xlabel="predicted probability", ylabel="samples")
    bottom.yaxis.get_major_locator().set_params(integer=True)
    bottom.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    return figure


def roc_and_precision_recall(probabilities: np.ndarray, measured: np.ndarray, classes: Sequence[str]) -> Figure:
    """ROC on the left, precision against recall on the right: of the second of two classes, or of each of more
    against all others; of more than ten, the ten most frequent.

    Args:
        probabilities: (n, C) float. measured: (n,) class numbers; negative ones have no label and are left out.
        classes: C names.
    """
    probabilities, measured = np.asarray(probabilities)[measured >= 0], measured[measured >= 0]
    counts = np.bincount(measured, minlength=len(classes))
    drawn = _drawn_classes(counts)
    figure = _figure(height=4.7 + 0.25 * ((len(drawn) + 1) // 2))
    roc, precision = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    for c, colour in zip(drawn, COLOURS, strict=False):
        _curves(roc, precision, probabilities[:, c], measured == c, classes[c], colour)
    if len(classes) == 2 and counts.sum():
        precision.axhline(counts[1] / counts.sum(), color=GREY, linewidth=1, linestyle="--")
    roc.set(xlabel="false positives, of all negatives", ylabel="true positives, of all positives")
    precision.set(xlabel="recall", ylabel="precision")
    for ax in (roc, precision):
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    figure.legend(*roc.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    if len(classes) > CLASSES_WITH_CURVES:
        figure.suptitle(f"the {len(drawn)} most frequent of {len(classes):,} classes", fontsize=11)
    return figure


def f1_by_threshold(thresholds: np.ndarray, f1: np.ndarray) -> Figure:
    """F1 against the threshold from which a label is called, with its maximum.

    Args: thresholds, f1: (T,) float in [0, 1].
    """
    figure = _figure(height=4.5)
    ax = figure.subplots()
    ax.plot(thresholds, f1, color=BLUE, linewidth=1.6)
    best = int(np.argmax(f1))
    at, value = thresholds[best], f1[best]
    ax.plot(at, value, "o", markersize=10, fillstyle="none", color=ORANGE, markeredgewidth=1.4)
    side = "left" if at < 0.5 else "right"
    ax.annotate(
        f"F-max {value:.3f} at {at:.2f}",
        (at, value),
        (14 if side == "left" else -14, 10),
        textcoords="offset points",
        ha=side,
    )
    ax.set(xlim=(0, 1), ylim=(0, min(1.0, 1.15 * value) or 1), xlabel="threshold", ylabel="F1")
    return figure


def most_frequent(
    matrix: np.ndarray, classes: Sequence[str], most: int = CLASSES_TOGETHER
) -> tuple[np.ndarray, list[str]]:
    """A confusion matrix that can be read: of too many classes to name, the most frequently measured, and "other".

    Args: matrix: (C, C) int, measured by predicted. classes: C names.
    Returns: (c, c) int and c names: all if they can be named (40), else `most`; the counts' sum is the same. What
        stands at (other, other) may be right or wrong.
    """
    if len(classes) <= max(most, CLASSES_WITH_NAMES):
        return matrix, list(classes)
    order = np.argsort(-matrix.sum(1), kind="stable")
    kept = np.sort(order[: most - 1])
    group = np.full(len(classes), most - 1)
    group[kept] = np.arange(most - 1)
    rows, columns = np.nonzero(matrix)
    small = np.zeros((most, most), matrix.dtype)
    np.add.at(small, (group[rows], group[columns]), matrix[rows, columns])
    return small, [*(classes[c] for c in kept), "other"]


def _drawn_classes(counts: np.ndarray) -> Sequence[int]:
    """The second of two classes; of more those that occur, the most frequent ten in the order of their numbers."""
    if len(counts) == 2:
        return [1]
    order = np.argsort(-counts, kind="stable")[:CLASSES_WITH_CURVES]
    return sorted(int(c) for c in order if counts[c])


def _curves(roc: Axes, precision: Axes, scores: np.ndarray, positive: np.ndarray, name: str, colour: str) -> None:
    """Both curves of one class, if there are samples in it and out of it."""
    levels, at = np.unique(scores, return_inverse=True)
    positives, negatives = (np.bincount(at[chosen], minlength=len(levels)) for chosen in (positive, ~positive))
    area, average = auroc_of_counts(positives, negatives), average_precision_of_counts(positives, negatives)
    if area is None or average is None:
        return
    found, wrong = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
    recall, fallout, precise = found / found[-1], wrong / wrong[-1], found / (found + wrong)
    name = name if len(name) <= 24 else name[:23] + "…"
    label = f"{name}: AUROC {area:.3f}, average precision {average:.3f}"
    thin = _thinned(recall, fallout)
    roc.plot(np.r_[0, fallout[thin]], np.r_[0, recall[thin]], color=colour, label=label)
    thin = _thinned(recall[: np.argmax(recall == 1) + 1])  # once all are found, it can only fall
    precision.plot(np.r_[0, recall[thin]], np.r_[precise[0], precise[thin]], color=colour)


def _thinned(*axes: np.ndarray) -> np.ndarray:
    """Places of a curve's points, which rise along each axis: all if they are few, else one a pixel; the last is kept.

    Args: axes: one or two of (points,) float in [0, 1].
    """
    if len(axes[0]) <= POINTS:
        return np.arange(len(axes[0]))
    cells = np.sum([np.floor(values * POINTS) for values in axes], axis=0)
    return np.flatnonzero(np.r_[np.diff(cells) != 0, True])


def _figure(height: float) -> Figure:
    return Figure(figsize=(9, height), dpi=100, layout="constrained")
