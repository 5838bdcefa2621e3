"""The callback that writes the state of a run and takes it up again. What a state holds: resuming.py.

States are written at the end of a step, when one is due or the run is told to stop, and at the end of each epoch, when
its validation has been judged. The last step of an epoch is left to the validation that follows.
"""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console

from plmft.training.checkpoints import Checkpoints
from plmft.training.data import PackedData
from plmft.training.distributed import Ranks, StopTogether
from plmft.training.metering import Metering
from plmft.training.resuming import packed, put_in_place, random_state, set_random_state


class Keeping(Checkpoint):
    """Lightning calls callbacks of this type last, when all others are done with a step or an epoch.

    Args:
        every_minutes: between two states; 0: after each step.
    Attributes: stop: the callback that tells whether a state is to be written after this step, and whether it is the
        last; to be given to the trainer, too.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        data: PackedData,
        metering: Metering,
        *,
        every_minutes: float,
        ranks: Ranks,
        console: Console,
    ) -> None:
        self._checkpoints, self._data, self._metering, self._ranks = checkpoints, data, metering, ranks
        self._every_s, self._written, self._console = 60 * every_minutes, time.monotonic(), console
        self._random: dict[str, Any] | None = None
        self._unvalidated = False
        self.stop = StopTogether(ranks, self._due)

    def _due(self) -> bool:
        return time.monotonic() - self._written >= self._every_s

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Random numbers go on where they were."""
        if self._random is not None:
            set_random_state(self._random)
            self._random = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: object) -> None:
        """Raises: KeyboardInterrupt: a signal came, and the state is written."""
        ends_epoch = self._data.ends_epoch(trainer.global_step)
        if self.stop.asked or (self.stop.due and not ends_epoch):
            self._write(trainer, unvalidated=ends_epoch)
        self.stop.end_if_asked()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Raises: KeyboardInterrupt: a signal came, and the state is written."""
        if self.stop.asked:
            self._write(trainer, unvalidated=True)
        self.stop.end_if_asked()

    def on_test_batch_end(self, *_: object) -> None:
        """Raises: KeyboardInterrupt: a signal came."""
        self.stop.end_if_asked()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write what is the best so far."""
        step = trainer.global_step
        if pl_module.best is None or pl_module.best[0] != step:
            return
        best = {"global_step": step, "score": pl_module.best[1], "valid": packed(pl_module.valid_predictions)}
        best["state_dict"] = trainer.strategy.lightning_module_state_dict()
        pl_module.on_save_checkpoint(best)
        trainer.strategy.save_checkpoint(best, self._checkpoints.at("best", step))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """An epoch is validated, and early stopping has decided."""
        self._write(trainer, unvalidated=False)

    def _write(self, trainer: pl.Trainer, *, unvalidated: bool) -> None:
        self._metering.meter.steps.pause()  # belongs to no step
        self._unvalidated = unvalidated
        trainer.save_checkpoint(self._checkpoints.at("step", trainer.global_step))
        if self._ranks.first:
            self._checkpoints.tidy()
        self._written = time.monotonic()
        self._metering.meter.steps.fetch_begin()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know of; its account of loops is not needed."""
        del checkpoint["loops"]
        done = trainer.should_stop or trainer.global_step == self._data.total_steps
        mine = {"random": random_state(), "meter": self._metering.meter.state_dict()}
        checkpoint |= {
            "unvalidated": self._unvalidated,
            "ended": done and not self._unvalidated,
            "best": None if pl_module.best is None else dict(zip(("step", "score"), pl_module.best, strict=True)),
            "back_off": pl_module.back_off.state_dict(),
            "ranks": self._ranks.gather(mine),
        }

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Begin where the state was taken."""
        steps = checkpoint["global_step"]
        put_in_place(trainer, checkpoint, self._data.steps_per_epoch)
        self._data.steps_done = steps
        best = checkpoint["best"]
        pl_module.best = None if best is None else (best["step"], best["score"])
        pl_module.back_off.load_state_dict(checkpoint["back_off"])
        if self._ranks.rank < len(checkpoint["ranks"]):
            mine = checkpoint["ranks"][self._ranks.rank]
            self._random = mine["random"]
            self._metering.go_on(mine["meter"])
        self._console.print(f"Going on from step {steps} of {self._data.total_steps}.", highlight=False)
