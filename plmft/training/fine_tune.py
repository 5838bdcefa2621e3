"""Train, keep the best checkpoint by validation, test once from it. Lightning repeats; the parts compute."""

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.profilers import PassThroughProfiler
from rich.console import Console

from plmft import InputError
from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.models.predictor import Predictor
from plmft.training.checkpoints import Checkpoints, WholeCheckpoints
from plmft.training.data import PackedData
from plmft.training.distributed import ALONE, Ranks
from plmft.training.hardware import Device, Hardware
from plmft.training.keeping import Keeping
from plmft.training.metering import Metering
from plmft.training.module import FineTuning, Score
from plmft.training.optim import Optim
from plmft.training.pruning import pruning
from plmft.training.result import Result
from plmft.training.resuming import unpacked
from plmft.training.strategies import sharing_of, strategy_for
from plmft.training.watching import History, Log, ProgressBar

REMARKS = (
    "does not have many workers",
    "Checkpoint directory",
    "LeafSpec.*is deprecated",
    "in eval mode",
    "The `srun` command is available",  # a login node of a cluster
    "sync_dist=True",  # metrics are computed over all ranks before they are logged
)


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
    hardware: Hardware | None = None,
    ranks: Ranks = ALONE,
    every_minutes: float = 10.0,
) -> Result:
    """Train `predictor` in place and test it; go on from the newest state in `folder`, if there is one.

    Args:
        score, monitor: see FineTuning. folder: of checkpoints, written at each validation and `every_minutes`. log:
            takes metrics and their step; when training goes on, those that were logged before once more.
        hardware, ranks: the processes that share the work, and how; None: there is one. The result, and the whole of
            the tuned model, are rank 0's: the predictions of other ranks are empty.
    Raises: InputError: the loss diverged. KeyboardInterrupt: a signal came; the state is kept. Pruned: see pruning.py.
    """
    _quiet()
    total = data.total_steps
    module = FineTuning(predictor, optim, total_steps=total, score=score, monitor=monitor, ranks=ranks)
    history = History(log)
    kept = Checkpoints(folder)
    keeping = Keeping(kept, data, metering, every_minutes=every_minutes, ranks=ranks, console=console)
    watching = [keeping.stop, history, *_stopping(monitor, optim.patience), *pruning(monitor, ranks)]
    bar = ProgressBar(metering, console, total_steps=total, metric=monitor, every_s=30.0)
    callbacks = [*watching, bar, metering, keeping]
    trainer = _trainer(device, -(-total // data.steps_per_epoch), callbacks, folder, hardware, optim.clip_norm)
    sharing = sharing_of(trainer.strategy)
    if ranks.rank:  # dropout of its own; rank 0's is that of one process
        torch.manual_seed(torch.initial_seed() + ranks.rank)
    state = ranks.broadcast(_newest(kept, console) if ranks.first else None)
    _interruptible(trainer.fit, module, data, ckpt_path=state, weights_only=True)
    steps = trainer.global_step
    if module.best is None:
        raise InputError("No checkpoint was written: training ended before its first validation.")
    best = kept.best(module.best[0])
    sharing.load_weights(module, best["state_dict"])
    _interruptible(trainer.test, module, data, verbose=False)
    sharing.gather_weights(module)
    return Result(
        predictions=dict(zip(data.tests, module.predictions, strict=ranks.first)),
        valid=unpacked(best["valid"]),
        costs=metering.of_all_ranks(ranks, device),
        history=history,
        best_step=best["global_step"],
        steps=steps,
        stopped_early=steps < total,
        notes=tuple(module.back_off.notes),
    )


def _mode(monitor: str) -> str:
    return "min" if monitor in LOWER_IS_BETTER else "max"


def _newest(kept: Checkpoints, console: Console) -> Path | None:
    """The state to go on from, with what a kill left behind removed."""
    kept.tidy()
    return kept.newest(lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False))


def _stopping(monitor: str, patience: int | None) -> list[pl.Callback]:
    if patience is None:
        return []
    return [EarlyStopping(monitor, mode=_mode(monitor), patience=patience, check_finite=False)]


def _trainer(
    device: Device,
    epochs: int,
    callbacks: list[pl.Callback],
    folder: Path,
    hardware: Hardware | None,
    largest_norm: float,
) -> pl.Trainer:
    strategy = "auto" if hardware is None else strategy_for(hardware, device, largest_norm)
    alone = [LightningEnvironment()] if strategy == "auto" else []  # one process, also in a job of a cluster
    own_precision = hardware is not None and hardware.strategy.startswith("zero")  # the strategy's
    return pl.Trainer(
        accelerator=device.kind,
        devices=hardware.devices if hardware is not None else 1,
        num_nodes=hardware.nodes if hardware is not None else 1,
        strategy=strategy,
        precision=None if own_precision else device.lightning_precision,
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *alone],
        profiler=Unprofiled(),
        default_root_dir=folder,
        logger=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Unprofiled(PassThroughProfiler):
    """Lightning makes a context for each hook of each callback, some fifty a step: here all are the same empty one."""

    _empty: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        """Does nothing."""
        return self._empty


def _interruptible(call: Callable[..., Any], *args: object, **options: object) -> None:
    """Lightning turns Ctrl-C into SystemExit(1); give the caller the KeyboardInterrupt (or Terminated) that it was."""
    try:
        call(*args, **options)
    except SystemExit as exit_:
        if isinstance(exit_.__context__, KeyboardInterrupt):
            raise exit_.__context__ from None
        raise


def _quiet() -> None:
    """Silence Lightning's remarks about choices that are made here on purpose."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for text in REMARKS:
        warnings.filterwarnings("ignore", f".*{text}.*")
