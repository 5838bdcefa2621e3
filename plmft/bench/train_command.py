"""Fine-tune for a few steps in processes of their own, by plmft.train itself: what is measured is what a user pays.

Each cell is a run of the training command on a table of proteins with random targets, in a runs folder that is removed
with it; its figures are those of the run's own summary. Costs a start of Python with torch and Lightning, some 10 s of
one core, for each process.
"""

import contextlib
import copy
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.bench.material import fixed_sequences
from plmft.bench.protocol import Bench
from plmft.config.compose import config_folder
from plmft.efficiency.out_of_memory import OUT_OF_MEMORY, says_out_of_memory

WARMUP_STEPS = 5  # that plmft.efficiency.steps.StepMeter counts and does not time
HELD_OUT_LENGTH = 32  # of the one protein of validation, and of test
FOR_JOBS = ("PLMFT_SWEEP", "PLMFT_OVERRIDES", "PLMFT_JOB")  # this process's own, not its children's
CUT_FINER = "the step was done again"  # what training says when a step did not fit


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        sequences: that a step sees, for each of `steps` steps. tokens: that one device holds at once.
        threads: of each process on a CPU.
    """

    sequences: Sequence[str]
    batch: int
    tokens: int
    tuning: str
    precision: str
    checkpointing: bool = False
    devices: int = 1
    strategy: str = "single"
    threads: int | None = None


@dataclass(frozen=True)
class Trained:
    """What a run told of itself.

    Args:
        cost: of its training steps; embed: of the pass that computes a frozen backbone's vectors. By the names of
            plmft.efficiency.phase.
        total, trainable: weights. reason: why there is no figure; out_of_memory: whether that was it.
    """

    cost: dict[str, float] = field(default_factory=dict)
    embed: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    energy_source: str = ""
    total: float = 0.0
    trainable: float = 0.0
    reason: str | None = None
    out_of_memory: bool = False


def train_apart(bench: Bench, cell: Cell) -> Trained:
    """Run it. Raises: InputError: a mistake in the options that training finds. KeyboardInterrupt: it was stopped."""
    from plmft.training.launching import RankFailed, launch

    with tempfile.TemporaryDirectory(prefix="training-", dir=bench.folder) as name:
        folder = Path(name)
        _write_table(folder / "table.csv", cell.sequences, bench.seed)
        config = config_of(bench, cell, folder / "table.csv")
        told = folder / "told.txt"
        try:
            with _environment(folder, cell.threads), _into(told), contextlib.redirect_stderr(io.StringIO()):
                launch(config)
        except (InputError, RankFailed) as error:
            return _failed(error)
        if CUT_FINER in told.read_text(errors="replace"):
            return Trained(reason=f"{OUT_OF_MEMORY}: training went on with finer micro-steps", out_of_memory=True)
        return _read(next((folder / "work").glob("*/summary.json")), folder)


def config_of(bench: Bench, cell: Cell, table: Path) -> dict[str, Any]:
    """The training command's config: the bench's own with what the cell sets."""
    config = {key: value for key, value in copy.deepcopy(bench.config).items() if key != "protocol"}
    if config["tuning"]["_target_"] != tuning_config(cell.tuning)["tuning"]["_target_"]:
        chosen = tuning_config(cell.tuning)
        config["tuning"], config["optim"] = chosen["tuning"], config["optim"] | chosen["optim"]
    config["task"] = _yaml("task", "table") | {"name": "benchmark", "file": str(table), "kind": "regression"}
    config["task"] |= {"sequence": "sequence", "target": "target", "split": "split", "id": "none"}
    config["task"]["head"]["normalize"] = False  # several processes would pool each sequence twice
    steps = len(cell.sequences) // cell.batch
    config["optim"] |= {"epochs": 1, "max_steps": steps, "patience": None}
    config["hardware"] |= {
        "precision": cell.precision,
        "tokens_per_batch": cell.tokens,
        "gradient_checkpointing": cell.checkpointing,
        "devices": cell.devices,
        "nodes": 1,
        "strategy": cell.strategy,
        "usd_per_hour": bench.usd_per_hour,
    }
    config["data"] |= {"length_policy": "crop"}
    config["limit"] |= {"train": None, "valid": None, "test": None}
    config["checkpoint"] |= {"resume": False, "every_minutes": 60}
    config["tracking"] = _yaml("tracking", "sqlite")
    return config | {"batch_size": cell.batch, "seed": bench.seed}


def tuning_config(name: str) -> dict[str, Any]:
    """conf/tuning/<name>.yaml: the way of tuning, and its learning rate."""
    return _yaml("tuning", name)


def check_tunings(bench: Bench, names: Sequence[str], key: str, *, devices: int = 1, strategy: str = "single") -> None:
    """Raises: InputError: one is not there, trains nothing, or is refused by training's own check."""
    from plmft.config.check import check

    known = sorted(file.stem for file in (config_folder() / "tuning").glob("*.yaml") if file.stem != "none")
    for name in names:
        if name not in known:
            raise InputError(f"{key}: there is no tuning {name!r} to measure. It takes {', '.join(known)}.")
        cell = Cell(["M"], 1, 1, name, bench.device.precision, devices=devices, strategy=strategy)
        check(config_of(bench, cell, bench.folder / "table.csv"))


def _yaml(group: str, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(config_folder() / group / f"{name}.yaml"))


def _write_table(file: Path, sequences: Sequence[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    held_out = fixed_sequences(2, HELD_OUT_LENGTH, seed + 1)
    rows = [*((s, "train") for s in sequences), (held_out[0], "valid"), (held_out[1], "test")]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sequence", "target", "split"])
        writer.writerows([sequence, f"{rng.normal():.6f}", split] for sequence, split in rows)


@contextlib.contextmanager
def _environment(runs: Path, threads: int | None) -> Iterator[None]:
    """That of the processes: a runs folder of their own, and none of what a sweep tells its jobs."""
    before = dict(os.environ)
    for name in FOR_JOBS:
        os.environ.pop(name, None)
    os.environ["PLMFT_RUNS"] = str(runs)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _into(file: Path) -> Iterator[None]:
    """What processes started meanwhile print goes to the file."""
    import sys

    sys.stdout.flush()
    before = os.dup(1)
    try:
        with file.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def _failed(error: Exception) -> Trained:
    """A cell that did not fit, or failed otherwise, is a row with its reason; a mistake in the options is raised."""
    text = str(error)
    if says_out_of_memory(text) or isinstance(error, MemoryError) or "SIGKILL" in text:
        told = next((line for line in text.splitlines() if says_out_of_memory(line)), text.splitlines()[0])
        return Trained(reason=f"{OUT_OF_MEMORY}: {told.strip()}", out_of_memory=True)
    if isinstance(error, InputError):
        raise error
    return Trained(reason=f"training failed: {text.strip().splitlines()[-1]}")


def _read(summary: Path, runs: Path) -> Trained:
    told = json.loads(summary.read_text())
    cost = told["cost"]
    fit = {name.removeprefix("cost/"): value for name, value in cost.items() if name.count("/") == 1}
    return Trained(
        cost=fit,
        embed=_phase(cost, "embed"),
        notes=_phase_notes(told["notes"]),
        energy_source=told["energy_source"],
        total=told["metrics"].get("model/parameters_total", 0.0),
        trainable=told["metrics"].get("model/parameters_trainable", 0.0),
    )


def _phase(values: Mapping[str, float], phase: str) -> dict[str, float]:
    start = f"cost/{phase}/"
    return {name.removeprefix(start): value for name, value in values.items() if name.startswith(start)}


def _phase_notes(notes: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("cost/"): text for name, text in notes.items() if name.count("/") == 1}
