"""A job of a search tells its study of each validation, and ends early where it is behind.

Costs a line in the study's file at each validation. Without the variable PLMFT_TRIAL nothing is done.
"""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from plmft.sweeps.jobs import SWEEP
from plmft.sweeps.search import PRUNED, TRIAL, own_trial
from plmft.training.distributed import Ranks

if TYPE_CHECKING:
    from optuna import Trial


class Pruned(Exception):
    """The run is behind others of its search, and ends without a test."""


def pruning(monitor: str, ranks: Ranks) -> list["Pruning"]:
    """The callback of a search's job; none elsewhere. monitor: the validation metric's name."""
    if TRIAL not in os.environ:
        return []
    return [Pruning(own_trial(Path(os.environ[SWEEP])) if ranks.first else None, monitor, ranks)]


class Pruning(pl.Callback):
    """Args: trial: rank 0's; None on others."""

    def __init__(self, trial: "Trial | None", monitor: str, ranks: Ranks) -> None:
        self._trial, self._monitor, self._ranks = trial, monitor, ranks
        self._pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report; the study's pruner decides."""
        if self._trial is not None:
            self._report(trainer.current_epoch + 1, pl_module.valid_metrics.get(self._monitor, math.nan))
        self._pruned = self._behind()
        trainer.should_stop = trainer.should_stop or self._pruned

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises: Pruned: also where a run goes on that was killed after it was decided."""
        if self._pruned or self._behind():
            if self._trial is not None:
                self._trial.set_user_attr(PRUNED, True)
            raise Pruned

    def _report(self, epoch: int, value: float) -> None:
        """Once: a run that goes on may validate an epoch again, to the same value."""
        if epoch not in self._trial.study.trials[self._trial.number].intermediate_values:
            self._trial.report(value, epoch)

    def _behind(self) -> bool:
        return self._ranks.broadcast(self._trial is not None and self._trial.should_prune())
