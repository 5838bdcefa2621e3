"""Which records an optimizer step sees: a function of seed, epoch and step alone, so any rank or restart agrees.

Of several ranks, each takes its share of a step, balanced by tokens: every rank makes the same plan, and none need ask.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from plmft.data.packing import EncodedSplit, PackedBatch, StepBatch, cut


@dataclass(frozen=True)
class Filler(PackedBatch):
    """A batch that counts for nothing: a rank without records computes it, so that it makes as many passes as others
    and joins in what they exchange.
    """


def step_index(n: int, batch_size: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """(<= batch_size,) int64: the records of one step; the last step of an epoch may hold fewer."""
    return _order(n, seed, epoch)[step * batch_size : (step + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def shares(lengths: np.ndarray, world: int) -> list[np.ndarray]:
    """Positions in `lengths` for each rank, ascending; the longest first, each to the rank with the fewest tokens."""
    held = np.zeros(world, dtype=np.int64)
    taken: list[list[int]] = [[] for _ in range(world)]
    for at in np.argsort(-lengths, kind="stable"):
        rank = int(held.argmin())
        taken[rank].append(int(at))
        held[rank] += lengths[at]
    return [np.array(sorted(positions), dtype=np.int64) for positions in taken]


class StepSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, step) for the first `n_steps` steps of an epoch, from step `start` on."""

    def __init__(self, epoch: int, n_steps: int, start: int = 0) -> None:
        self._epoch, self._steps = epoch, range(start, n_steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self._epoch, step) for step in self._steps)


class TrainingSteps(Dataset[StepBatch]):
    """Optimizer steps of `batch_size` sequences in seeded random order, packed under a token budget.

    Args:
        rank, world: this process's number, and how many share each step.
        even: give every rank as many micro-steps, with Fillers where its records end.
    """

    def __init__(
        self,
        split: EncodedSplit,
        *,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        even: bool = False,
    ) -> None:
        self._split, self._batch_size, self._budget, self._seed = split, batch_size, tokens_per_batch, seed
        self._rank, self._world, self._even = rank, world, even

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, at: tuple[int, int]) -> StepBatch:
        """This rank's part of the step; `targets` is the whole step's."""
        epoch, step = at
        index = step_index(len(self._split), self._batch_size, self._seed, epoch, step)
        if self._world == 1:
            return self._split.step(index, self._budget)
        lengths = self._split.lengths[index]
        dealt = shares(lengths, self._world)
        mine = self._split.step(index[dealt[self._rank]], self._budget).micro
        if self._even:
            most = max(len(list(cut(lengths[share], self._budget))) for share in dealt)
            filler = filler_of(self._split, index)
            mine = (*mine, *([filler] * (most - len(mine))))
        return StepBatch(mine, int(self._split.target_counts[index].sum()))


class EvaluationBatches(Dataset[PackedBatch]):
    """Every record once, longest first, packed under a token budget: the most memory is asked for at once.

    Batches are dealt out to the ranks in turn; where some have one fewer, a Filler makes up for it.
    """

    def __init__(self, split: EncodedSplit, tokens_per_batch: int, rank: int = 0, world: int = 1) -> None:
        order = np.argsort(-split.lengths, kind="stable")
        self._split = split
        budget = min(tokens_per_batch, -(-int(split.lengths.sum()) // world))  # a small split has work for all ranks
        parts = [order[part] for part in cut(split.lengths[order], budget)]
        self._parts, self._count = parts[rank::world], -(-len(parts) // world)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> PackedBatch:
        if at < len(self._parts):
            return self._split.pack(self._parts[at])
        return filler_of(self._split, np.arange(len(self._split)))


def filler_of(split: EncodedSplit, index: np.ndarray) -> Filler:
    """The shortest of these records, as a batch that counts for nothing."""
    shortest = index[int(split.lengths[index].argmin())]
    batch = split.pack(np.array([shortest]))
    return Filler(**{field.name: getattr(batch, field.name) for field in fields(batch)})
