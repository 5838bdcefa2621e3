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
from plmft.data.sampler import Filler
from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.models.predictor import Predictor
from plmft.training.back_off import BackOff
from plmft.training.distributed import ALONE, Ranks
from plmft.training.optim import Optim
from plmft.training.strategies import sharing_of

Score = Callable[[list[np.ndarray]], dict[str, float]]


class FineTuning(pl.LightningModule):
    """Trains a Predictor and scores its predictions over all samples at once.

    Args:
        score: takes the predictions of the validation split, in record order; gives its metrics.
        monitor: the metric that chooses the best checkpoint.
        total_steps: optimizer steps of the whole run, for the schedule.
        ranks: the processes that share the work. Predictions come together, and are scored, on rank 0.
    """

    def __init__(
        self,
        predictor: Predictor,
        optim: Optim,
        *,
        total_steps: int,
        score: Score,
        monitor: str,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.predictor = predictor
        self.back_off = BackOff(predictor, ranks.world)
        self.valid_metrics: dict[str, float] = {}
        self.predictions: list[list[np.ndarray]] = []  # by test split, each in record order
        self.valid_predictions: list[np.ndarray] = []  # in record order
        self.best: tuple[int, float] | None = None  # optimizer step, and score: the higher the better
        self._optim, self._total_steps, self._score, self._monitor = optim, total_steps, score, monitor
        self._ranks = ranks
        self._found: dict[int, dict[int, np.ndarray]] = {}  # by number of the loader, by record

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule, stepped once an optimizer step."""
        optimizer, schedule = self._optim.build(self.predictor, self._total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, step: StepBatch, batch_idx: int) -> Tensor:
        """One optimizer step; returns its mean loss a target."""
        optimizer, sharing = self.optimizers(), sharing_of(self.trainer.strategy)
        self.predictor.zero_grad()
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # fp16's; Lightning's step and backward use it
        scale = sharing.scale if scaler is None else scaler.scale(torch.ones((), device=self.device))

        def gradients(step: StepBatch) -> Tensor:
            left = self.predictor.backward_passes(step, self._ranks)

            def backward(loss: Tensor) -> None:
                nonlocal left
                left -= 1
                sharing.backward_begins(last=left == 0)
                with torch.autocast(self.device.type, enabled=False):  # it would round the head's gradients to bf16
                    self.manual_backward(loss)

            return self.predictor.backward_step(step, backward, scale, self._ranks)

        loss = self.back_off.gradients(step, gradients)
        sharing.sum_gradients(self.predictor)
        if scaler is not None:  # before clipping; the step is then skipped where a gradient is not finite
            scaler.unscale_(optimizer.optimizer)
        sharing.clip_gradients(self.predictor, self._optim.clip_norm)
        optimizer.step()
        self.lr_schedulers().step()
        return self._ranks.sum(loss)

    def on_validation_epoch_start(self) -> None:
        """Forget the predictions of the validation before."""
        self._found = {}

    def validation_step(self, batch: PackedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Predict; scores are computed at the end over all samples."""
        predicted = self.predictor.predict(batch)
        if isinstance(batch, Filler):
            return
        found = self._found.setdefault(dataloader_idx, {})
        found.update(zip(batch.index.tolist(), predicted, strict=True))

    def on_validation_epoch_end(self) -> None:
        """Score all samples, each once. A metric that is not defined counts as the worst."""
        found = self._in_order()
        self.valid_predictions = found[0] if found else []
        self.valid_metrics = self._ranks.broadcast(self._score(self.valid_predictions) if self._ranks.first else {})
        value = self.valid_metrics.get(self._monitor, math.nan)
        better = -value if self._monitor in LOWER_IS_BETTER else value
        if self.best is None or better > self.best[1]:
            self.best = (self.trainer.global_step, -math.inf if math.isnan(better) else better)
        self.log(self._monitor, value, logger=False)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Keep all predictions in record order."""
        self.predictions = self._in_order()

    def _in_order(self) -> list[list[np.ndarray]]:
        """On rank 0, by loader, those of all ranks; elsewhere nothing."""
        whole: dict[int, dict[int, np.ndarray]] = {}
        for theirs in self._ranks.gather(self._found):
            for loader, found in theirs.items():
                whole.setdefault(loader, {}).update(found)
        return [[found[i] for i in sorted(found)] for _, found in sorted(whole.items())]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changed: a frozen backbone is not written at every epoch."""
        fixed = {name for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in fixed}
