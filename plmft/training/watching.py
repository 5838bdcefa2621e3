"""Callbacks that watch a run and change nothing: what is logged, and what is shown."""

import math
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from plmft import InputError
from plmft.training.metering import Metering

Log = Callable[[dict[str, float], int], None]
LOSS, VALID = "train/loss", "valid/"


class History(pl.Callback):
    """Logs the training loss every `every` steps and the validation metrics after each validation.

    Reading a loss waits for the device, which is why not every step is read.
    """

    def __init__(self, log: Log, every: int = 10) -> None:
        self._log, self._every = log, every
        self._told: list[tuple[int, dict[str, float]]] = []

    @property
    def train_loss(self) -> list[tuple[int, float]]:
        """By optimizer step."""
        return [(step, values[LOSS]) for step, values in self._told if LOSS in values]

    @property
    def valid(self) -> list[tuple[int, dict[str, float]]]:
        """Metrics by optimizer step."""
        found = [(step, {k: v for k, v in values.items() if k.startswith(VALID)}) for step, values in self._told]
        return [(step, {k.removeprefix(VALID): v for k, v in values.items()}) for step, values in found if values]

    def _tell(self, values: dict[str, float], step: int) -> None:
        self._told.append((step, values))
        self._log(values, step)

    def state_dict(self) -> dict[str, Any]:
        """All that was logged."""
        return {"told": [(step, dict(values)) for step, values in self._told]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Log it again: what takes it knows what it has, and a machine that went down may have lost the end."""
        for step, values in state_dict["told"]:
            self._tell(values, step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        *_: object,
    ) -> None:
        """Raises: InputError: the loss is no longer a number."""
        step = trainer.global_step
        if step % self._every and step != 1:
            return
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            raise InputError(
                f"The training loss is {loss} at step {step}. Lower optim.lr, or set hardware.precision=fp32."
            )
        self._tell({LOSS: loss, "train/lr": trainer.optimizers[0].param_groups[0]["lr"]}, step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the metrics that the module has just computed."""
        metrics = {f"{VALID}{name}": value for name, value in pl_module.valid_metrics.items()}
        self._tell({**metrics, "epoch": trainer.current_epoch + 1}, trainer.global_step)


class ProgressBar(pl.Callback):
    """A bar with time left, metric, residues/s and memory on a terminal; else a line now and then."""

    def __init__(self, metering: Metering, console: Console, *, total_steps: int, metric: str, every_s: float) -> None:
        self._metering, self._console, self._metric, self._every_s = metering, console, metric, every_s
        self._total, self._said = total_steps, time.monotonic()
        self._bar: Progress | None = None
        self._score = ""

    def _begin(self, name: str, total: int, done: int = 0) -> None:
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, TextColumn("{task.fields[state]}"), console=self._console
            )
            self._bar.add_task(name, total=total, completed=done, state="")
            self._bar.start()

    def _advance(self, name: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, state=self._state())
        elif time.monotonic() - self._said > self._every_s:
            self._said = time.monotonic()
            self._console.print(f"{name} {done}/{total}  {self._state()}", highlight=False)

    def _state(self) -> str:
        rate = self._metering.meter.steps.recent_residues_per_s
        memory = self._metering.meter.memory.peak()
        peak = memory.get("peak_memory_gb", memory.get("peak_host_memory_gb"))
        parts = [self._score, f"{rate:,.0f} residues/s" if rate else "", f"{peak:.2f} GB" if peak else ""]
        return "  ".join(part for part in parts if part)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar of training, from where the run is."""
        self._begin("train", self._total, trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Move it."""
        self._advance("train", trainer.global_step, self._total)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Show the metric."""
        score = pl_module.valid_metrics.get(self._metric)
        self._score = f"valid {self._metric} " + (f"{score:.3f}" if score is not None else "undefined")
        if self._bar is None:
            self._console.print(
                f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}/{self._total}: {self._state()}",
                highlight=False,
            )

    def on_train_end(self, *_: object) -> None:
        """Close it."""
        self._end()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar of the test."""
        self._score = ""
        self._begin("test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(self, trainer: pl.Trainer, *args: object) -> None:
        """Move it."""
        self._advance("test", int(args[3]) + 1, int(sum(trainer.num_test_batches)))

    def on_test_end(self, *_: object) -> None:
        """Close it."""
        self._end()

    def on_exception(self, *_: object) -> None:
        """Give the terminal back."""
        self._end()
