"""The processes of one run, its ranks: how this one finds the others, and the few things that they tell one another.

Only rank 0 prints, opens the MLflow run and writes. What is agreed on goes over the host (gloo), some 0.1 ms a message,
so that no device is waited for. Without other ranks every call here is free.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from plmft import InputError
from plmft.training.hardware import Hardware
from plmft.training.interrupts import EXCEPTIONS, interruption
from plmft.training.launching import FOLDER, slurm_environment

T = TypeVar("T")
# ranks wait for rank 0 while it downloads or fills a cache; a rank that dies is noticed otherwise
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Args:
        rank: of this process, from 0. world: how many there are. local: this one's number on its machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world == 1:
            return value
        told = [value]
        dist.broadcast_object_list(told, 0, group=_host)
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on rank 0; an empty list elsewhere."""
        if self.world == 1:
            return [value]
        found = [None] * self.world if self.first else None
        dist.gather_object(value, found, 0, group=_host)
        return found or []

    def gather_everywhere(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value, group=_host)
        return found

    def highest(self, value: int) -> int:
        """The highest of all ranks' numbers."""
        if self.world == 1:
            return value
        number = torch.tensor(value)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=_host)
        return int(number)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks of a tensor on the device; this one's is left as it is."""
        if self.world == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 first, then the others, so that what is downloaded or cached is made once and then read."""
        if not self.first:
            dist.barrier(group=_host)
        yield
        if self.first and self.world > 1:
            dist.barrier(group=_host)


ALONE = Ranks()
_ranks = ALONE
# The group for what the host knows, apart from the default one, which FSDP and DeepSpeed never let go of: while
# anything holds a group its threads go on, and one that frees a message while Python ends aborts the process.
_host: Any = None


def current_ranks() -> Ranks:
    """Those of the run that this process is part of."""
    return _ranks


@contextmanager
def joined(hardware: Hardware) -> Iterator[Ranks]:
    """Find the other ranks of a run on this hardware; leave them at the end.

    Raises: InputError: other processes are asked for and none were started, or not as many.
    """
    global _ranks, _host
    wanted = hardware.devices * hardware.nodes
    if wanted == 1:
        yield ALONE
        return
    os.environ.update(slurm_environment())
    if int(os.environ.get("WORLD_SIZE", "1")) != wanted:
        raise InputError(
            f"hardware.devices={hardware.devices}, hardware.nodes={hardware.nodes}: {wanted} processes are asked for, "
            f"but {os.environ.get('WORLD_SIZE', '1')} were started. Run python -m plmft.train, which starts those of "
            "one machine; for several, torchrun or srun with one process a device."
        )
    _ranks = _open(hardware)
    try:
        yield _ranks
    finally:
        _ranks, _host = ALONE, None
    dist.destroy_process_group()  # not after a failure: others may not answer any more


def _open(hardware: Hardware) -> Ranks:
    global _host
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    on_gpu = hardware.accelerator != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    shared = os.environ.get(FOLDER)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{Path(shared, 'rendezvous')}" if shared else "env://",
        rank=rank,
        world_size=world,
        timeout=LONGEST_WAIT,
    )
    _host = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
    return Ranks(rank, world, local)


class StopTogether(pl.Callback):
    """A signal ends training after the same step on all ranks: one that stopped alone would leave the others waiting,
    and to write a state takes all of them where weights are sharded. A state that is due is written after the same
    step, too. Both are agreed on in one message a step. A process that is alone needs none; it, too, ends its step.

    Args: due: whether it is time to write the state, asked after each training step; rank 0's answer counts.
    Attributes: asked, due: what is agreed on after this step: the signal that came, 0 for none, and whether to write.
    """

    def __init__(self, ranks: Ranks, due: Callable[[], bool] = lambda: False) -> None:
        self._ranks, self._is_due, self._heard = ranks, due, 0
        self._before: dict[int, Any] = {}
        self.asked, self.due = 0, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on a signal is remembered; Lightning's handlers, which would end a rank alone, are set by now."""
        if threading.current_thread() is not threading.main_thread():
            return  # signals go to the main thread alone
        heeded = [number for number in EXCEPTIONS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._remember) for number in heeded}

    on_test_start = on_train_start

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._heard and self._ranks.world == 1:
            raise interruption(self._heard)  # a second signal ends the step, too
        self._heard = self._heard or number  # a cluster that sent SIGUSR2 in time may send SIGTERM, too

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """From now on a signal interrupts at once, as before.

        Raises: KeyboardInterrupt: one has come.
        """
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before, self.asked, self._heard = {}, self._heard, 0
        self.end_if_asked()

    def on_train_batch_end(self, *_: object) -> None:
        """Agree."""
        self._agree(due=self._ranks.first and self._is_due())

    def on_validation_batch_end(self, *_: object) -> None:
        """Agree."""
        self._agree(due=False)

    on_test_batch_end = on_validation_batch_end

    def _agree(self, due: bool) -> None:
        self.asked, due = divmod(self._ranks.highest(2 * self._heard + due), 2)
        self.due = bool(due)

    def end_if_asked(self) -> None:
        """Raises: KeyboardInterrupt: a rank was told to stop; the kind that its signal stands for."""
        if self.asked:
            raise interruption(self.asked)
