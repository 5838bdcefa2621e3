"""How a run learns: by gradient steps, in closed form, or not at all. Each way ends in a Result."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from rich.console import Console

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import DataSet
from plmft.models.build import build_predictor
from plmft.models.direct_spec import DirectSpec
from plmft.models.head_spec import AttentionRegression, Head, Perplexity, SequenceHead, VariantScores
from plmft.models.predictor import Predictor, parameter_counts
from plmft.models.weights import Located
from plmft.models.windows import Windows
from plmft.training.attention import AttentionLearner
from plmft.training.cost import make_metering
from plmft.training.data import PackedData
from plmft.training.direct import DirectLearner
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device
from plmft.training.result import Result
from plmft.training.scoring import score
from plmft.training.watching import Log
from plmft.training.zero_shot import ZeroShotLearner

if TYPE_CHECKING:
    from plmft.training.job import Job


class Learner(Protocol):
    """A way to learn, ready to start.

    Args:
        parameters: numbers of weights, `total` and `trainable`.
        predictor: what is saved as the tuned model; None: there is nothing to save.
    """

    parameters: dict[str, int]
    predictor: Predictor | None

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Learn and predict the test splits."""
        ...


def make_learner(job: "Job", located: Located, dataset: DataSet, device: Device) -> Learner:
    """The way to learn that model, tuning and task ask for.

    Raises: InputError: the parts don't fit one another.
    """
    if isinstance(job.model, DirectSpec):
        return DirectLearner(job, dataset)
    untrained = isinstance(job.task.head, VariantScores | Perplexity)
    if untrained and job.tuning.name != "none":
        raise InputError(f"tuning={job.tuning.name}: {job.task.name} scores the model as it is. Set tuning=none.")
    if job.tuning.name == "none" and not untrained:
        raise InputError(f"tuning=none: {job.task.name} needs a head that learns. Set frozen, lora or full.")
    if untrained:
        return ZeroShotLearner(job, located, dataset, device)
    if isinstance(job.task.head, AttentionRegression):
        return AttentionLearner(job, located, dataset, device)
    return GradientSteps(job, located, dataset, device)


def check_positions(head: Head, dataset: DataSet) -> None:
    """Raises: InputError: a sequence has no residue at a position that the head pools."""
    positions = head.positions if isinstance(head, SequenceHead) else None
    if positions is None:
        return
    for record in (r for records in dataset.splits.values() for r in records):
        shortest = min(map(len, record.sequences))
        if shortest < max(positions):
            raise InputError(
                f"{record.where}: {record.id!r} has {shortest} residues, but task.head.positions asks for residue "
                f"{max(positions)}. Correct the positions, or set task.head.positions=null with another pooling."
            )


class GradientSteps:
    """Fine-tuning: head and, by tuning, backbone."""

    def __init__(self, job: "Job", located: Located, dataset: DataSet, device: Device) -> None:
        self._job, self._dataset, self._device = job, dataset, device
        task = job.task
        self.predictor = build_predictor(
            job.model, located, tuning=job.tuning, head=task.head, kind=task.kind, outputs=task.outputs
        )
        check_positions(task.head, dataset)
        targets = [record.target for record in dataset.splits["train"]]
        if task.kind == "sequence_regression" and job.loss.standardize:
            self.predictor.fit_scale(targets)
        weights = job.loss.weights(task.kind, targets, task.outputs)
        if weights is not None:
            self.predictor.class_weights = torch.from_numpy(weights)
        if dataset.windowed:
            self.predictor.windows = Windows.of(job.model.context, job.model.tokenizer)
        self.parameters = parameter_counts(self.predictor)

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Train, keep the weights that were best on the validation split, and test once."""
        job, splits = self._job, self._dataset.splits
        used = {"train": splits["train"], "valid": splits["valid"], **self._dataset.tests}
        data = PackedData(
            {split: EncodedSplit(records, job.model.tokenizer, job.task.kind) for split, records in used.items()},
            batch_size=job.batch_size,
            tokens_per_batch=job.hardware.tokens_per_batch,
            seed=job.seed,
            optim=job.optim,
        )
        metering = make_metering(
            job.model, job.tuning, job.task.head, job.task.outputs, self._device, job.hardware.usd_per_hour
        )
        return fine_tune(
            self.predictor,
            data,
            optim=job.optim,
            device=self._device,
            metering=metering,
            score=lambda found: score(job.task, splits["valid"], found, seed=job.seed, intervals=False),
            monitor=job.task.primary_metric,
            folder=folder / "checkpoints",
            log=log,
            console=console,
        )
