"""The thin Lightning data module: loaders over packed splits."""

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from plmft.data.packing import EncodedSplit, PackedBatch, StepBatch
from plmft.data.records import Split
from plmft.data.sampler import EvaluationBatches, StepSampler, TrainingSteps
from plmft.training.optim import Optim


class PackedData(pl.LightningDataModule):
    """Optimizer steps for training, sorted packed batches for evaluation.

    Packing takes microseconds a sequence, so it runs in the training process: no worker can die or change the order.
    """

    def __init__(
        self, splits: dict[Split, EncodedSplit], *, batch_size: int, tokens_per_batch: int, seed: int, optim: Optim
    ) -> None:
        super().__init__()
        self._splits, self._batch_size, self._budget, self._seed = splits, batch_size, tokens_per_batch, seed
        self.total_steps = optim.total_steps(self.steps_per_epoch)

    @property
    def tests(self) -> list[Split]:
        """The names of the test splits."""
        return [split for split in self._splits if split not in ("train", "valid")]

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the training split."""
        return -(-len(self._splits["train"]) // self._batch_size)

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """One item is one optimizer step. Asked for in each epoch: optim.max_steps may end the last one early."""
        steps = TrainingSteps(
            self._splits["train"], batch_size=self._batch_size, tokens_per_batch=self._budget, seed=self._seed
        )
        epoch = self.trainer.current_epoch
        left = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        return DataLoader(steps, batch_size=None, sampler=StepSampler(epoch, left), collate_fn=_as_it_is)

    def val_dataloader(self) -> DataLoader[PackedBatch]:
        """The validation split, each record once."""
        return self._evaluation("valid")

    def test_dataloader(self) -> list[DataLoader[PackedBatch]]:
        """The test splits in order, each record once."""
        return [self._evaluation(split) for split in self.tests]

    def _evaluation(self, split: Split) -> DataLoader[PackedBatch]:
        batches = EvaluationBatches(self._splits[split], self._budget)
        return DataLoader(batches, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: StepBatch | PackedBatch) -> StepBatch | PackedBatch:
    return batch
