"""What the embedding cache is worth: seconds an epoch of a frozen run through the backbone, and with the cache.

    python -m benchmarks.frozen_cache [--model esm2_8m] [--proteins 400]

Whole runs as the command makes them (Lightning, meters, checkpoints; only MLflow is left out), random weights, SS3
sequences (PLMFT_DATA, else drawn by length), batches of 8. An epoch lasts from one validation's end to the next one's,
so validation and checkpoint are in it; the first, which starts everything, is left out. Processor seconds of this
process stand beside the wall's: on a busy machine they are the ones to compare.
"""

import argparse
import io
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from rich.console import Console

from benchmarks.material import Row, structures, typical, write
from plmft.config.check import check
from plmft.config.compose import compose_config, parts_of
from plmft.models.weights import locate
from plmft.tracking.options import runs_dir
from plmft.training.job import Job
from plmft.training.learning import GradientSteps, make_learner
from plmft.training.result import Result

BATCH_SIZE, OTHERS = 8, 16


@dataclass(frozen=True)
class FrozenCost:
    """Seconds an epoch both ways, what filling the cache cost, and the accuracies that came of both."""

    model: str
    proteins: int
    residues: int
    backbone_s: float
    backbone_cpu_s: float
    cached_s: float
    cached_cpu_s: float
    training_steps_s: float  # the share of `cached_s` that is optimizer steps
    fill_s: float
    refill_s: float  # a second run: everything is found
    cache_mb: float
    accuracy: tuple[float, float]  # of the test after the same number of epochs, backbone and cache

    @property
    def speedup(self) -> float:
        """Backbone over cache, wall time."""
        return self.backbone_s / self.cached_s

    @property
    def cpu_speedup(self) -> float:
        """The same in processor seconds."""
        return self.backbone_cpu_s / self.cached_cpu_s


def make_job(overrides: list[str]) -> Job:
    """As the command makes it."""
    config = OmegaConf.to_container(compose_config(overrides), resolve=True, throw_on_missing=True)
    check(config)
    return Job(**parts_of(config), config=config)


def run(overrides: list[str], folder: Path, *, cached: bool) -> tuple[np.ndarray, Result, float]:
    """(wall, processor) seconds of each epoch but the first, what the run came to, and its test accuracy."""
    from plmft.training.scoring import metrics_of_test

    ends: list[tuple[float, float]] = []

    def log(values: dict[str, float], step: int) -> None:
        if "epoch" in values:
            ends.append((time.perf_counter(), time.process_time()))

    job = make_job(overrides)
    job, dataset, _ = job._read(runs_dir())
    pl.seed_everything(job.seed, verbose=False)
    learner = make_learner(job, locate(job.model), dataset, job.hardware.resolve())
    if cached:
        result = learner.learn(folder, log, Console(file=io.StringIO()))
    else:
        with patch.object(GradientSteps, "_embed", lambda *_: None):
            result = learner.learn(folder, log, Console(file=io.StringIO()))
    test = metrics_of_test(job.task, dataset.splits["test"], result.predictions["test"], job.seed, "test")
    return np.diff(np.array(ends), axis=0), result, test["test/accuracy"]


def measure(model: str = "esm2_8m", proteins: int = 400, epochs: int = 12) -> FrozenCost:
    """Runs of `proteins` for training and a few for validation and test, in a folder that is removed."""
    rows, _ = structures()
    train = typical(rows, proteins // BATCH_SIZE, BATCH_SIZE, 0)
    taken = {row.id for row in train}
    others = [row for row in rows if row.id not in taken and row.target.strip(".")][: 2 * OTHERS]
    with tempfile.TemporaryDirectory() as place, patch.dict("os.environ", PLMFT_RUNS=place):
        folder = Path(place)
        words = _overrides(model, folder, train, others)
        slow, _, accuracy = run([*words, "optim.epochs=2"], folder / "slow", cached=False)
        _, filled, close = run([*words, "optim.epochs=2"], folder / "fill", cached=True)
        fast, again, _ = run([*words, f"optim.epochs={epochs}", "optim.patience=null"], folder / "fast", cached=True)
    (backbone_s, backbone_cpu_s), (cached_s, cached_cpu_s) = (np.median(epochs, axis=0) for epochs in (slow, fast))
    steps = again.costs["fit"].values["step_time_ms_mean"] / 1e3 * (proteins // BATCH_SIZE)
    return FrozenCost(
        model,
        proteins,
        sum(len(row.sequence) for row in train),
        backbone_s=backbone_s,
        backbone_cpu_s=backbone_cpu_s,
        cached_s=cached_s,
        cached_cpu_s=cached_cpu_s,
        training_steps_s=steps,
        fill_s=filled.costs["embed"].values["wall_time_s"],
        refill_s=again.costs["embed"].values["wall_time_s"],
        cache_mb=filled.costs["embed"].values["cache_gb"] * 1e3,
        accuracy=(accuracy, close),
    )


def _overrides(model: str, folder: Path, train: list[Row], others: list[Row]) -> list[str]:
    material = write(folder, "material", "residue", {"train": train, "valid": others[:OTHERS], "test": others[OTHERS:]})
    words = [f"model={model}", "model.init=random", "tuning=frozen", "task=table", f"task.file='{material.table}'"]
    return [*words, "task.kind=residue_classes", f"batch_size={BATCH_SIZE}"]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="esm2_8m")
    parser.add_argument("--proteins", type=int, default=400)
    arguments = parser.parse_args()
    found = measure(arguments.model, arguments.proteins)
    print(f"{found.model}, {found.proteins} proteins, {found.residues:,} residues, {torch.get_num_threads()} threads")
    print(f"an epoch through the backbone  {found.backbone_s:8.2f} s  (processor {found.backbone_cpu_s:.2f} s)")
    print(f"an epoch with the cache        {found.cached_s:8.3f} s  (processor {found.cached_cpu_s:.3f} s)")
    print(f"  times faster                 {found.speedup:8.0f}    (processor {found.cpu_speedup:.0f})")
    print(f"  of it optimizer steps        {found.training_steps_s:8.3f} s")
    print(f"filling the cache              {found.fill_s:8.2f} s  (all splits; {found.cache_mb:.0f} MB)")
    print(f"finding all of it again        {found.refill_s:8.3f} s")
    print(
        f"test accuracy, two epochs       {found.accuracy[0]:.4f} through the backbone, {found.accuracy[1]:.4f} cached"
    )


if __name__ == "__main__":
    main()
