"""plmft's side of benchmarks.bulk: the forward pass alone, and the jobs of embed and predict around it.

Run as python -m benchmarks.bulk_jobs; answers jobs as benchmarks.serve says.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.serve import peak_host_gb, serve
from plmft.efficiency.allocator import bound_kernel_caches, keep_freed_memory
from plmft.embeddings import job
from plmft.embeddings.choices import read_request
from plmft.inference import job as prediction
from plmft.inference.computing import Computer
from plmft.inference.options import read_request as read_prediction
from plmft.models.build import build_backbone, build_predictor
from plmft.models.embedding import embed_sequences
from plmft.models.head_spec import SequenceHead
from plmft.models.precision import hold_for, hold_frozen_in_bf16
from plmft.models.tuned import Description, load, save
from plmft.models.tuning import Full
from plmft.models.weights import locate

bound_kernel_caches()
keep_freed_memory()


def timed(work: Callable[[], int]) -> dict[str, Any]:
    """Wall and processor seconds of the work, which returns the residues that it read."""
    wall, cpu = time.perf_counter(), time.process_time()
    residues = work()
    seconds, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": seconds, "cpu_s": cpu_s, "residues": residues, "peak_host_gb": peak_host_gb()}


def bare(words: list[str], sequences: list[str]) -> dict[str, Any]:
    """Means of all sequences in memory: longest first, packed, one call; no file is read or written."""
    request = read_request([*words, "input=-", "output=none"])
    device = request.hardware.resolve()
    backbone = build_backbone(request.model, locate(request.model)).requires_grad_(False).to(device.torch_type)
    if device.precision in ("bf16", "bf16_weights"):  # as the job does
        hold_frozen_in_bf16(backbone)

    def work() -> int:
        embed_sequences(
            request.model,
            sequences,
            backbone=backbone,
            tokens_per_batch=request.hardware.tokens_per_batch,
            device=device.torch_type,
            precision=device.precision,
        )
        return sum(map(len, sequences))

    return timed(work)


def timed_once_loaded(owner: Any, loads: str, work: Callable[[], Any], residues: int) -> dict[str, Any]:
    """As timed, from the moment when `owner.loads`, which the work calls once, has come back."""
    load_model, marks = getattr(owner, loads), []

    def marked(*given: Any) -> Any:
        found = load_model(*given)
        marks.extend((time.perf_counter(), time.process_time()))
        return found

    with patch.object(owner, loads, marked):
        work()
    seconds, cpu_s = time.perf_counter() - marks[0], time.process_time() - marks[1]
    return {"seconds": seconds, "cpu_s": cpu_s, "residues": residues, "peak_host_gb": peak_host_gb()}


def embed(words: list[str], fasta: str, output: str, residues: int) -> dict[str, Any]:
    """The whole job, from reading the input to the last file; loading the model is left out, as it is of the others."""
    shutil.rmtree(output, ignore_errors=True)
    request = read_request([*words, f"input={fasta}", f"output={output}"])
    runs = Path(output).parent / "runs"
    return timed_once_loaded(job, "prepare", lambda: job.run_job(request, runs), residues)


def tuned_bare(words: list[str], folder: str, sequences: list[str]) -> dict[str, Any]:
    """Values of all sequences in memory by a tuned model: longest first, packed; no file is read or written."""
    request = read_prediction([*words, f"model={folder}", "input=-", "output=none"])
    found = load(Path(folder), "cpu")
    hold_for(request.hardware.resolve().precision, found.predictor)  # as the job does

    def work() -> int:
        found.predict(sequences, tokens_per_batch=request.hardware.tokens_per_batch)
        return sum(map(len, sequences))

    return timed(work)


def predict(words: list[str], folder: str, fasta: str, output: str, residues: int) -> dict[str, Any]:
    """The whole job, as embed's."""
    shutil.rmtree(output, ignore_errors=True)
    request = read_prediction([*words, f"model={folder}", f"input={fasta}", f"output={output}"])
    return timed_once_loaded(Computer, "load", lambda: prediction.run_job(request, Path(folder)), residues)


def tuned(words: list[str], folder: str) -> dict[str, Any]:
    """A tuned model with a random head, as training leaves it, for predict."""
    request = read_request([*words, "input=-", "output=none"])
    located, head = locate(request.model), SequenceHead("mean", False, 512, 0.0)
    torch.manual_seed(request.seed)
    kind = "sequence_regression"
    predictor = build_predictor(request.model, located, tuning=Full(), head=head, kind=kind, outputs=1)
    predictor.fit_scale([0.0, 1.0, 2.0])
    shutil.rmtree(folder, ignore_errors=True)
    description = Description(request.model, Full(), head, "bulk", kind, (), "unit", precision="bf16")
    save(predictor, description, located, Path(folder))
    return {"folder": str(load(folder) and folder)}


if __name__ == "__main__":
    serve({"bare": bare, "embed": embed, "tuned": tuned, "tuned_bare": tuned_bare, "predict": predict})
