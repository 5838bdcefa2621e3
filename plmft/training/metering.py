"""Lightning's hooks, translated for the meters: one PhaseMeter for training, one for the test."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl

from plmft.data.packing import PackedBatch, StepBatch
from plmft.efficiency.phase import PhaseCost, PhaseMeter

Flops = Callable[[Sequence[int]], float]


class Metering(pl.Callback):
    """Meters the phases fit and test. Must be the last callback, so that the others' work counts as part of a step.

    Validation inside training belongs to the phase's wall time, memory and energy, but to no step.
    Args:
        meter: makes a meter for a phase.
        train_flops, test_flops: FLOPs for token counts by sequence; None where no formula is known.
    """

    def __init__(self, meter: Callable[[], PhaseMeter], *, train_flops: Flops | None, test_flops: Flops | None) -> None:
        self._make = meter
        self._train_flops, self._test_flops = train_flops, test_flops
        self.meter: PhaseMeter | None = None
        self.costs: dict[str, PhaseCost] = {}

    @property
    def _steps(self) -> Any:
        return self.meter.steps

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the phase `fit`."""
        self.meter = self._make()
        self.meter.begin()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The loop asks for its first batch."""
        self._steps.fetch_begin()

    def on_train_batch_start(self, *_: object) -> None:
        """A step begins."""
        self._steps.step_begin()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """A step ends; the loop asks for the next batch."""
        lengths = [n for micro in batch.micro for n in micro.lengths]
        self._end_step(sum(m.residues for m in batch.micro), lengths, self._train_flops)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows belongs to no step."""
        self._steps.pause()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation belongs to no step."""
        if self.meter is not None:
            self._steps.pause()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the phase `fit`."""
        self.costs["fit"] = self.meter.end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the phase `test`."""
        self.meter = self._make()
        self.meter.begin()
        self._steps.fetch_begin()

    def on_test_batch_start(self, *_: object) -> None:
        """A forward pass begins."""
        self._steps.step_begin()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        *_: object,
    ) -> None:
        """A forward pass ends."""
        self._end_step(batch.residues, batch.lengths, self._test_flops)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the phase `test`."""
        self.costs["test"] = self.meter.end()

    def _end_step(self, residues: int, lengths: Sequence[int], flops: Flops | None) -> None:
        self._steps.step_end(
            residues=residues,
            sequences=len(lengths),
            tokens=sum(lengths),
            flops=flops(lengths) if flops else None,
        )
        self._steps.fetch_begin()
