"""Gradients through a head that normalises over the pooled vectors of a whole optimizer step, of all its ranks.

Memory holds the graph of one micro-step, so each is pooled without a graph, the head gives its gradients, and each is
pooled again to pass them on (Gao et al. 2021, gradient caching). Costs a second forward pass of the backbone where it
learns, and between ranks the pooled vectors, a few kB a sequence, through the host.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from plmft.data.packing import StepBatch
from plmft.data.sampler import Filler

if TYPE_CHECKING:
    from plmft.models.predictor import Predictor

T = TypeVar("T")


class Others(Protocol):
    """The processes that share each step, this one at `rank` of `world`."""

    rank: int
    world: int

    def gather_everywhere(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        ...


def backward_whole(
    predictor: "Predictor",
    step: StepBatch,
    targets: int,
    backward: Callable[[Tensor], None],
    scale: Tensor | float,
    ranks: Others | None,
) -> Tensor:
    """As Predictor.backward_step. Every rank computes the head over all ranks' vectors, from the same random numbers.

    The head's gradients are divided by the number of ranks, since they are summed over ranks like all others.
    """
    world = 1 if ranks is None else ranks.world
    counted = [batch for batch in step.micro if not isinstance(batch, Filler)]
    with torch.no_grad(), torch.random.fork_rng():  # the same random state as in the second pass, so the same dropout
        pooled = [(predictor.pooled(batch), batch) for batch in step.micro]
    own = [vectors for vectors, batch in pooled if not isinstance(batch, Filler)]
    seed = int(torch.randint(2**62, ()))
    vectors, measured, seed, first = _of_all_ranks(own, [batch.targets for batch in counted], seed, ranks, predictor)
    vectors.requires_grad_()
    with torch.autocast(vectors.device.type, enabled=False), torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = predictor.loss_of(predictor.head.from_pooled(vectors), measured) / targets
    backward(loss / world)
    if predictor.learns_before_pooling:
        rows = sum(map(len, own))
        gradient = vectors.grad[first : first + rows] * world / scale  # `backward` scales again
        parts = iter(gradient.split([len(part) for part in own]))
        for batch in step.micro:
            part = 0.0 if isinstance(batch, Filler) else next(parts)
            backward((predictor.pooled(batch) * part).sum())
    return loss.detach() / world


def _of_all_ranks(
    own: list[Tensor], targets: list[Tensor], seed: int, ranks: Others | None, predictor: "Predictor"
) -> tuple[Tensor, Tensor, int, int]:
    """All pooled vectors, their targets, rank 0's seed, and the row at which this rank's vectors begin."""
    if ranks is None or ranks.world == 1:
        return torch.cat(own), torch.cat(targets), seed, 0
    told = ([part.cpu() for part in own], [part.cpu() for part in targets], seed)
    everyone = ranks.gather_everywhere(told)
    device = predictor.target_mean.device
    vectors = torch.cat([part for theirs, _, _ in everyone for part in theirs]).to(device)
    measured = torch.cat([part for _, theirs, _ in everyone for part in theirs]).to(device)
    first = sum(len(part) for theirs, _, _ in everyone[: ranks.rank] for part in theirs)
    return vectors, measured, everyone[0][2], first
