"""Fine-tuning by gradient steps: the parts of a run are put together here, and Lightning repeats them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import DataSet, Record, Split
from plmft.models.build import build_predictor
from plmft.models.embedded_split import EmbeddedSplit
from plmft.models.head_spec import Head, SequenceHead
from plmft.models.precision import hold_frozen_in_bf16
from plmft.models.predictor import parameter_counts
from plmft.models.weights import Located
from plmft.models.windows import Windows
from plmft.tracking.options import runs_dir
from plmft.training.cost import make_embedding_meter, make_metering
from plmft.training.data import PackedData
from plmft.training.distributed import Ranks, current_ranks
from plmft.training.embedded import Embedded, EmbeddingPhase, backbone_set_aside
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device
from plmft.training.metering import Metering, cost_of_ranks
from plmft.training.result import Result
from plmft.training.scoring import score
from plmft.training.strategies import EVEN
from plmft.training.watching import Log

if TYPE_CHECKING:
    from plmft.training.job import Job

CORRECT = "Correct the positions, or set task.head.positions=null with another pooling."


def check_positions(head: Head, splits: Iterable[Sequence[Record]], way_out: str = CORRECT) -> None:
    """Raises: InputError: a sequence has no residue at a position that the head pools; `way_out` tells what to do."""
    positions = head.positions if isinstance(head, SequenceHead) else None
    if positions is None:
        return
    for record in itertools.chain.from_iterable(splits):
        shortest = min(map(len, record.sequences))
        if shortest < max(positions):
            raise InputError(
                f"{record.where}: {record.id!r} has {shortest} residues, but task.head.positions asks for residue "
                f"{max(positions)}. {way_out}"
            )


class GradientSteps:
    """Fine-tuning: head and, by tuning, backbone."""

    def __init__(self, job: "Job", located: Located, dataset: DataSet, device: Device) -> None:
        self._job, self._dataset, self._device = job, dataset, device
        task = job.task
        self.predictor = build_predictor(
            job.model, located, tuning=job.tuning, head=task.head, kind=task.kind, outputs=task.outputs
        )
        check_positions(task.head, dataset.splits.values())
        targets = [record.target for record in dataset.splits["train"]]
        if task.kind == "sequence_regression" and job.loss.standardize:
            self.predictor.fit_scale(targets)
        weights = job.loss.weights(task.kind, targets, task.outputs)
        if weights is not None:
            self.predictor.class_weights = torch.from_numpy(weights)
        if dataset.windowed:
            self.predictor.windows = Windows.of(job.model.context, job.model.tokenizer)
        if device.precision == "bf16_weights":
            hold_frozen_in_bf16(self.predictor.backbone)
        self.predictor.backbone.checkpointing = job.hardware.gradient_checkpointing
        if job.hardware.compile:
            self.predictor.backbone.compile_layers()
        self.parameters = parameter_counts(self.predictor)

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Train, keep the weights that were best on the validation split, and test once."""
        job, valid, ranks = self._job, self._dataset.splits["valid"], current_ranks()
        encoded = self._encode(ranks)
        spent = folder / "checkpoints" / f"embed-{ranks.rank}.json"
        embedded = self._embed(encoded, ranks, spent, console) if job.tuning.name == "frozen" else None
        with self._backbone(embedded):
            result = fine_tune(
                self.predictor,
                self._batches(embedded.splits if embedded else encoded, ranks),
                optim=job.optim,
                device=self._device,
                metering=self._metering(embedded),
                score=lambda found: score(job.task, valid, found, seed=job.seed, intervals=False),
                monitor=job.task.primary_metric,
                folder=folder / "checkpoints",
                log=log,
                console=console,
                hardware=job.hardware,
                ranks=ranks,
                every_minutes=job.checkpoint.every_minutes,
            )
        if embedded is None:
            return result
        costs = {**result.costs, "embed": cost_of_ranks(embedded.cost, ranks, self._device)}
        return replace(result, costs=costs, notes=(*embedded.notes, *result.notes))

    def _encode(self, ranks: Ranks) -> dict[Split, EncodedSplit]:
        splits = self._dataset.splits
        used = {"train": splits["train"], "valid": splits["valid"], **self._dataset.tests}
        tokenizer, kind = self._job.model.tokenizer, self._job.task.kind
        with ranks.first_alone():  # one fills the cache, the others read it
            return {
                split: EncodedSplit(records, tokenizer, kind, runs_dir() / "cache" / "tokens")
                for split, records in used.items()
            }

    def _batches(self, splits: Mapping[Split, EncodedSplit | EmbeddedSplit], ranks: Ranks) -> PackedData:
        job = self._job
        return PackedData(
            splits,
            batch_size=job.batch_size,
            tokens_per_batch=job.hardware.tokens_per_batch,
            seed=job.seed,
            optim=job.optim,
            ranks=ranks,
            even=job.hardware.strategy in EVEN and ranks.world > 1,
        )

    def _metering(self, embedded: Embedded | None) -> Metering:
        job = self._job
        return make_metering(
            job.model,
            job.tuning,
            job.task.head,
            job.task.outputs,
            self._device,
            job.hardware.usd_per_hour_of_all,
            cached=embedded is not None and embedded.cached,
        )

    def _backbone(self, embedded: Embedded | None) -> AbstractContextManager[None]:
        """Set aside where it has done its part; strategies that shard its layers keep it."""
        done = embedded is not None and embedded.cached and self._job.hardware.strategy in ("single", "ddp")
        return backbone_set_aside(self.predictor) if done else nullcontext()

    def _embed(self, splits: dict[str, EncodedSplit], ranks: Ranks, spent: Path, console: Console) -> Embedded:
        """The frozen backbone's vectors of all splits, from the cache that all runs share."""
        job = self._job
        meter, flops = make_embedding_meter(job.model, self._device, job.hardware.usd_per_hour_of_all)
        phase = EmbeddingPhase(
            self.predictor,
            root=runs_dir() / "cache" / "embeddings",
            tokenizer=job.model.tokenizer.digest,
            device=self._device,
            tokens_per_batch=job.hardware.tokens_per_batch,
            meter=meter,
            flops=flops,
            console=console,
            rank=ranks.rank,
            world=ranks.world,
            gather=ranks.gather_everywhere,
            spent=spent,
        )
        return phase.run(splits)
