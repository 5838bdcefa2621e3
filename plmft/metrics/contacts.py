"""Precision of predicted contacts (Rao et al. 2019, TAPE; Rao et al. 2021), by protein, with its true length L.

P@L/k is the share of contacts among the L/k highest-scored pairs (rounded down) of a range of separations; pairs with
an unresolved residue are no candidates, and each pair is taken once. Where pairs of equal score compete for the last
places, the share is the expected one over their orders, so no order of the pairs can flatter. Costs a sort a protein.
"""

from collections.abc import Sequence

import numpy as np

from plmft import InputError
from plmft.data.contacts import in_contact, known_pairs
from plmft.data.records import Record
from plmft.metrics.intervals import bootstrap_interval

RANGES = {"": (6, np.inf), "_short": (6, 11), "_medium": (12, 23), "_long": (24, np.inf)}  # separations, ends included
PARTS = {"precision_at_l": 1, "precision_at_l2": 2, "precision_at_l5": 5}
CONTACT_NAMES = tuple(f"{part}{suffix}" for suffix in RANGES for part in PARTS)


def contact_metrics(
    predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], classes: Sequence[str] = ()
) -> dict[str, float]:
    """P@L, P@L/2 and P@L/5 for all separations from 6 up, short (6-11), medium (12-23) and long (24 up): means over
    proteins.

    Where a protein has fewer candidates than L/k, the share among those it has is taken; one without a candidate in a
    range, or with L below k, is left out of that mean. Fewer contacts than L/k keep even a perfect predictor below 1.

    Args: predicted: for each protein (L, L), higher is likelier. measured: for each (L, 3) Cβ coordinates in Å.
    Returns: by name; what no protein defines is left out.
    Raises: InputError: no protein has a known pair. ValueError: a score of a known pair is not finite.
    """
    by_protein = precisions(predicted, measured)
    if np.isnan(by_protein).all():
        raise InputError(
            "no protein has two resolved residues 6 or more apart: nothing to score. Check the coordinates."
        )
    means = {name: column[~np.isnan(column)] for name, column in zip(CONTACT_NAMES, by_protein.T, strict=True)}
    return {name: float(values.mean()) for name, values in means.items() if len(values)}


def precisions(predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray]) -> np.ndarray:
    """(P, len(CONTACT_NAMES)) of each protein, NaN where not defined. Args: as contact_metrics."""
    return np.array([_of_protein(scores, cb) for scores, cb in zip(predicted, measured, strict=True)])


def _of_protein(scores: np.ndarray, cb: np.ndarray) -> list[float]:
    if scores.shape != (len(cb), len(cb)):
        raise ValueError(f"scores of shape {scores.shape} for {len(cb)} residues.")
    first, second = known_pairs(cb)
    values, hits, apart = scores[first, second], in_contact(cb, first, second), second - first
    if not np.isfinite(values).all():  # it would be left out of the mean as if nothing were known of it
        raise ValueError(
            f"{(~np.isfinite(values)).sum()} of {len(values)} scores of a protein are not finite. "
            "If training diverged, lower the learning rate or raise the precision."
        )
    found = []
    for low, high in RANGES.values():
        inside = (apart >= low) & (apart <= high)
        found += [expected_precision(values[inside], hits[inside], len(cb) // part) for part in PARTS.values()]
    return found


def expected_precision(scores: np.ndarray, hits: np.ndarray, k: int) -> float:
    """Share of hits among the k highest scores, or among all if they are fewer; NaN if that is none.

    Args: scores: (n,) float. hits: (n,) bool.
    """
    k = min(k, len(scores))
    if k == 0:
        return float("nan")
    last = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, level = scores > last, scores == last
    places = k - above.sum()
    return float((hits[above].sum() + places * hits[level].mean()) / k)


def contact_interval(
    primary: str, predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], classes: Sequence[str], seed: int
) -> tuple[float, float] | None:
    """The interval of one of CONTACT_NAMES; proteins for which it is defined are resampled."""
    values = precisions(predicted, measured)[:, CONTACT_NAMES.index(primary)]
    values = values[~np.isnan(values)]
    return bootstrap_interval(lambda i: float(values[i].mean()), len(values), seed=seed)


def separation_baseline(train: Sequence[Record], test: Sequence[Record]) -> list[np.ndarray]:
    """(L, L) float32 for each test record: how often training pairs of the same separation are in contact.

    Separations beyond those of training have frequency 0.
    """
    longest = max(len(r.sequence) for r in (*train, *test))
    contacts, pairs = np.zeros(longest), np.zeros(longest)
    for record in train:
        first, second = known_pairs(record.target)
        pairs += np.bincount(second - first, minlength=longest)
        contacts += np.bincount((second - first)[in_contact(record.target, first, second)], minlength=longest)
    frequency = np.divide(contacts, pairs, out=np.zeros(longest), where=pairs > 0).astype(np.float32)
    places = [np.arange(len(record.sequence)) for record in test]
    return [frequency[np.abs(at[:, None] - at[None, :])] for at in places]
