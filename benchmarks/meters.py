"""What the meters cost: their own time a step, over the step that they meter.

    python -m benchmarks.meters

Optimizer steps with and without meters alternate, so that a drifting machine slows both; medians are compared. As
that ratio resolves a few per cent at best, the meters' own calls are timed apart, many thousand times.
"""

import argparse
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

from plmft.config.compose import compose_config
from plmft.data.packing import EncodedSplit, StepBatch
from plmft.data.records import AMINO_ACIDS, Record
from plmft.efficiency.phase import PhaseMeter
from plmft.models.build import build_predictor
from plmft.models.head_spec import SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.spec import TransformerSpec
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.training.cost import make_metering
from plmft.training.hardware import Device, Hardware
from plmft.training.metering import Metering

HEAD = SequenceHead("mean", False, 512, 0.0)
LENGTH, BATCH_SIZE = 237, 16


def spec_of(name: str) -> TransformerSpec:
    """The spec in conf/model/<name>.yaml, with random weights."""
    values = dict(compose_config([f"model={name}"]).model)
    return TransformerSpec(**{k: v for k, v in values.items() if k != "_target_"} | {"init": "random"})


def make_step(spec: TransformerSpec) -> StepBatch:
    """One optimizer step's batch: random sequences of avGFP's length."""
    rng = np.random.default_rng(0)
    records = [
        Record(str(i), "".join(rng.choice(list(AMINO_ACIDS), LENGTH)), float(i), "train") for i in range(BATCH_SIZE)
    ]
    return EncodedSplit(records, spec.tokenizer, "sequence_regression").step(np.arange(BATCH_SIZE), 4096)


def run_step(predictor: Predictor, optimizer: torch.optim.Optimizer, step: StepBatch, device: Device) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    with torch.autocast(device.torch_type, torch.bfloat16, enabled=device.precision == "bf16"):
        losses = [predictor.loss_sum(batch) / step.targets for batch in step.micro]
    sum(losses).backward()
    optimizer.step()


def metered(metering: Metering, step: StepBatch) -> None:
    """The hooks that Lightning calls around a step, in their order."""
    metering.on_train_batch_start()
    metering.on_train_batch_end(None, None, None, step, 0)


def own_time_s(metering: Metering, step: StepBatch, repeats: int) -> float:
    """Mean time of a step's hooks alone."""
    start = time.perf_counter()
    for _ in range(repeats):
        metered(metering, step)
    return (time.perf_counter() - start) / repeats


def compare(name: str, steps: int) -> tuple[float, float, float]:
    """Medians of a step without and with meters, and the meters' own time, in seconds."""
    torch.manual_seed(0)
    device, spec = Hardware("cpu", "auto", 4096, None).resolve(), spec_of(name)
    kind = "sequence_regression"
    predictor = build_predictor(spec, Located("random"), tuning=Full(), head=HEAD, kind=kind, outputs=1)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-4, fused=True)
    step, metering = make_step(spec), make_metering(spec, Full(), HEAD, 1, device, None)
    metering.meter = PhaseMeter(device.torch_type)
    metering.meter.begin()
    metering.meter.steps.fetch_begin()
    times: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * steps + 6):
        with_meters = bool(number % 2)
        start = time.perf_counter()
        if with_meters:
            metering.on_train_batch_start()
        run_step(predictor, optimizer, step, device)
        if with_meters:
            metering.on_train_batch_end(None, None, None, step, 0)
        if number >= 6:
            times[with_meters].append(time.perf_counter() - start)
    return statistics.median(times[False]), statistics.median(times[True]), own_time_s(metering, step, 5000)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["esm2_tiny", "esm2_8m"])
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown CPU")
    print(f"{date.today()}, {cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.system()}")
    print("| model | step without meters | step with meters | ratio | the meters' own time | share of a step |")
    print("|---|---|---|---|---|---|")
    for name in arguments.models:
        without, with_, own = compare(name, arguments.steps)
        print(
            f"| {name} | {without * 1e3:.1f} ms | {with_ * 1e3:.1f} ms | {with_ / without:.3f} | {own * 1e6:.1f} µs "
            f"| {own / without:.3%} |"
        )


if __name__ == "__main__":
    main()
