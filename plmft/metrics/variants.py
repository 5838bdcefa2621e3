"""Metrics of scores whose unit is not that of what was measured: only their order counts.

Spearman, AUROC and NDCG as ProteinGym computes them (Notin et al. 2023): AUROC of values above the median against the
others; NDCG with the measured values, scaled to [0, 1], as gains, over the best tenth. Cost: a few sorts.
"""

from collections.abc import Sequence

import numpy as np

from plmft.metrics.intervals import bootstrap_interval, spearman_interval
from plmft.metrics.ranking import auroc
from plmft.metrics.regression import paired, spearman

VARIANT_NAMES = ("spearman", "auroc", "ndcg")
TOP = 0.1


def variant_metrics(
    predicted: Sequence[float], measured: Sequence[float], classes: Sequence[str] = ()
) -> dict[str, float]:
    """By name; what is not defined is left out. Raises: ValueError: as regression_metrics."""
    predicted, measured = paired(predicted, measured)
    found = {
        "spearman": spearman(predicted, measured),
        "auroc": auroc(predicted, measured > np.median(measured)),
        "ndcg": ndcg(predicted, measured),
    }
    return {name: value for name, value in found.items() if value is not None}


def ndcg(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    """Discounted gain of the tenth that is predicted best over that of the tenth that is best; in [0, 1].

    Gains are the measured values, scaled so that the lowest is 0 and the highest 1. None if they are all equal or if a
    tenth of them is less than one. Ties stand in the order given.
    """
    count = int(len(measured) * TOP)
    if np.ptp(measured) == 0 or count == 0:
        return None
    gains = (measured - measured.min()) / np.ptp(measured)
    discounts = 1 / np.log2(np.arange(count) + 2)
    chosen, best = (np.argsort(-values, kind="stable")[:count] for values in (predicted, measured))
    return float(gains[chosen] @ discounts / (gains[best] @ discounts))


def variant_interval(
    primary: str, predicted: Sequence[float], measured: Sequence[float], classes: Sequence[str], seed: int
) -> tuple[float, float] | None:
    """The interval of one of VARIANT_NAMES; variants are resampled."""
    if primary == "spearman":
        return spearman_interval(predicted, measured, seed=seed)
    predicted, measured = paired(predicted, measured)

    def statistic(i: np.ndarray) -> float | None:
        return variant_metrics(predicted[i], measured[i]).get(primary)

    return bootstrap_interval(statistic, len(measured), seed=seed)
