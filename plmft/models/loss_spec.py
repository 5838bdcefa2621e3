"""What a user chooses of the loss. Light, so that a config is checked without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plmft import InputError
from plmft.data.records import IGNORE, Kind

CLASSES = ("sequence_classification", "pair_classification", "residue_classification")


@dataclass(frozen=True)
class Loss:
    """How targets count in training; scores are never weighted.

    Args:
        class_weights: balanced weights each class by the inverse of its frequency in the training split (a label of
            several by the ratio of those without it to those with it), so that their sum stays that of equal weights.
        standardize: train a regression on targets less their mean, over their deviation.
    """

    class_weights: Literal["equal", "balanced"]
    standardize: bool

    def weights(self, kind: Kind, targets: Sequence[Any], n_classes: int) -> np.ndarray | None:
        """(C,) float32 weights for the training targets, or None where all count the same.

        Raises: InputError: balanced was asked for a task without classes.
        """
        if self.class_weights == "equal":
            return None
        if kind == "sequence_multilabel":
            with_label = np.sum(targets, axis=0)
            return _ratio(len(targets) - with_label, with_label)
        if kind not in CLASSES:
            raise InputError("loss.class_weights=balanced: this task has no classes. Set equal.")
        labels = np.concatenate([np.atleast_1d(target) for target in targets])
        counts = np.bincount(labels[labels != IGNORE], minlength=n_classes)
        return _ratio(np.full(n_classes, counts.sum() / max(1, (counts > 0).sum())), counts)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.ones(len(below)), where=(below > 0) & (above > 0)).astype(np.float32)
