"""Perplexity of a masked language model: e to the mean of -log p of the true residues, each where it was masked.

1 is certainty, 20 a fair guess among the amino acids. Costs a sum.
"""

from collections.abc import Sequence

import numpy as np

from plmft.metrics.intervals import bootstrap_interval

PERPLEXITY_NAMES = ("perplexity", "perplexity_per_protein")


def perplexity_metrics(
    predicted: Sequence[np.ndarray], measured: Sequence[None], classes: Sequence[str] = ()
) -> dict[str, float]:
    """Over all scored residues, and as a mean of the proteins' own; nothing where no residue was scored.

    Args: predicted: for each protein (L,) natural logarithms, NaN where a residue was not scored; proteins without a
        scored residue are left out. measured: not used.
    """
    sums, counts = _sums(predicted)
    if not len(sums):
        return {}
    own = np.exp(-sums / counts)
    return {"perplexity": float(np.exp(-sums.sum() / counts.sum())), "perplexity_per_protein": float(own.mean())}


def perplexity_interval(
    primary: str, predicted: Sequence[np.ndarray], measured: Sequence[None], classes: Sequence[str], seed: int
) -> tuple[float, float] | None:
    """The interval of one of PERPLEXITY_NAMES; proteins are resampled."""
    sums, counts = _sums(predicted)

    def statistic(i: np.ndarray) -> float:
        if primary == "perplexity":
            return float(np.exp(-sums[i].sum() / counts[i].sum()))
        return float(np.exp(-sums[i] / counts[i]).mean())

    return bootstrap_interval(statistic, len(sums), seed=seed)


def _sums(predicted: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    scored = [known for p in predicted if len(known := p[~np.isnan(p)])]
    return np.array([p.sum(dtype=np.float64) for p in scored]), np.array([len(p) for p in scored])
