"""Ridge and logistic regression on one-hot features: what letters tell without a network.

Both are convex, so there is one answer and no seed. The penalty is chosen on the validation split, strongest first,
until two in a row are no better. On one core: seconds for tens of thousands of sequences, under a minute for the
500,000 residues that a residue task is fitted to at most, two minutes for a thousand classes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, log_softmax

from plmft import InputError
from plmft.data.records import IGNORE, Kind, Record
from plmft.models.onehot_features import Features, Matrix, Window, chunks, sequence_features

KINDS = (
    "sequence_regression",
    "sequence_classification",
    "pair_classification",
    "sequence_multilabel",
    "residue_classification",
)
ITERATIONS = 50  # of L-BFGS for each penalty, from where the stronger one ended
PATIENCE = 2  # penalties in a row that are no better than the best
BLOCK = 1 << 20  # scores that are held at a time


@dataclass(frozen=True)
class Linear:
    """A fitted linear model.

    Args:
        weights: (columns + 1, outputs) float64, the last row for the constant.
        penalty: the one that was chosen.
        notes: how it was fitted, a line each.
    """

    kind: Kind
    features: Features
    weights: np.ndarray
    penalty: float
    notes: tuple[str, ...] = ()

    def predict(self, records: Sequence[Record]) -> list[np.ndarray]:
        """In the form of Predictor.predict, in record order."""
        if not records:
            return []
        if self.kind == "residue_classification":
            return [row for part in chunks(records) for row in self._predict_residues(part)]
        scores = _scores(self.features.rows(records), self.weights)
        if self.kind == "sequence_regression":
            return list(scores[:, 0])
        return list(self._probabilities(scores))

    def _predict_residues(self, records: Sequence[Record]) -> list[np.ndarray]:
        probabilities = self._probabilities(_scores(self.features.rows(records), self.weights))
        return np.split(probabilities, np.cumsum([len(record.sequence) for record in records])[:-1])

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self.kind == "sequence_multilabel":
            return expit(scores).astype(np.float32)
        return np.exp(log_softmax(scores, axis=1)).astype(np.float32)


def choose_features(kind: Kind, records: Sequence[Record], train: Sequence[Record], window: int) -> Features:
    """Features for records of these lengths. Raises: InputError: no linear model is offered for the kind."""
    if kind not in KINDS:
        raise InputError(f"model=onehot_linear: there is none for {kind}. Choose model=majority or a network.")
    return Window(window) if kind == "residue_classification" else sequence_features(records, train)


def fit_linear(
    kind: Kind,
    features: Features,
    train: Sequence[Record],
    valid: Sequence[Record],
    n_classes: int,
    *,
    penalties: Sequence[float],
    score: Callable[[list[np.ndarray]], float | None],
    class_weights: np.ndarray | None = None,
) -> Linear:
    """Fit with each penalty, and keep the one that scores best on the validation split.

    Args:
        penalties: weight of half the squared coefficients beside the summed loss (of a ridge: of the squares beside
            the squared errors); the constant is free.
        score: takes predictions of `valid`; higher is better, None where it is not defined.
        class_weights: (C,), how much the targets of each class count in the loss; None: the same.
    Raises: InputError: nothing of the training split has a label.
    """
    notes = [features.told]
    if isinstance(features, Window) and len(used := features.sample(train)) < len(train):
        notes.append(
            f"Fitted to {len(used):,} of {len(train):,} training sequences, evenly drawn: some 500,000 residues."
        )
        train = used
    if kind == "sequence_regression":
        fit = _ridges(features, train)
    else:
        fit = _logistics(kind, features, train, np.ones(n_classes) if class_weights is None else class_weights)
    models = (Linear(kind, features, fit(penalty), penalty) for penalty in sorted(penalties, reverse=True))
    if valid:
        best, how = _best(models, lambda model: score(model.predict(valid)))
    else:
        best, how = next(models), "the strongest, as there is no validation split to choose on"
    return replace(best, notes=(*notes, f"Penalty {best.penalty:g}, {how}."))


def _best(models: Iterable[Linear], score: Callable[[Linear], float | None]) -> tuple[Linear, str]:
    """The model with the highest score, and how it was chosen; the first where no score is defined."""
    best, highest, worse, told = None, -math.inf, 0, []
    for model in models:
        value = score(model)
        told.append(f"{model.penalty:g}: {'undefined' if value is None else f'{value:.4f}'}")
        if best is None or (value is not None and value > highest):
            best, highest, worse = model, -math.inf if value is None else value, 0
        elif highest > -math.inf:
            worse += 1
        if worse == PATIENCE:
            break
    return best, f"chosen on valid ({', '.join(told)})"


def _ridges(features: Features, train: Sequence[Record]) -> Callable[[float], np.ndarray]:
    from sklearn.linear_model import Ridge

    rows, targets = features.rows(train).astype(np.float64), np.array([record.target for record in train], np.float64)
    solver = "cholesky" if isinstance(rows, np.ndarray) else "sparse_cg"

    def fit(penalty: float) -> np.ndarray:
        model = Ridge(alpha=penalty, solver=solver, tol=1e-6, max_iter=2000).fit(rows, targets)
        return np.append(model.coef_, model.intercept_)[:, None]

    return fit


def _logistics(
    kind: Kind, features: Features, train: Sequence[Record], class_weights: np.ndarray
) -> Callable[[float], np.ndarray]:
    rows, targets = _labelled(kind, features, train)
    if not len(targets):
        raise InputError(f"none of {len(train)} training sequences has a label. Check the labels.")
    weights = np.zeros((features.columns + 1, len(class_weights)))

    def fit(penalty: float) -> np.ndarray:
        nonlocal weights
        weights = fit_logistic(
            rows, targets, weights, penalty, class_weights, independent=kind == "sequence_multilabel"
        )
        return weights

    return fit


def _labelled(kind: Kind, features: Features, train: Sequence[Record]) -> tuple[Matrix, np.ndarray]:
    if isinstance(features, Window):
        return features.labelled(train)
    targets = np.array([record.target for record in train])
    kept = np.ones(len(train), bool) if kind == "sequence_multilabel" else targets != IGNORE
    return features.rows(train)[kept], targets[kept]


def fit_logistic(
    rows: Matrix,
    targets: np.ndarray,
    start: np.ndarray,
    penalty: float,
    class_weights: np.ndarray,
    *,
    independent: bool,
) -> np.ndarray:
    """(columns + 1, outputs) weights that minimise summed cross-entropy + penalty/2 x squared coefficients, by L-BFGS.

    Args:
        rows: (n, columns). targets: (n,) class numbers, or (n, outputs) of 0 and 1 if `independent`.
        start: weights to begin with; the last row is the constant, which is not penalised.
        class_weights: (outputs,), how much a row of each class counts; of independent outputs, how much a yes does.
        independent: each output is a yes or no of its own; else exactly one is true.
    """
    from scipy.optimize import minimize

    cross_entropy = _binary if independent else _multinomial
    step = max(1, BLOCK // start.shape[1])
    blocks = [(rows[i : i + step], targets[i : i + step]) for i in range(0, len(targets), step)]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        gradient = penalty * weights
        gradient[-1] = 0
        value = penalty / 2 * float(np.square(weights[:-1]).sum())
        for part, wanted in blocks:
            here, slope = cross_entropy(_scores(part, weights), wanted, class_weights)
            value += here
            gradient[:-1] += part.T @ slope.astype(part.dtype, copy=False)
            gradient[-1] += slope.sum(0)
        return value / len(targets), gradient.ravel() / len(targets)

    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "gtol": 1e-6})
    return found.x.reshape(start.shape)


def _multinomial(scores: np.ndarray, classes: np.ndarray, class_weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed cross-entropy, and its slope by score."""
    logarithms = log_softmax(scores, axis=1)
    each, weights = np.arange(len(classes)), class_weights[classes]
    value, slope = -float(weights @ logarithms[each, classes]), np.exp(logarithms)
    slope[each, classes] -= 1
    return value, weights[:, None] * slope


def _binary(scores: np.ndarray, labels: np.ndarray, class_weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The summed cross-entropy, and its slope by score."""
    weights = np.where(labels == 1, class_weights, 1.0)
    value = weights * (np.logaddexp(0, scores) - labels * scores)
    return float(value.sum()), weights * (expit(scores) - labels)


def _scores(rows: Matrix, weights: np.ndarray) -> np.ndarray:
    """(n, outputs) float64; products in the rows' own precision."""
    return (rows @ weights[:-1].astype(rows.dtype, copy=False)).astype(np.float64, copy=False) + weights[-1]
