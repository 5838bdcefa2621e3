"""Figures of contact predictions, in the style of plots.py: one protein's map, and the precision of all proteins.

Drawn as points, not as pictures of L x L pixels, so a protein of 1,000 residues costs no more than one of 100.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plmft.data.contacts import in_contact, known_pairs
from plmft.tracking.plots import BLUE, GREY, ORANGE


def contact_map(scores: np.ndarray, cb: np.ndarray, title: str) -> Figure:
    """True contacts below the diagonal, the L strongest predicted ones above it, right ones apart from wrong ones.

    Args:
        scores: (L, L) float, symmetric, higher is likelier. cb: (L, 3) Cβ coordinates in Å, NaN where unresolved.
        title: the protein's name and its precision, for instance.
    """
    length = len(cb)
    first, second = known_pairs(cb)
    true = in_contact(cb, first, second)
    strongest = np.argsort(-scores[first, second], kind="stable")[:length]
    figure = _figure(height=8.4)
    ax = figure.subplots()
    _unresolved(ax, cb)
    ax.plot([0.5, length + 0.5], [0.5, length + 0.5], color=GREY, linewidth=0.8)
    size = max(2.0, min(60.0, (500 / max(length, 1)) ** 2))  # an area in points: about a residue's width
    drawn = [
        (second[true] + 1, first[true] + 1, "black", f"contacts: {true.sum():,}"),
        *(
            (first[pairs] + 1, second[pairs] + 1, colour, f"{name}: {len(pairs):,}")
            for pairs, colour, name in (
                (strongest[true[strongest]], BLUE, "predicted rightly"),
                (strongest[~true[strongest]], ORANGE, "predicted wrongly"),
            )
        ),
    ]
    for across, down, colour, label in drawn:
        ax.scatter(down, across, s=size, color=colour, linewidths=0, marker="s", label=label)
    ax.set(xlim=(0.5, length + 0.5), ylim=(length + 0.5, 0.5), aspect="equal", xlabel="residue", ylabel="residue")
    ax.set_title(
        f"{title}\n{length:,} residues; below: the structure, above: the {len(strongest):,} strongest pairs",
        fontsize=11,
    )
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, markerscale=5 / size**0.5
    )
    return figure


def precision_by_protein(precisions: np.ndarray, lengths: np.ndarray, name: str) -> Figure:
    """How precision spreads over proteins, with its mean, and how it depends on length.

    Args:
        precisions: (P,) float in [0, 1], NaN where not defined, which is left out. lengths: (P,) residues.
        name: of the metric.
    """
    known = ~np.isnan(precisions)
    values, lengths = precisions[known], lengths[known]
    figure = _figure(height=4.2)
    left, right = figure.subplots(1, 2, sharey=True)
    left.hist(values, bins=np.linspace(0, 1, 21), orientation="horizontal", color=BLUE, edgecolor="white")
    right.scatter(lengths, values, s=16, color=BLUE, alpha=0.6, linewidths=0)
    if len(values):
        for ax in (left, right):
            ax.axhline(values.mean(), color=ORANGE, linewidth=1.4)
    left.set(ylim=(0, 1), xlabel="proteins", ylabel=name)
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="residues")
    mean = f", mean {values.mean():.3f}" if len(values) else ""
    figure.suptitle(f"{len(values):,} proteins{mean}", fontsize=11)
    return figure


def _unresolved(ax: Axes, cb: np.ndarray) -> None:
    """Shade rows and columns of residues without coordinates."""
    missing = np.isnan(cb).any(1)
    edges = np.flatnonzero(np.diff(np.r_[0, missing.astype(np.int8), 0]))
    for number, (begin, end) in enumerate(edges.reshape(-1, 2)):
        label = f"unresolved: {missing.sum():,} residues" if number == 0 else None
        ax.axvspan(begin + 0.5, end + 0.5, color=GREY, alpha=0.15, linewidth=0, label=label)
        ax.axhspan(begin + 0.5, end + 0.5, color=GREY, alpha=0.15, linewidth=0)


def _figure(height: float) -> Figure:
    return Figure(figsize=(9, height), dpi=100, layout="constrained")
