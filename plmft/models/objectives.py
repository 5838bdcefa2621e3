"""What a kind of task minimises, and how a head's outputs become probabilities. Costs nothing beside the head."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from plmft.data.records import IGNORE, Kind


@dataclass(frozen=True)
class Objective:
    """A loss added up over targets, and probabilities.

    Args:
        loss: takes outputs (M, C), targets and (C,) weights or None; gives a scalar, in float32.
        probabilities: takes outputs (M, C); gives (M, C).
    """

    loss: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    probabilities: Callable[[Tensor], Tensor]


def squared_errors(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """outputs: (M, 1), targets: (M,), both standardised."""
    return F.mse_loss(outputs[:, 0], targets, reduction="sum")


def cross_entropies(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """outputs: (M, C), targets: (M,) class numbers or IGNORE."""
    return F.cross_entropy(outputs, targets, weight=weights, ignore_index=IGNORE, reduction="sum")


def label_entropies(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """outputs, targets: (M, C); weights count the labels that are there."""
    return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights, reduction="sum")


CLASSES = Objective(cross_entropies, lambda outputs: outputs.softmax(-1))
OBJECTIVES: dict[Kind, Objective] = {
    "sequence_regression": Objective(squared_errors, torch.Tensor.float),
    "sequence_classification": CLASSES,
    "pair_classification": CLASSES,
    "residue_classification": CLASSES,
    "sequence_multilabel": Objective(label_entropies, torch.sigmoid),
}
