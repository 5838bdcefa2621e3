"""Trains in so many processes, and goes on where a run ended: `python ranks_at_work.py STRATEGY FOLDER RUNS`.

RUNS: a list of arguments of `go_on`, in JSON; what each run came to is `<run>-<n>.pt` in FOLDER, written by rank 0.
"""

import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from plmft.data.packing import EncodedSplit
from plmft.efficiency.phase import PhaseMeter
from plmft.models.build import build_predictor
from plmft.models.tokenizer import ESM
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.training import checkpoints
from plmft.training.checkpoints import Checkpoints
from plmft.training.data import PackedData
from plmft.training.distributed import Ranks, joined
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device, Hardware
from plmft.training.metering import Metering
from plmft.training.scoring import score
from plmft.training.strategies import EVEN
from tests.integration.test_training import SPEC, TASK, by_split, optim


def go_on(
    hardware: Hardware,
    ranks: Ranks,
    folder: Path,
    *,
    dropout: float = 0.0,
    every_minutes: float = 0.0,
    stop_at: int = -1,
    number: int = signal.SIGTERM,
    damage: str | None = None,
    kill_at: int = -1,
    victim: int = 0,
) -> dict[str, Any]:
    """Train three epochs of 6 steps each, in a folder that may hold a state.

    Args:
        stop_at: the last rank gets the signal `number` when this step is logged, and all stop after the next.
        damage: a file in the folder that is cut first. kill_at: rank `victim` is killed amid writing this step's state.
    """
    if damage and ranks.first:
        os.truncate(folder / damage, 100)
    if ranks.rank == victim:
        _die_at(kill_at)
    pl.seed_everything(0, verbose=False)
    options, splits = optim(epochs=3, weight_decay=0.1, clip_norm=0.5, decay="cosine"), by_split()
    head = replace(TASK.head, dropout=dropout)
    predictor = build_predictor(SPEC, Located("random"), tuning=Full(), head=head, kind=TASK.kind, outputs=3)
    encoded = {split: EncodedSplit(records, ESM, TASK.kind) for split, records in splits.items()}
    even = hardware.strategy in EVEN and ranks.world > 1
    data = PackedData(
        encoded, batch_size=9, tokens_per_batch=300, seed=0, optim=options, ranks=ranks, even=even
    )  # 48 records: the last step of an epoch holds 3
    told, logged = io.StringIO(), {}

    def log(values: dict[str, float], step: int) -> None:
        logged.setdefault(step, {}).update(values)
        if step == stop_at and ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), number)

    came_to: dict[str, Any] = {"ended_by": None}
    try:
        result = fine_tune(
            predictor,
            data,
            optim=options,
            device=Device("cpu", "fp32", None, ranks.local),
            metering=Metering(lambda: PhaseMeter("cpu"), train_flops=None, test_flops=None),
            score=lambda found: score(TASK, splits["valid"], found, seed=0, intervals=False),
            monitor="accuracy",
            folder=folder,
            log=log,
            console=Console(file=told, width=1000, quiet=not ranks.first),
            hardware=hardware,
            ranks=ranks,
            every_minutes=every_minutes,
        )
        came_to["predictions"] = [torch.from_numpy(p) for p in result.predictions["test"]] if ranks.first else []
    except KeyboardInterrupt as interrupt:
        came_to["ended_by"] = type(interrupt).__name__
    return {**came_to, "logged": logged, "told": told.getvalue(), **_state(folder)}


def _die_at(step: int) -> None:
    """This process is killed amid writing the state of this step."""
    write = checkpoints._write_to_disk

    def half(path: Path, content: Any) -> None:
        if f"step-{step:08d}" in str(path) and ".ckpt" in path.name:
            path.write_bytes(bytes(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    checkpoints._write_to_disk = half


def _state(folder: Path) -> dict[str, Any]:
    last = checkpoints.read(Checkpoints(folder).newest(print))
    return {
        "weights": last["state_dict"],
        "moments": {number: state["exp_avg"] for number, state in last["optimizer_states"][0]["state"].items()},
        "step": last["global_step"],
    }


def main() -> None:
    """One rank of two."""
    strategy, folder = sys.argv[1], Path(sys.argv[2])
    hardware = Hardware("cpu", "fp32", 300, None, devices=2, strategy=strategy)
    with joined(hardware) as ranks:
        for n, (run, options) in enumerate(json.loads(sys.argv[3])):
            came_to = go_on(hardware, ranks, folder / run, **options)
            if ranks.first:
                torch.save(came_to, folder / f"{run}-{n}.pt")
            torch.distributed.barrier()  # one that still reads a state must not meet what the next stage does to it


if __name__ == "__main__":
    main()
