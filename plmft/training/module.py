"""The thin Lightning module: one call of `training_step` is one optimizer step over packed micro-steps.

Optimisation is manual because Lightning counts micro-steps by number, while ours hold a token budget; the loss is
divided by the whole step's targets, so cutting it finer or coarser changes nothing but speed.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from plmft.data.packing import PackedBatch, StepBatch
from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.models.predictor import Predictor
from plmft.training.optim import Optim

Score = Callable[[list[np.ndarray]], dict[str, float]]


class FineTuning(pl.LightningModule):
    """Trains a Predictor and scores its predictions over all samples at once.

    Args:
        score: takes the predictions of the validation split, in record order; gives its metrics.
        monitor: the metric that chooses the best checkpoint.
        total_steps: optimizer steps of the whole run, for the schedule.
    """

    def __init__(self, predictor: Predictor, optim: Optim, *, total_steps: int, score: Score, monitor: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.predictor = predictor
        self.valid_metrics: dict[str, float] = {}
        self.predictions: list[list[np.ndarray]] = []  # by test split, each in record order
        self.best_valid: tuple[int, list[np.ndarray]] | None = None  # optimizer step, and predictions in record order
        self._optim, self._total_steps, self._score, self._monitor = optim, total_steps, score, monitor
        self._best_score = -math.inf
        self._found: dict[int, dict[int, np.ndarray]] = {}  # by number of the loader, by record

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule, stepped once an optimizer step."""
        optimizer, schedule = self._optim.build(self.predictor, self._total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, step: StepBatch, batch_idx: int) -> Tensor:
        """One optimizer step; returns its mean loss a target."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.predictor.backward_step(step, self.manual_backward)
        torch.nn.utils.clip_grad_norm_(self.predictor.parameters(), self._optim.clip_norm)
        optimizer.step()
        self.lr_schedulers().step()
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the predictions of the validation before."""
        self._found = {}

    def validation_step(self, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict; scores are computed at the end over all samples."""
        found = self._found.setdefault(dataloader_idx, {})
        found.update(zip(batch.index.tolist(), self.predictor.predict(batch), strict=True))

    def on_validation_epoch_end(self) -> None:
        """Score all samples, each once. A metric that is not defined counts as the worst."""
        (predictions,) = self._in_order()
        self.valid_metrics = self._score(predictions)
        value = self.valid_metrics.get(self._monitor, math.nan)
        better = -value if self._monitor in LOWER_IS_BETTER else value
        if self.best_valid is None or better > self._best_score:  # as ModelCheckpoint chooses
            self.best_valid = (self.trainer.global_step, predictions)
            self._best_score = -math.inf if math.isnan(better) else better
        self.log(self._monitor, value, logger=False)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Keep all predictions in record order."""
        self.predictions = self._in_order()

    def _in_order(self) -> list[list[np.ndarray]]:
        return [[found[i] for i in sorted(found)] for _, found in sorted(self._found.items())]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changed: a frozen backbone is not written at every epoch."""
        fixed = {name for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in fixed}
