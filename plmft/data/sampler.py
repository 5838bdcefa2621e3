"""Which records an optimizer step sees: a function of seed, epoch and step alone, so any rank or restart agrees."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Dataset, Sampler

from plmft.data.packing import EncodedSplit, PackedBatch, StepBatch, cut


def step_index(n: int, batch_size: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """(<= batch_size,) int64: the records of one step; the last step of an epoch may hold fewer."""
    return _order(n, seed, epoch)[step * batch_size : (step + 1) * batch_size]


@lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


class StepSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, step) for the first `n_steps` steps of an epoch."""

    def __init__(self, epoch: int, n_steps: int) -> None:
        self._epoch, self._n_steps = epoch, n_steps

    def __len__(self) -> int:
        return self._n_steps

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self._epoch, step) for step in range(self._n_steps))


class TrainingSteps(Dataset[StepBatch]):
    """Optimizer steps of `batch_size` sequences in seeded random order, packed under a token budget."""

    def __init__(self, split: EncodedSplit, *, batch_size: int, tokens_per_batch: int, seed: int) -> None:
        self._split, self._batch_size, self._budget, self._seed = split, batch_size, tokens_per_batch, seed

    def __len__(self) -> int:
        return -(-len(self._split) // self._batch_size)

    def __getitem__(self, at: tuple[int, int]) -> StepBatch:
        epoch, step = at
        index = step_index(len(self._split), self._batch_size, self._seed, epoch, step)
        return self._split.step(index, self._budget)


class EvaluationBatches(Dataset[PackedBatch]):
    """Every record once, longest first, packed under a token budget: the most memory is asked for at once."""

    def __init__(self, split: EncodedSplit, tokens_per_batch: int) -> None:
        order = np.argsort(-split.lengths, kind="stable")
        self._split = split
        self._parts = [order[part] for part in cut(split.lengths[order], tokens_per_batch)]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, at: int) -> PackedBatch:
        return self._split.pack(self._parts[at])
