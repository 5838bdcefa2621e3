"""Whole passes of a backbone over proteins of real lengths, metered as training's phases are: for energy and money.

Sequences are tokenised before, sorted by length and packed under a token budget, as predicting does it.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from plmft.bench.metering import peak_of
from plmft.bench.protocol import Bench
from plmft.efficiency.energy import EnergyMeter
from plmft.efficiency.phase import PhaseCost, PhaseMeter
from plmft.efficiency.steps import CudaClock, StepMeter, WallClock
from plmft.training.run_flops import backbone_flops

if TYPE_CHECKING:
    from plmft.data.packing import PackedBatch

WARMUP_PASSES = 1


def packed_batches(bench: Bench, sequences: Sequence[str], tokens: int) -> "list[PackedBatch]":
    """The sequences, longest first, as batches of at most `tokens` tokens, on the host."""
    from plmft.data.packing import EncodedSplit
    from plmft.data.records import Record
    from plmft.data.sampler import EvaluationBatches

    records = [Record(str(i), sequence, None, "test", f"protein {i}") for i, sequence in enumerate(sequences)]
    parts = EvaluationBatches(EncodedSplit(records, bench.spec.tokenizer, "masked_lm"), tokens)
    return [parts[i] for i in range(len(parts))]


def meter_passes(
    bench: Bench,
    batches: "Sequence[PackedBatch]",
    seconds: float,
    *,
    usd_per_hour: float | None = None,
    energy: EnergyMeter | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PhaseCost:
    """Pass over all batches, after one pass to warm up, until `seconds` are over; the pass under way is finished."""
    import torch

    from plmft.models.precision import autocast

    device = bench.device
    backbone, kind = bench.backbone(device.precision), device.torch_type
    steps = StepMeter(CudaClock(device.index) if kind == "cuda" else WallClock(), warmup_steps=0)
    peak = peak_of(kind, device.index, device.precision)
    meter = PhaseMeter(kind, device.index, usd_per_hour=usd_per_hour, peak=peak, steps=steps, energy=energy)
    with torch.inference_mode(), autocast(device.precision, kind):
        for _ in range(WARMUP_PASSES):
            for batch in batches:
                backbone(batch.to(bench.where))
        if kind == "cuda":
            torch.cuda.synchronize(device.index)
        meter.begin()
        start = clock()
        while clock() - start < seconds:
            for batch in batches:
                steps.step_begin()
                backbone(batch.to(bench.where, non_blocking=True))
                flops = backbone_flops(bench.spec, batch.lengths)
                steps.step_end(
                    residues=batch.residues, sequences=len(batch.lengths), tokens=len(batch.tokens), flops=flops
                )
        return meter.end()
