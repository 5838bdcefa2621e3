"""What a training run keeps in order to go on, and how it is put back: to the same bits as if it had never stopped.

A state is that of the end of an optimizer step, or of a validation. It is Lightning's own dict of a trainer without its
account of its loops, which follows from the number of steps, and with what is ours. Plain dicts, lists, texts, numbers
and tensors: `torch.load(..., weights_only=True)` reads it.

    global_step       int: optimizer steps done. `divmod(global_step, steps_per_epoch)` is the loader's place: what a
                      step sees is a function of seed, epoch and step
    unvalidated       bool: the last step ended an epoch whose validation is still to come
    ended             bool: nothing is left to train; the tests come next
    best              {"step": int, "score": float}: of the best validation, higher is better; None before the first
    state_dict        {name: Tensor}: weights that learn, and buffers (StepNorm's running values among them)
    optimizer_states  [dict], lr_schedulers [dict]: as torch.optim tells them
    MixedPrecision    dict: of the GradScaler; fp16 only
    callbacks         {name: dict}: of EarlyStopping, and of History (what was logged)
    back_off          {"tokens": int | None, "notes": [str]}: the finer cut after an out-of-memory
    ranks             [{"random": dict, "meter": dict}] by rank: `random_state`, and PhaseMeter.state_dict of `fit`

A best checkpoint is {"global_step": int, "score": float, "state_dict": as above, "valid": {"values": Tensor, "shapes":
Tensor}}, the last being the predictions on the validation split (`packed`).

Where the number of processes has changed, a new rank draws random numbers of its own and begins to meter anew.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """Of all generators that this process may draw from."""
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [name, keys.tolist(), *rest],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on drawing where `random_state` was taken."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def packed(predictions: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Predictions as two tensors: all values in a row, (N, dimensions) int64 shapes."""
    values = [p.reshape(-1) for p in predictions]
    return {
        "values": torch.from_numpy(np.concatenate(values) if values else np.zeros(0)),
        "shapes": torch.tensor([p.shape for p in predictions], dtype=torch.int64),
    }


def unpacked(kept: dict[str, Tensor]) -> list[np.ndarray]:
    """The predictions again."""
    shapes = [tuple(shape) for shape in kept["shapes"].tolist()]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(kept["values"].numpy(), ends[:-1]) if shapes else []
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def put_in_place(trainer: pl.Trainer, state: dict[str, Any], steps_per_epoch: int) -> None:
    """Make Lightning's loops begin where `state` was taken.

    In the midst of an epoch they begin it again, and the loader leaves out the steps that were done.
    """
    steps = state["global_step"]
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    epoch.manual_optimization.optim_step_progress.total.ready = steps
    epoch.manual_optimization.optim_step_progress.total.completed = steps
    epoch._batches_that_stepped = steps
    whole = (steps - 1) // steps_per_epoch if state["unvalidated"] else steps // steps_per_epoch
    for progress in (fit.epoch_progress.total, fit.epoch_progress.current):
        progress.ready = progress.started = progress.processed = progress.completed = whole
    if state["ended"]:
        trainer.limit_train_batches = 0
    elif state["unvalidated"]:
        _before_validation(trainer, steps - whole * steps_per_epoch)


def _before_validation(trainer: pl.Trainer, done: int) -> None:
    """As Lightning finds itself when it restarts from a state taken inside a validation: the epoch has begun and all
    its steps are done, the validation has begun and none of it is.
    """
    fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
    for progress in (fit.epoch_progress.total, fit.epoch_progress.current):
        progress.ready += 1
        progress.started += 1
    for progress in (epoch.batch_progress.total, epoch.batch_progress.current):
        progress.ready = progress.started = progress.processed = progress.completed = done
    epoch.batch_progress.is_last_batch = True
    validated = epoch.val_loop.batch_progress.total
    validated.ready, validated.started, validated.processed, validated.completed = 1, 1, 0, 0
    fit.restarting = True
