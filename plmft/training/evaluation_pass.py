"""One metered pass of a tuned model over test sets: the phase `test` of an evaluation, on one process or several."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from plmft.data.packing import EncodedSplit
from plmft.data.records import Record, Split
from plmft.data.sampler import EvaluationBatches, Filler
from plmft.efficiency.phase import PhaseMeter
from plmft.models.precision import autocast, hold_for
from plmft.models.tuned import Tuned
from plmft.training.cost import make_embedding_meter
from plmft.training.distributed import Ranks
from plmft.training.hardware import Device, Hardware
from plmft.training.metering import Flops, cost_of_ranks
from plmft.training.result import Result
from plmft.training.run_flops import run_flops

SAY_EVERY_S = 30.0


class EvaluationPass:
    """Predicts every record of the test sets once, longest first.

    Args:
        tuned: on the device. cache: the folder of token ids that all runs share.
        hardware: `tokens_per_batch` and the price. ranks: those that share the batches.
    """

    def __init__(
        self, tuned: Tuned, device: Device, hardware: Hardware, ranks: Ranks, cache: Path, console: Console
    ) -> None:
        self._tuned, self._device, self._ranks, self._cache, self._console = tuned, device, ranks, cache, console
        self._tokens, price = hardware.tokens_per_batch, hardware.usd_per_hour_of_all
        made = tuned.description
        self._meter, _ = make_embedding_meter(made.spec, device, price)
        self._flops = run_flops(made.spec, made.tuning, made.head, len(made.classes) or 1)[1]
        self._said = time.monotonic()

    def run(self, tests: Mapping[Split, Sequence[Record]]) -> Result:
        """Predictions in record order, and what they cost, on rank 0; those of other ranks are empty."""
        batches = {split: self._batches(records) for split, records in tests.items()}
        self._meter.begin()
        self._meter.steps.fetch_begin()
        with autocast(self._tuned.description.precision, self._device.torch_type):
            found = {split: self._predicted(batches[split], split, len(records)) for split, records in tests.items()}
        own = self._meter.end()
        cost = cost_of_ranks(own, self._ranks, self._device, self._meter.steps.total_sequences)
        predictions = {split: self._joined(part, len(tests[split])) for split, part in found.items()}
        return Result(predictions, None, {"test": cost})

    def _batches(self, records: Sequence[Record]) -> EvaluationBatches:
        tokenizer = self._tuned.description.spec.tokenizer
        with self._ranks.first_alone():  # one fills the cache, the others read it
            split = EncodedSplit(records, tokenizer, self._tuned.predictor.kind, self._cache)
        return EvaluationBatches(split, self._tokens, self._ranks.rank, self._ranks.world)

    def _predicted(self, batches: EvaluationBatches, split: Split, records: int) -> dict[int, np.ndarray]:
        """By record number, of this rank's batches."""
        found: dict[int, np.ndarray] = {}
        for number in range(len(batches)):
            batch = batches[number]
            if isinstance(batch, Filler):
                continue
            self._meter.steps.step_begin()
            batch = batch.to(self._device_of_model)
            found.update(zip(batch.index.tolist(), self._tuned.predictor.predict(batch), strict=True))
            self._end_step(self._meter, batch.residues, batch.lengths, self._flops)
            self._say(split, len(found) * self._ranks.world, records)
        return found

    @property
    def _device_of_model(self) -> object:
        return self._tuned.predictor.target_mean.device

    @staticmethod
    def _end_step(meter: PhaseMeter, residues: int, lengths: Sequence[int], flops: Flops) -> None:
        meter.steps.step_end(residues=residues, sequences=len(lengths), tokens=sum(lengths), flops=flops(lengths))
        meter.steps.fetch_begin()

    def _say(self, split: Split, done: int, records: int) -> None:
        if time.monotonic() - self._said < SAY_EVERY_S:
            return
        self._said = time.monotonic()
        rate = self._meter.steps.recent_residues_per_s
        told = f", {rate * self._ranks.world:,.0f} residues/s" if rate else ""
        self._console.print(f"{split}: {min(done, records):,} of {records:,} records{told}", highlight=False)

    def _joined(self, part: dict[int, np.ndarray], records: int) -> list[np.ndarray]:
        everything = {number: found for own in self._ranks.gather(part) for number, found in own.items()}
        return [everything[number] for number in range(records)] if self._ranks.first else []


def on_device(tuned: Tuned, device: Device, hardware: Hardware, precision: str) -> Tuned:
    """The model where it will compute, in this precision."""
    hold_for(precision, tuned.predictor)
    if hardware.compile:
        tuned.predictor.backbone.compile_layers()
    place = f"cuda:{device.index}" if device.kind == "gpu" else "cpu"
    described = replace(tuned.description, precision=precision)
    return replace(tuned, predictor=tuned.predictor.to(place), description=described)
