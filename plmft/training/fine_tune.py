"""Train, keep the best checkpoint by validation, test once from it. Lightning repeats; the parts compute."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rich.console import Console

from plmft import InputError
from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.models.predictor import Predictor
from plmft.training.checkpoints import WholeCheckpoints
from plmft.training.data import PackedData
from plmft.training.hardware import Device
from plmft.training.metering import Metering
from plmft.training.module import FineTuning, Score
from plmft.training.optim import Optim
from plmft.training.result import Result
from plmft.training.watching import History, KeepLast, Log, ProgressBar


def fine_tune(
    predictor: Predictor,
    data: PackedData,
    *,
    optim: Optim,
    device: Device,
    metering: Metering,
    score: Score,
    monitor: str,
    folder: Path,
    log: Log,
    console: Console,
) -> Result:
    """Train `predictor` in place and test it.

    Args:
        score, monitor: see FineTuning. folder: where checkpoints are written. log: takes metrics and their step.
    Raises: InputError: the loss diverged. KeyboardInterrupt: Ctrl-C; folder/last.ckpt is kept.
    """
    _quiet()
    total = data.total_steps
    module = FineTuning(predictor, optim, total_steps=total, score=score, monitor=monitor)
    history = History(log)
    mode = "min" if monitor in LOWER_IS_BETTER else "max"
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    callbacks = [history, best, last, KeepLast(folder / "last.ckpt")]
    if optim.patience is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=optim.patience, check_finite=False))
    callbacks += [ProgressBar(metering, console, total_steps=total, metric=monitor, every_s=30.0), metering]
    trainer = _trainer(device, -(-total // data.steps_per_epoch), callbacks, folder)
    _interruptible(trainer.fit, module, data)
    steps = trainer.global_step
    best_step = _restore(module, Path(best.best_model_path))
    _interruptible(trainer.test, module, data, verbose=False)
    valid_step, valid = module.best_valid
    if valid_step != best_step:
        raise RuntimeError(f"Validation was best at step {valid_step}, but the best checkpoint is of step {best_step}.")
    return Result(
        predictions=dict(zip(data.tests, module.predictions, strict=True)),
        valid=valid,
        costs=metering.costs,
        history=history,
        best_step=best_step,
        steps=steps,
        stopped_early=steps < total,
    )


def _trainer(device: Device, epochs: int, callbacks: list[pl.Callback], folder: Path) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device.kind,
        devices=1,
        precision=device.lightning_precision,
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        plugins=[WholeCheckpoints()],
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _interruptible(call: Callable[..., Any], *args: object, **options: object) -> None:
    """Lightning turns Ctrl-C into SystemExit(1); give the caller the KeyboardInterrupt (or Terminated) that it was."""
    try:
        call(*args, **options)
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):
            raise exit_.__context__ from None
        raise


def _restore(module: FineTuning, path: Path) -> int:
    """Load the best weights; returns the optimizer step that they were saved at."""
    if not path.is_file():
        raise InputError("No checkpoint was written: training ended before its first validation.")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    return int(checkpoint["global_step"])


def _quiet() -> None:
    """Silence Lightning's remarks about choices that are made here on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for text in ("does not have many workers", "Checkpoint directory", "LeafSpec.*is deprecated", "in eval mode"):
        warnings.filterwarnings("ignore", f".*{text}.*")
