"""Callbacks that watch a run and change nothing: what is logged, what is shown, what is kept when it is interrupted."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from plmft import InputError
from plmft.training.metering import Metering

Log = Callable[[dict[str, float], int], None]


class History(pl.Callback):
    """Logs the training loss every `every` steps and the validation metrics after each validation.

    Reading a loss waits for the device, which is why not every step is read.
    """

    def __init__(self, log: Log, every: int = 10) -> None:
        self._log, self._every = log, every
        self.train_loss: list[tuple[int, float]] = []
        self.valid: list[tuple[int, dict[str, float]]] = []

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
        self.train_loss.append((step, loss))
        self._log({"train/loss": loss, "train/lr": trainer.optimizers[0].param_groups[0]["lr"]}, step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the metrics that the module has just computed."""
        metrics = dict(pl_module.valid_metrics)
        self.valid.append((trainer.global_step, metrics))
        epoch = trainer.current_epoch + 1
        self._log({**{f"valid/{name}": value for name, value in metrics.items()}, "epoch": epoch}, trainer.global_step)


class KeepLast(pl.Callback):
    """Writes the state of an interrupted run, so that the work is not lost."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save the last state on Ctrl-C or SIGTERM."""
        if isinstance(exception, KeyboardInterrupt) and trainer.global_step:
            trainer.save_checkpoint(self._path)


class ProgressBar(pl.Callback):
    """A bar with time left, metric, residues/s and memory on a terminal; else a line now and then."""

    def __init__(self, metering: Metering, console: Console, *, total_steps: int, metric: str, every_s: float) -> None:
        self._metering, self._console, self._metric, self._every_s = metering, console, metric, every_s
        self._total, self._said = total_steps, time.monotonic()
        self._bar: Progress | None = None
        self._score = ""

    def _begin(self, name: str, total: int) -> None:
        if self._console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(
                TextColumn("{task.description}"), *columns, TextColumn("{task.fields[state]}"), console=self._console
            )
            self._bar.add_task(name, total=total, state="")
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
        """Show the bar of training."""
        self._begin("train", self._total)

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
