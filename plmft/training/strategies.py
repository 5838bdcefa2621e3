"""How the processes of one run share a model: a replica each (DDP), or its weights sharded among them (FSDP2).

Each strategy is Lightning's, with the few calls of `Sharing` beside it. `FineTuning.training_step` is the one caller,
in this order, on every rank:

    strategy.backward_begins(last)      before each backward pass; `last`: of the optimizer step
    module.manual_backward(loss)        Lightning's own; goes to strategy.backward
    strategy.sum_gradients(predictor)   once a step: p.grad becomes the sum over ranks, not the mean
    strategy.clip_gradients(predictor, largest_norm)
    optimizer.step()                    Lightning's own; goes to strategy.optimizer_step

The loss that each rank passes on is already divided by the whole step's targets. A strategy whose passes talk to the
other ranks sets `even`: every rank then makes as many passes, with a `Filler` (a short batch, whose loss is multiplied
by 0) where it has no records left. Where not, a rank may have none, and makes no pass in that step.
A state has one layout, that of one process (see resuming.py). Replicas have rank 0 write it; where weights are sharded,
`lightning_module_state_dict` and `optimizer_state` tell the fragments that a rank holds, and each writes its own (see
sharded_checkpoints.py). What is read is whole in any case: `load_weights` takes it, and `load_optimizer_state_dict`, on
any number of ranks. `gather_weights` makes the model whole again when training has ended.

Replicas exchange gradients once a step, in buckets: 4 bytes a weight that learns. Shards are gathered layer by layer in
each pass: a third more traffic than that for each micro-step, for 1/ranks of weights, gradients and optimizer state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy, Strategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from plmft.training.hardware import Device, Hardware

EVEN = ("fsdp", "zero1", "zero2", "zero3")  # every rank makes as many forward and backward passes
BUCKET = 1 << 24  # numbers that are summed over ranks at a time


def strategy_for(hardware: Hardware, device: Device, largest_norm: float) -> Strategy | str:
    """Lightning's strategy for these options; "auto" for one process. The process group must be open.

    Args:
        largest_norm: that gradients are clipped to; the same as `Sharing.clip_gradients` gets.
    """
    if hardware.devices * hardware.nodes == 1:
        return "auto"
    environment = TorchElasticEnvironment()  # reads RANK, WORLD_SIZE, LOCAL_RANK, GROUP_RANK
    if hardware.strategy == "fsdp":
        from plmft.training.sharded import Sharded

        return Sharded(cluster_environment=environment)
    if hardware.strategy.startswith("zero"):
        from plmft.training.deepspeed import zero_strategy

        return zero_strategy(hardware, device, largest_norm, environment)
    return Replicas(cluster_environment=environment)


class Sharing:
    """What training asks of a strategy. As it stands here, it is that of a single process."""

    scale = 1.0  # what a backward pass multiplies its loss by

    def backward_begins(self, last: bool) -> None:
        """A backward pass follows; `last` of this optimizer step."""

    def sum_gradients(self, model: nn.Module) -> None:
        """Make each gradient the sum over all ranks."""

    def clip_gradients(self, model: nn.Module, largest_norm: float) -> None:
        """Scale all gradients so that their norm, over the whole model, is at most `largest_norm`."""
        torch.nn.utils.clip_grad_norm_(model.parameters(), largest_norm)

    def load_weights(self, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Load whole weights by name; those that are not named stay."""
        module.load_state_dict(weights, strict=False)

    def gather_weights(self, module: nn.Module) -> None:
        """Training and test are over: give rank 0 a model that holds whole weights. Called on every rank."""


def sharing_of(strategy: Strategy) -> Sharing:
    """The strategy itself, or that of a single process."""
    return strategy if isinstance(strategy, Sharing) else Sharing()


class Replicas(Sharing, DDPStrategy):
    """A replica of the model in each process. DDP's wrapper is left out: it sums gradients in every backward pass that
    is not told otherwise and wants one on every rank, while here ranks may have no micro-step, or several.
    """

    def setup(self, trainer: Trainer) -> None:
        """To this rank's device, with rank 0's weights; they are still the same when the test comes."""
        self.accelerator.setup(trainer)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.share_weights()
            self._reached: list[nn.Parameter] | None = None
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def share_weights(self) -> None:
        """All ranks begin with rank 0's."""
        held = [t.detach() for t in (*self.model.parameters(), *self.model.buffers())]
        dist._broadcast_coalesced(dist.group.WORLD, held, 4 * BUCKET, 0)

    def sum_gradients(self, model: nn.Module) -> None:
        """Costs a copy of BUCKET gradients beside them."""
        if self._reached is None:
            self._reached = reached_anywhere([p for p in model.parameters() if p.requires_grad])
        sum_over_ranks(self._reached)


def reached_anywhere(learning: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those that have a gradient on some rank. Others stay without one, so that nothing decays them."""
    if not learning:
        return []
    has = torch.tensor([p.grad is not None for p in learning], dtype=torch.int32, device=learning[0].device)
    dist.all_reduce(has)
    return [p for p, n in zip(learning, has.tolist(), strict=True) if n]


def sum_over_ranks(parameters: Sequence[nn.Parameter]) -> None:
    """Make each gradient the sum over ranks; a rank without one adds zeros."""
    waiting: tuple[Any, Tensor, list[Tensor]] | None = None
    for bucket in _buckets(parameters):
        for p in bucket:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in bucket]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        work = dist.all_reduce(flat, async_op=True)
        if waiting is not None:
            _take(*waiting)
        waiting = (work, flat, gradients)
    if waiting is not None:
        _take(*waiting)


def _take(work: Any, flat: Tensor, gradients: list[Tensor]) -> None:
    work.wait()
    parts = flat.split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Consecutive parameters of one dtype, with at most BUCKET numbers unless one alone has more."""
    buckets: list[list[nn.Parameter]] = []
    held = 0
    for p in parameters:
        if not buckets or held + p.numel() > BUCKET or buckets[-1][0].dtype != p.dtype:
            buckets.append([])
            held = 0
        buckets[-1].append(p)
        held += p.numel()
    return buckets
