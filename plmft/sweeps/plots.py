"""Figures of a sweep, 900 pixels wide: what accuracy costs, and how a search went.

Drawn on Figure objects without pyplot, so nothing global is touched. A figure takes some 100 ms.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plmft.sweeps.seeds import Child, groups, varying

COST, COST_LABEL = "cost/wall_time_s", "training time (s)"
BLUE, ORANGE, GREY = "#1f5a99", "#c8641e", "#808080"
NAMED_GROUPS = 20  # more names than that cannot be read
MARKERS = "osD^vP*X"


def accuracy_against_cost(children: Sequence[Child]) -> Figure | None:
    """The primary metric on the test split over training time: a point for each group of jobs that differ in the seed.

    Bars are the standard deviation over seeds; a panel for each task. None where no job has both.
    """
    drawn = [c for c in children if c.primary and COST in c.metrics and f"test/{c.primary}" in c.metrics]
    tasks = dict.fromkeys((child.task or "", child.primary) for child in drawn if child.status == "FINISHED")
    if not tasks:
        return None
    figure = Figure(figsize=(9, 1 + 3.4 * len(tasks)), dpi=100, layout="constrained")
    for ax, (task, primary) in zip(figure.subplots(len(tasks), squeeze=False)[:, 0], tasks, strict=True):
        _panel(ax, drawn, task, primary)
    return figure


def _panel(ax: Axes, children: Sequence[Child], task: str, primary: str) -> None:
    keys = varying(children)
    here = {
        group: [child for child in members if (child.task or "", child.primary) == (task, primary)]
        for group, members in groups(children).items()
    }
    here = {group: members for group, members in here.items() if members}
    named = [i for i, key in enumerate(keys) if len({group[i] for group in here}) > 1]
    for number, (group, members) in enumerate(here.items()):
        cost, cost_sd = _mean_and_sd([child.metrics[COST] for child in members])
        accuracy, accuracy_sd = _mean_and_sd([child.metrics[f"test/{primary}"] for child in members])
        ax.errorbar(
            cost,
            accuracy,
            xerr=cost_sd,
            yerr=accuracy_sd,
            fmt=MARKERS[number // 10 % len(MARKERS)],
            color=f"C{number % 10}",
            capsize=3,
            label=" ".join(f"{keys[i]}={group[i]}" for i in named) or f"{len(members)} seeds",
        )
    ax.set(xlabel=COST_LABEL, ylabel=f"test {primary}")
    ax.set_title(f"{task}: accuracy against cost, mean ± sd over seeds".lstrip(": "), fontsize=11, loc="left")
    if len(here) <= NAMED_GROUPS:
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def search_history(values: Mapping[int, float], pruned: Mapping[int, float], *, metric: str, lower: bool) -> Figure:
    """The validation metric of each trial, and the best until then.

    Args: values: of trials that went to their end, by number. pruned: the best that others had reached.
    """
    figure = Figure(figsize=(9, 4.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    numbers = sorted(values)
    reached = [values[number] for number in numbers]
    best = np.minimum.accumulate(reached) if lower else np.maximum.accumulate(reached)
    ax.step(numbers, best, where="post", color=ORANGE, linewidth=1.4, label="best so far")
    ax.plot(numbers, reached, "o", color=BLUE, label="trial")
    ax.plot(list(pruned), list(pruned.values()), "x", color=GREY, label="pruned: best until then")
    ax.set(xlabel="trial", ylabel=f"validation {metric}")
    ax.set_title("search: validation metric by trial", fontsize=11, loc="left")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(frameon=False)
    return figure
