"""How far probabilities can be believed: calibration error, and the one temperature that mends most of it.

Temperature scaling (Guo et al. 2017) divides the logits by T, chosen for the least negative log-likelihood on
validation labels. It changes no ranking of classes, so accuracy stays. Costs some 15 passes over the probabilities:
0.2 s for 270,000 residues of 3 classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

TEMPERATURES = (0.05, 20.0)  # where every label is guessed right, the likelihood wants 0; beyond these it says nothing
SMALLEST = float(np.finfo(np.float32).tiny)  # a probability of 0 has underflowed: its logarithm is that of this
HALF_STEP_BELOW_ONE = 2.0**-25  # what float32 cannot tell from nothing, next to 1


@dataclass(frozen=True)
class Reliability:
    """Mean confidence and share right in bins of confidence, as a reliability diagram shows them.

    Args:
        confidence, accuracy: (bins,) float64 in [0, 1]; NaN in an empty bin. count: (bins,) int64.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, weighted by count (Guo et al. 2017)."""
        filled = self.count > 0
        distance = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float(self.count[filled] @ distance / self.count.sum())


def reliability(probabilities: np.ndarray, measured: np.ndarray, bins: int = 15) -> Reliability:
    """Reliability of the likeliest class, in bins of equal width; a bin has its upper edge, not its lower.

    Args:
        probabilities: (n, C) float. measured: (n,) class numbers, all known.
    Raises: ValueError: no samples, unequal lengths, a probability outside [0, 1], a class outside [0, C).
    """
    probabilities, measured = _checked(probabilities, measured)
    return _binned(probabilities.max(1), probabilities.argmax(1) == measured, bins)


def label_reliability(probabilities: np.ndarray, measured: np.ndarray, bins: int = 15) -> Reliability:
    """Reliability over all (sequence, label) pairs: how often a label that is given p is there.

    Args: probabilities: (n, C) float. measured: (n, C) 0 or 1. Raises: as reliability.
    """
    pairs, there = two_classes(probabilities, measured)
    pairs, there = _checked(pairs, there)
    return _binned(pairs[:, 1], there == 1, bins)


def expected_calibration_error(probabilities: np.ndarray, measured: np.ndarray, bins: int = 15) -> float:
    """The error of `reliability`, in [0, 1]. Args, Raises: as there."""
    return reliability(probabilities, measured, bins).error


def fit_temperature(probabilities: np.ndarray, measured: np.ndarray) -> float:
    """The temperature in TEMPERATURES under which the measured classes are likeliest; above 1: was too sure.

    Args: probabilities: (n, C) float. measured: (n,) class numbers, all known. Raises: as reliability.
    """
    probabilities, measured = _checked(probabilities, measured)
    logs = _logarithms(probabilities)
    logs -= logs.max(1, keepdims=True)  # so that no exponential overflows
    measured_log = float(logs[np.arange(len(logs)), measured].mean())

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.log(np.exp(logs * inverse).sum(1)).mean()) - inverse * measured_log

    # The loss is convex in 1/T, so it has one minimum in log T as well.
    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(..., C) float32: probabilities of classes after division of their logits by the temperature."""
    return softmax(_logarithms(probabilities) / temperature, axis=-1).astype(np.float32)


def labels_with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(..., C) float32: each label's probability after division of its own logit by the temperature."""
    return with_temperature(_absent_or_there(probabilities), temperature)[..., 1]


def two_classes(probabilities: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n·C, 2) probabilities and (n·C,) classes of "label absent" and "label there", for the functions of classes.

    Args: probabilities: (n, C) float. measured: (n, C) 0 or 1.
    """
    return _absent_or_there(probabilities).reshape(-1, 2), np.asarray(measured).astype(np.int64).reshape(-1)


def _absent_or_there(probabilities: np.ndarray) -> np.ndarray:
    there = np.asarray(probabilities, np.float64)
    return np.stack([np.maximum(1 - there, HALF_STEP_BELOW_ONE), there], axis=-1)


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))


def _binned(confidence: np.ndarray, right: np.ndarray, bins: int) -> Reliability:
    at = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(at, minlength=bins)
    means = [
        np.divide(np.bincount(at, weights, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for weights in (confidence, right)
    ]
    return Reliability(means[0], means[1], count)


def _checked(probabilities: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probabilities, measured = np.asarray(probabilities), np.asarray(measured)
    if probabilities.ndim != 2 or measured.shape != probabilities.shape[:1] or not len(measured):
        raise ValueError(
            f"probabilities have shape {probabilities.shape} and measured {measured.shape}; they must be (n, C) and "
            "(n,), with n at least 1."
        )
    wrong = np.argwhere(~((probabilities >= 0) & (probabilities <= 1 + 1e-4)))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"probabilities: {probabilities[row, column]} of class {column} in row {row} (from 0); they lie in [0, 1]. "
            "If training diverged, lower the learning rate or raise the precision."
        )
    if measured.min() < 0 or measured.max() >= probabilities.shape[1]:
        raise ValueError(
            f"measured: classes {measured.min()} to {measured.max()}; known are 0 to {probabilities.shape[1] - 1}. "
            "Leave out what has no label."
        )
    return probabilities, measured
