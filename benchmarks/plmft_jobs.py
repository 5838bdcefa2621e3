"""plmft's side: whole runs as the command makes them, the bare loop beside them, embedding, and the bound.

Run in plmft's environment: python -m benchmarks.plmft_jobs
"""

import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.serve import measured, peak_host_gb, serve
from plmft.config.check import check
from plmft.config.compose import compose_config, parts_of
from plmft.data.packing import EncodedSplit
from plmft.data.records import build_dataset
from plmft.data.sampler import TrainingSteps
from plmft.efficiency import memory, steps
from plmft.efficiency.allocator import keep_freed_memory
from plmft.models.build import build_backbone
from plmft.models.embedding import embed_sequences
from plmft.models.weights import locate
from plmft.tracking.options import runs_dir
from plmft.training.job import Job
from plmft.training.learning import make_learner


class Watch:
    """Marks the end of every metered step, and keeps host memory's peak although phases reset it.

    The marks are taken in the meter's own call, as Trainer's are in its callback: both lie at the end of a step.
    """

    def __init__(self) -> None:
        self.marks: list[float] = []
        self.residues: list[int] = []
        self.peak_gb = 0.0
        self._meter: object | None = None
        self._end, self._reset = steps.StepMeter.step_end, memory.MemoryMeter.reset

    def __enter__(self) -> "Watch":
        watch = self

        def step_end(meter: steps.StepMeter, **counts: Any) -> None:
            watch._end(meter, **counts)
            if watch._meter in (None, meter):  # the first meter is that of training
                watch._meter = meter
                if torch.cuda.is_initialized():
                    torch.cuda.synchronize()
                watch.marks.append(time.perf_counter())
                watch.residues.append(counts["residues"])

        def reset(meter: memory.MemoryMeter) -> None:
            watch.peak_gb = max(watch.peak_gb, peak_host_gb())
            watch._reset(meter)

        steps.StepMeter.step_end, memory.MemoryMeter.reset = step_end, reset
        return self

    def __exit__(self, *_: object) -> None:
        steps.StepMeter.step_end, memory.MemoryMeter.reset = self._end, self._reset
        self.peak_gb = max(self.peak_gb, peak_host_gb())


def make_job(overrides: list[str]) -> Job:
    """As the command makes it."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(compose_config(overrides), resolve=True, throw_on_missing=True)
    check(config)
    return Job(**parts_of(config), config=config)


def train(overrides: list[str], warmup: int, metric: str | None = None) -> dict[str, Any]:
    """A whole run: Lightning, meters, MLflow, progress bar, validation, test, recording. Its steps are timed."""
    known = set(_summaries())
    with Watch() as watch:
        make_job(overrides).run(Console(file=io.StringIO(), force_terminal=True, width=160))
    (file,) = set(_summaries()) - known
    summary = json.loads(file.read_text())
    peaks = [value for name, value in summary["cost"].items() if name.endswith("peak_host_memory_gb")]
    answer = measured(watch.marks, watch.residues, warmup) | {"peak_host_gb": max(watch.peak_gb, *peaks)}
    if "cost/peak_memory_gb" in summary["cost"]:
        answer["peak_gb"] = summary["cost"]["cost/peak_memory_gb"]
    if metric is not None:
        answer["metric"] = summary["metrics"][metric]
    return answer | {"attention": attention(), "summary": summary["cost"]}


def _summaries() -> list[Path]:
    return list((runs_dir() / "work").glob("*/summary.json"))


def attention() -> str:
    """Which attention runs here."""
    from plmft.models import kernels

    if torch.cuda.is_available():
        return "the GPU's own"
    return "compiled kernel" if kernels.load() is not None else "PyTorch by sequence"


def bare(overrides: list[str], warmup: int) -> dict[str, Any]:
    """The loop that anyone would write: the same model, packed batches, optimizer and clipping, and nothing else."""
    job = make_job(overrides)
    loaded = job.task.read(job.data.place(runs_dir()))
    task = replace(job.task, classes=loaded.classes or job.task.classes)
    job = replace(job, task=task)
    dataset = build_dataset(
        task.name, task.kind, loaded.records, source=loaded.source, n_classes=len(task.classes), needs=task.needs
    )
    torch.manual_seed(job.seed)
    predictor = make_learner(job, locate(job.model), dataset, job.hardware.resolve()).predictor
    split = EncodedSplit(dataset.splits["train"], job.model.tokenizer, task.kind)
    batches = TrainingSteps(
        split, batch_size=job.batch_size, tokens_per_batch=job.hardware.tokens_per_batch, seed=job.seed
    )
    optimizer, schedule = job.optim.build(predictor, len(batches))
    marks, residues = [], []
    for number in range(len(batches)):
        step = batches[(0, number)]
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            predictor.backward_step(step, torch.Tensor.backward)
        torch.nn.utils.clip_grad_norm_(predictor.parameters(), job.optim.clip_norm)
        optimizer.step()
        schedule.step()
        marks.append(time.perf_counter())
        residues.append(sum(batch.residues for batch in step.micro))
    return measured(marks, residues, warmup)


def embed(overrides: list[str], sequences: list[str], keep: str, limit: int | None = None) -> dict[str, Any]:
    """Mean vectors of the sequences, by the function that notebooks call; the allocator is set as commands set it.

    Args:
        keep: a file for the (N, D) means, in the order of `sequences`. limit: only so many of them.
    """
    sequences = sequences[:limit]
    job = make_job(overrides)
    device = job.hardware.resolve()
    backbone = build_backbone(job.model, locate(job.model))
    keep_freed_memory()
    start = time.perf_counter()
    means = embed_sequences(
        job.model,
        sequences,
        backbone=backbone,
        device=device.torch_type,
        precision=device.precision,
        tokens_per_batch=job.hardware.tokens_per_batch,
    )
    seconds = time.perf_counter() - start
    np.save(keep, means)
    return {
        "seconds": seconds,
        "residues": sum(map(len, sequences)),
        "peak_host_gb": peak_host_gb(),
        "attention": attention(),
    }


def frozen(model: str, proteins: int) -> dict[str, Any]:
    """Epochs of a frozen run, through the backbone and from the cache (benchmarks.frozen_cache)."""
    from benchmarks.frozen_cache import measure

    cost = measure(model, proteins)
    return asdict(cost) | {"speedup": cost.speedup}


def gemm(model: str, tokens: int, length: int, repeats: int) -> dict[str, Any]:
    """Time of all matrix products of one training step in bf16, each alone and warm.

    Args:
        tokens: of the step. length: of its sequences, for attention's products.
    Returns: seconds of the linear layers' products and of attention's, forward and backward.
    """
    spec = compose_config([f"model={model}"]).model
    shapes = [(spec.width, 3 * spec.width), (spec.width, spec.width)]
    shapes += [(spec.width, spec.feedforward), (spec.feedforward, spec.width)]
    linear = sum(_linear_s(tokens, inputs, outputs, repeats) for inputs, outputs in shapes)
    mixed = _attention_s(spec.heads, length, spec.width // spec.heads, repeats) * tokens / length
    return {"linear_s": spec.layers * linear, "attention_s": spec.layers * mixed}


def _linear_s(tokens: int, inputs: int, outputs: int, repeats: int) -> float:
    x, gradient, weight = _random(tokens, inputs), _random(tokens, outputs), _random(outputs, inputs)
    forward = _seconds(lambda: torch.nn.functional.linear(x, weight), repeats)
    return forward + _seconds(lambda: gradient @ weight, repeats) + _seconds(lambda: gradient.T @ x, repeats)


def _attention_s(heads: int, length: int, width: int, repeats: int) -> float:
    """Of one sequence: two products forward, four backward; as many by shape of either kind."""
    narrow, square = _random(heads, length, width), _random(heads, length, length)
    scores = _seconds(lambda: narrow @ narrow.transpose(1, 2), repeats)
    mixed = _seconds(lambda: square @ narrow, repeats)
    transposed = _seconds(lambda: square.transpose(1, 2) @ narrow, repeats)
    return 2 * scores + 2 * mixed + 2 * transposed


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.bfloat16)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    times = []
    for number in range(repeats + 2):
        start = time.perf_counter()
        call()
        if number > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    serve({"train": train, "bare": bare, "embed": embed, "gemm": gemm, "frozen": frozen})
