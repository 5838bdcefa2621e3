"""Ridge and logistic regression on vectors, once for each penalty, and the one that is best on the validation split.

Both are convex, so there is one answer and no seed. All ridges together cost one decomposition; logistics one after
another, each from where the stronger one ended. Costs the training vectors twice more in memory, as float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from plmft.data.records import IGNORE, Kind, Record
from plmft.models.linear_baseline import Linear, fit_logistic

FITTED_RESIDUES = 100_000
ROUNDS = 8  # of 50 iterations of L-BFGS for each penalty, at most
PATIENCE = 3  # penalties in a row that are no better than the best
STILL = 1e-3  # a logistic whose weights move less in a round, against the largest, has arrived


class Scaled:
    """Vectors of records, each dimension centred and scaled by those of `fitted`; one that does not vary there is 0.

    Args: vectors: of each record (D,), or (L, D), a row a residue.
    """

    def __init__(self, vectors: Sequence[np.ndarray], records: Sequence[Record], fitted: Sequence[Record]) -> None:
        self._vectors = {r.id: np.atleast_2d(v) for r, v in zip(records, vectors, strict=True)}
        trained = self._raw(fitted)
        deviation = trained.std(0)
        vary = deviation > 1e-6 * np.maximum(1e-6, np.abs(trained).max(0))
        self._mean, self.columns = trained.mean(0), trained.shape[1]
        self._scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=vary)
        still = f"; {int((~vary).sum())} do not vary there" if not vary.all() else ""
        self.told = f"Features: {self.columns} dimensions, centred and scaled by train{still}."

    def _raw(self, records: Sequence[Record]) -> np.ndarray:
        return np.concatenate([self._vectors[record.id] for record in records]).astype(np.float64)

    def rows(self, records: Sequence[Record]) -> np.ndarray:
        """(n, D) float64, a row a record, or a row a residue, all records end to end."""
        return (self._raw(records) - self._mean) * self._scale


def fitted_to(kind: Kind, train: Sequence[Record]) -> tuple[Sequence[Record], str]:
    """All of train, or, of residues, every k-th protein, so that some FITTED_RESIDUES are fitted to; and a note."""
    residues = sum(len(record.target) for record in train) if kind == "residue_classification" else 0
    used = train[:: max(1, -(-residues // FITTED_RESIDUES))]
    if len(used) == len(train):
        return train, ""
    return used, f"Fitted to {len(used):,} of {len(train):,} training proteins, evenly drawn."


def fit_each(
    kind: Kind, features: Scaled, train: Sequence[Record], n_classes: int, penalties: Sequence[float]
) -> Iterator[Linear]:
    """A model for each penalty, the strongest first.

    Args:
        penalties: weight of the squared coefficients beside the squared errors; of a logistic, of half of them beside
            the summed cross-entropy. The constant is free.
    """
    rows = features.rows(train)
    if kind == "residue_classification":
        targets = np.concatenate([record.target for record in train])
        rows, targets = rows[targets != IGNORE], targets[targets != IGNORE]
    else:
        targets = np.array([record.target for record in train])
    fit = _ridges(rows, targets) if kind == "sequence_regression" else _logistics(kind, rows, targets, n_classes)
    for penalty in sorted(penalties, reverse=True):
        yield Linear(kind, features, fit(penalty), penalty, (features.told,))


def _ridges(rows: np.ndarray, targets: np.ndarray) -> Callable[[float], np.ndarray]:
    """Takes a penalty; gives (D + 1, 1). `rows` (n, D) are centred. The smaller of both Gram matrices is decomposed."""
    mean, wide = targets.mean(), rows.shape[1] > len(rows)
    values, vectors = np.linalg.eigh(rows @ rows.T if wide else rows.T @ rows)
    along = vectors.T @ (targets - mean if wide else rows.T @ (targets - mean))

    def fit(penalty: float) -> np.ndarray:
        found = vectors @ (along / (np.maximum(values, 0) + penalty))
        return np.append(rows.T @ found if wide else found, mean)[:, None]

    return fit


def _logistics(kind: Kind, rows: np.ndarray, targets: np.ndarray, n_classes: int) -> Callable[[float], np.ndarray]:
    """Takes a penalty, ever weaker ones; gives (D + 1, C)."""
    weights, alike = np.zeros((rows.shape[1] + 1, n_classes)), np.ones(n_classes)

    def fit(penalty: float) -> np.ndarray:
        nonlocal weights
        for _ in range(ROUNDS):
            before = weights
            weights = fit_logistic(rows, targets, before, penalty, alike, independent=kind == "sequence_multilabel")
            if np.abs(weights - before).max() <= STILL * np.abs(weights).max():
                break
        return weights

    return fit


def choose(models: Iterable[Linear], score: Callable[[Linear], float | None]) -> Linear:
    """The one with the highest score; of equal ones the first, and so of the strongest penalty.

    Weaker ones, which take ever longer, are no more fitted after PATIENCE in a row that are no better, but not before
    one was better than the first: the strongest may be so strong that they all say the same.
    """
    scored: list[tuple[Linear, float | None]] = []
    best, worse = 0, 0
    for model in models:
        scored.append((model, score(model)))
        if _value(scored[-1]) > _value(scored[best]):
            best, worse = len(scored) - 1, 0
        elif best > 0:
            worse += 1
        if worse == PATIENCE:
            break
    told = ", ".join(f"{m.penalty:g}: {'undefined' if s is None else f'{s:.4f}'}" for m, s in scored)
    note = f"Penalty {scored[best][0].penalty:g}, chosen on valid ({told})."
    if 0 < best == len(scored) - 1:
        note += " It is the weakest that was tried: give weaker ones, penalties=[...]."
    return replace(scored[best][0], notes=(*scored[best][0].notes, note))


def _value(scored: tuple[Linear, float | None]) -> float:
    return -math.inf if scored[1] is None else scored[1]
