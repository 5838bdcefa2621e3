"""One size of data in a process of its own, for benchmarks.growth: python -m benchmarks.growth_jobs

As plmft.training.job prepares and packs it; the model is small, so that the loader's share of a step is at its largest.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.meters import HEAD, run_step, spec_of
from benchmarks.serve import peak_host_gb, serve
from plmft.data.packing import EncodedSplit, StepBatch
from plmft.data.records import AMINO_ACIDS, DataSet, Record, build_dataset
from plmft.data.sampler import StepSampler, TrainingSteps
from plmft.data.stored_records import on_disk
from plmft.efficiency.memory import MemoryMeter, give_back
from plmft.models.build import build_predictor
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.training.hardware import Hardware

MODEL, BATCH_SIZE, TOKENS = "esm2_tiny", 32, 4096
LENGTH = 250  # of all, so that all steps are cut alike
KIND = "sequence_regression"


class Growth:
    """The state of one process: a data set, a model, and steps that go on where the last job stopped."""

    def prepare(self, records: int, folder: str, in_memory: bool) -> dict[str, Any]:
        """Read, check, store and tokenise; `in_memory` keeps all as Python objects and arrays instead."""
        start = time.perf_counter()
        spec, tokens = spec_of(MODEL), None if in_memory else Path(folder) / "tokens"
        self._dataset = read(records) if in_memory else on_disk(read(records), Path(folder))
        before = peak_host_gb()
        give_back()
        self._split = EncodedSplit(self._dataset.splits["train"], spec.tokenizer, KIND, tokens)
        torch.manual_seed(0)
        self._predictor = build_predictor(spec, Located("random"), tuning=Full(), head=HEAD, kind=KIND, outputs=1)
        self._optimizer = torch.optim.AdamW(self._predictor.parameters(), lr=1e-4, fused=True)
        self._device = Hardware("cpu", "bf16", TOKENS, None).resolve()
        self._batches = self._endless()
        MemoryMeter("cpu").reset()
        return {"preparing_gb": before, "seconds": time.perf_counter() - start}

    def steps(self, count: int) -> dict[str, Any]:
        """Train so many steps: seconds, of which the loader was waited for, and residues."""
        waited, residues, start = 0.0, 0, time.perf_counter()
        for _ in range(count):
            asked = time.perf_counter()
            step = next(self._batches)
            waited += time.perf_counter() - asked
            run_step(self._predictor, self._optimizer, step, self._device)
            residues += sum(batch.residues for batch in step.micro)
        return {"seconds": time.perf_counter() - start, "waited_s": waited, "residues": residues}

    def epoch(self) -> dict[str, Any]:
        """Go through all of the data once without a model, so that every page was touched; seconds a sequence."""
        start = time.perf_counter()
        steps = self._steps()
        sequences = sum(len(batch.index) for step in self._epoch(steps, 1) for batch in step.micro)
        return {"seconds": (time.perf_counter() - start) / sequences}

    def peak(self) -> dict[str, Any]:
        """The largest resident set since the data were prepared."""
        return {"gb": peak_host_gb()}

    def _steps(self) -> TrainingSteps:
        return TrainingSteps(self._split, batch_size=BATCH_SIZE, tokens_per_batch=TOKENS, seed=0)

    def _epoch(self, steps: TrainingSteps, epoch: int) -> DataLoader[StepBatch]:
        return DataLoader(steps, batch_size=None, sampler=StepSampler(epoch, len(steps)), collate_fn=lambda step: step)

    def _endless(self) -> Iterator[StepBatch]:
        steps, epoch = self._steps(), 2
        while True:
            yield from self._epoch(steps, epoch)
            epoch += 1


def read(records: int) -> DataSet:
    """Random sequences with random targets, checked as those of a file are."""
    rng, letters = np.random.default_rng(0), np.frombuffer(AMINO_ACIDS.encode(), np.uint8)

    def made() -> Iterator[Record]:
        for number in range(records):
            sequence = letters[rng.integers(0, len(letters), LENGTH)].tobytes().decode()
            yield Record(f"p{number}", sequence, float(rng.normal()), "train", f"growth.csv, line {number + 2}")

    return build_dataset("growth", KIND, made(), source="growth", needs=("train",))


if __name__ == "__main__":
    growth = Growth()
    serve({"prepare": growth.prepare, "steps": growth.steps, "epoch": growth.epoch, "peak": growth.peak})
