"""The thin Lightning data module: loaders over packed splits."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from plmft.data.packing import EncodedSplit, PackedBatch, StepBatch
from plmft.data.records import Split
from plmft.data.sampler import EvaluationBatches, StepSampler, TrainingSteps
from plmft.training.distributed import ALONE, Ranks
from plmft.training.optim import Optim


class PackedData(pl.LightningDataModule):
    """Optimizer steps for training, sorted packed batches for evaluation.

    Packing takes microseconds a sequence, so it runs in the training process: no worker can die or change the order.
    Loaders draw their seeds, which nobody uses, from generators of their own: dropout's stays that of the steps done.

    Args:
        ranks: the processes that share each step and each evaluation. even: see TrainingSteps.
    """

    def __init__(
        self,
        splits: dict[Split, EncodedSplit],
        *,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        optim: Optim,
        ranks: Ranks = ALONE,
        even: bool = False,
    ) -> None:
        super().__init__()
        self._ranks, self._even = ranks, even
        self._splits, self._batch_size, self._budget, self._seed = splits, batch_size, tokens_per_batch, seed
        self.total_steps = optim.total_steps(self.steps_per_epoch)
        self.steps_done = 0  # before this process: training goes on after them

    @property
    def tests(self) -> list[Split]:
        """The names of the test splits."""
        return [split for split in self._splits if split not in ("train", "valid")]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training split."""
        return -(-len(self._splits["train"]) // self._batch_size)

    def ends_epoch(self, steps: int) -> bool:
        """Whether an epoch is over after so many optimizer steps."""
        return steps % self.steps_per_epoch == 0 or steps == self.total_steps

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """One item is one optimizer step. Asked for in each epoch: optim.max_steps may end the last one early."""
        steps = TrainingSteps(
            self._splits["train"],
            batch_size=self._batch_size,
            tokens_per_batch=self._budget,
            seed=self._seed,
            rank=self._ranks.rank,
            world=self._ranks.world,
            even=self._even,
        )
        epoch = self.trainer.current_epoch
        before = epoch * self.steps_per_epoch
        last = min(self.steps_per_epoch, self.total_steps - before)
        done = self.steps_done - before  # within this epoch, by an earlier process
        order = StepSampler(epoch, last, start=done if 0 < done < last else 0)
        return DataLoader(steps, batch_size=None, sampler=order, collate_fn=_as_it_is, generator=torch.Generator())

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        """The validation split, each record once."""
        return self._evaluation("valid")

    def test_dataloader(self) -> list[DataLoader[PackedBatch]]:
        """The test splits in order, each record once."""
        return [self._evaluation(split) for split in self.tests]

    def _evaluation(self, split: Split) -> DataLoader[PackedBatch]:
        batches = EvaluationBatches(self._splits[split], self._budget, self._ranks.rank, self._ranks.world)
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator())


def _as_it_is(batch: StepBatch | PackedBatch) -> StepBatch | PackedBatch:
    return batch
