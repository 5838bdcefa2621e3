"""Metrics of scores whose unit is not that of what was measured: only their order counts.

Spearman, AUROC and NDCG as ProteinGym computes them (Notin et al. 2023): AUROC of values above the median against the
others; NDCG with the measured values, scaled to [0, 1], as gains, over the best tenth. Cost: a few sorts. For some of
its assays ProteinGym has another cutoff than the median, chosen by hand (column DMS_score_bin): it is not used here.
"""

from collections.abc import Callable, Sequence

import numpy as np

from plmft.metrics.intervals import bootstrap_interval, spearman_interval
from plmft.metrics.ranking import auroc
from plmft.metrics.regression import paired, spearman

TOP = 0.1


def variant_metrics(
    predicted: Sequence[float], measured: Sequence[float], classes: Sequence[str] = ()
) -> dict[str, float]:
    """By name; what is not defined is left out. Raises: ValueError: as regression_metrics."""
    predicted, measured = paired(predicted, measured)
    found = {name: metric(predicted, measured) for name, metric in VARIANTS.items()}
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

    metric = VARIANTS[primary]
    return bootstrap_interval(lambda i: metric(predicted[i], measured[i]), len(measured), seed=seed)


def _auroc(predicted: np.ndarray, measured: np.ndarray) -> float | None:
    return auroc(predicted, measured > np.median(measured))


VARIANTS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "spearman": spearman,
    "auroc": _auroc,
    "ndcg": ndcg,
}
VARIANT_NAMES = tuple(VARIANTS)
