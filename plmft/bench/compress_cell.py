"""One variant of a tuned model in a process of its own: made, its file weighed, timed, and asked for the test set.

The process holds nothing else of weight, so its peak is the variant's: PyTorch, plmft and the records are there before.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plmft import InputError
from plmft.bench.compress_material import read_records, write_predictions
from plmft.bench.compress_variants import Compressed, Given, variant
from plmft.bench.material import fixed_sequences
from plmft.bench.protocol import Bench, Row
from plmft.bench.timing import Timing, time_call
from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.records import Record
from plmft.data.sampler import EvaluationBatches
from plmft.efficiency.memory import MemoryMeter, give_back
from plmft.efficiency.out_of_memory import is_out_of_memory
from plmft.models.tuned import Tuned, load
from plmft.models.windows import Windows

MB = 1e6

ABSENT = (InputError, ImportError, NotImplementedError)  # what a variant needs is not here
REFUSALS = (*ABSENT, RuntimeError, ValueError, AssertionError)  # and how kernels refuse; other errors are faults


@dataclass(frozen=True)
class Asked:
    """What is measured of each variant.

    Args:
        model: the tuned model's folder. material: the file with the records (`write_records`).
        windowed: whether some sequences are read in windows.
        length: residues of the sequence whose latency is measured, by itself.
        tokens_per_batch: of the passes over the test set. passes: how many; the fastest is told.
        blocks, block_s, least_calls, warmup_s: see Timing.
    """

    model: str
    material: str
    windowed: bool
    length: int
    tokens_per_batch: int
    passes: int
    blocks: int
    block_s: float
    least_calls: int
    warmup_s: float


def measure_variant(bench: Bench, name: str, asked: dict[str, Any], predictions: str) -> Row:
    """Figures of one variant; its predictions are written to the file `predictions`.

    What can't run here, or fails, gives a row of one note.
    """
    what = Asked(**asked)
    test, calibration = read_records(Path(what.material))
    meter = MemoryMeter(bench.device.torch_type, bench.device.index or 0)
    give_back()
    meter.reset()
    before = meter.peak()
    with tempfile.TemporaryDirectory(prefix="plmft-compress-") as folder:
        tuned = _loaded(what, bench.where)
        splits = {"test": _encoded(test, tuned), "calibration": _encoded(calibration, tuned)}
        batches = [batch.to(bench.where) for batch in _batches(splits["calibration"], what.tokens_per_batch)]
        try:
            found = variant(name).make(Given(Path(what.model), tuned, batches, Path(folder), torch.get_num_threads()))
        except REFUSALS as error:
            return {"note": _why(error)}
        single = _single(what.length, bench.seed, tuned).to(bench.where)
        del tuned, batches
        give_back()
        meter.reset()
        row = _measured(found, single, splits["test"], what, bench.where, Path(predictions))
    peak = meter.peak()
    row |= peak
    if "peak_host_memory_gb" in peak:
        row["host_memory_over_start_gb"] = peak["peak_host_memory_gb"] - before["peak_host_memory_gb"]
    return row


def _loaded(what: Asked, device: str) -> Tuned:
    """With adapters merged, computing in float32 whatever the run did: a variant brings its own precision."""
    tuned = load(what.model, device, merge=True)
    tuned.predictor.float().requires_grad_(False)
    if what.windowed and tuned.predictor.windows is None:
        tuned.predictor.windows = Windows.of(tuned.description.spec.context, tuned.description.spec.tokenizer)
    return replace(tuned, description=replace(tuned.description, precision="fp32"))


def _measured(found: Compressed, single: PackedBatch, split: EncodedSplit, what: Asked, where: str, file: Path) -> Row:
    row: Row = {"disk_mb": found.disk_bytes / MB}
    batches = [batch.to(where) for batch in _batches(split, what.tokens_per_batch)]
    try:
        timed = time_call(
            lambda: found.predict(single), Timing(what.blocks, what.block_s, what.least_calls, what.warmup_s)
        )
        seconds, by_record = zip(*(_pass(found, batches) for _ in range(what.passes)), strict=True)
    except REFUSALS as error:
        return row | {"note": _why(error)}
    write_predictions(file, [by_record[-1][i] for i in range(len(split))])
    residues = sum(batch.residues for batch in batches)
    row |= timed.values("latency_ms") | {
        "residues_per_s": residues / min(seconds),
        "sequences_per_s": sum(len(batch.lengths) for batch in batches) / min(seconds),
    }
    return row | ({"note": "; ".join(timed.notes)} if timed.notes else {})


def _pass(found: Compressed, batches: Sequence[PackedBatch]) -> tuple[float, dict[int, np.ndarray]]:
    """Seconds, and the prediction of each record by its number. Predictions are on the host, so all is computed."""
    start = time.perf_counter()
    by_record: dict[int, np.ndarray] = {}
    for batch in batches:
        by_record.update(zip(batch.index.tolist(), found.predict(batch), strict=True))
    return time.perf_counter() - start, by_record


def _single(length: int, seed: int, tuned: Tuned) -> PackedBatch:
    """One record of random residues; its partner, where records are pairs, is the same."""
    (sequence,) = fixed_sequences(1, length, seed)
    pair = tuned.description.kind == "pair_classification"
    record = tuned.record(0, sequence, sequence if pair else "")
    return _encoded([record], tuned).pack(np.array([0]))


def _encoded(records: Sequence[Record], tuned: Tuned) -> EncodedSplit:
    return EncodedSplit(records, tuned.description.spec.tokenizer, tuned.predictor.kind)


def _batches(split: EncodedSplit, tokens: int) -> Sequence[PackedBatch]:
    """Longest first, so that rectangles hold sequences of like lengths."""
    if not len(split):
        return []
    batches = EvaluationBatches(split, tokens)
    return [batches[number] for number in range(len(batches))]


def _why(error: Exception) -> str:
    """For the row of a variant: the first line of what its library said.

    Raises: the error, if memory was full: `apart` tells that, and takes another process.
    """
    if is_out_of_memory(error):
        raise error
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, ABSENT) and line:
        return f"can't run here: {line}"
    return f"failed: {type(error).__name__}: {line}".removesuffix(": ")
