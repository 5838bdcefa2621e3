"""Lightning's hooks, translated for the meters: one PhaseMeter for training, one for the test."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl

from plmft.data.packing import PackedBatch, StepBatch
from plmft.data.sampler import Filler
from plmft.efficiency.phase import PhaseCost, PhaseMeter
from plmft.efficiency.ranks import RankCost, join_ranks
from plmft.training.distributed import Ranks
from plmft.training.hardware import Device

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
        self._sequences: dict[str, int] = {}  # by phase

    @property
    def _steps(self) -> Any:
        return self.meter.steps

    def go_on(self, state: dict[str, Any]) -> None:
        """With the phase `fit` of an earlier process, whose PhaseMeter told its state; before or after its start."""
        self.meter = self.meter or self._make()
        self.meter.load_state_dict(state)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the phase `fit`, or go on with it."""
        self.meter = self.meter or self._make()
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
        counted = [micro for micro in batch.micro if not isinstance(micro, Filler)]
        lengths = [n for micro in counted for n in micro.lengths]
        self._end_step(sum(m.residues for m in counted), lengths, self._train_flops)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows belongs to no step."""
        self._steps.pause()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation belongs to no step."""
        if self.meter is not None:
            self._steps.pause()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the phase `fit`."""
        self._end_phase("fit")

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
        if isinstance(batch, Filler):
            self._end_step(0, (), self._test_flops)
        else:
            self._end_step(batch.residues, batch.lengths, self._test_flops)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the phase `test`."""
        self._end_phase("test")

    def _end_phase(self, name: str) -> None:
        self.costs[name] = self.meter.end()
        self._sequences[name] = self.meter.steps.total_sequences

    def of_all_ranks(self, ranks: Ranks, device: Device) -> dict[str, PhaseCost]:
        """What the phases cost on all ranks together, on rank 0; elsewhere this one's costs."""
        return {name: cost_of_ranks(cost, ranks, device, self._sequences[name]) for name, cost in self.costs.items()}

    def _end_step(self, residues: int, lengths: Sequence[int], flops: Flops | None) -> None:
        self._steps.step_end(
            residues=residues,
            sequences=len(lengths),
            tokens=sum(lengths),
            flops=(flops(lengths) if lengths else 0.0) if flops else None,
        )
        self._steps.fetch_begin()


def cost_of_ranks(cost: PhaseCost, ranks: Ranks, device: Device, sequences: int = 0) -> PhaseCost:
    """What a phase cost on all ranks together, on rank 0; elsewhere this one's cost. Called on every rank."""
    own = RankCost(cost, sequences, has_devices=device.kind == "gpu" or ranks.local == 0)
    return join_ranks(ranks.gather(own) or [own])
