"""What learning came to, however it was done."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from plmft.data.records import Split
from plmft.efficiency.phase import PhaseCost
from plmft.training.watching import History


@dataclass(frozen=True)
class Result:
    """Predictions and costs of a run; see Predictor.predict for the form of a prediction.

    Args:
        predictions: of each test split, in record order.
        valid: of the validation split, by the weights that were chosen; None where nothing was chosen.
        costs: by phase.
        history, best_step, steps: None and 0 where nothing was trained by steps.
        notes: what must be said about how it was done, a line each.
    """

    predictions: dict[Split, list[np.ndarray]]
    valid: list[np.ndarray] | None
    costs: dict[str, PhaseCost]
    history: History | None = None
    best_step: int = 0
    steps: int = 0
    stopped_early: bool = False
    notes: Sequence[str] = field(default=())
