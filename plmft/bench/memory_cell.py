"""One cell of the memory protocol, in the process that measures it: build, compute, read the peak, take it apart."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmft import InputError
from plmft.bench.protocol import Bench, Row

if TYPE_CHECKING:
    import torch
    from torch import nn

    from plmft.data.packing import StepBatch

GB = 1e9
# what a cell imports: it counts as libraries
LIBRARIES = ("plmft.bench.forward", "plmft.bench.choices", "plmft.models.build", "plmft.models.precision")


def measure_cell(
    bench: Bench,
    *,
    mode: str,
    tuning: str,
    precision: str,
    batch: int,
    length: int,
    limit_gb: float | None,
    steps: int,
) -> Row:
    """Peak and its parts, in GB of 10⁹ bytes.

    Raises: RuntimeError, MemoryError: there is no room.
    """
    from plmft.efficiency.memory import MemoryMeter, give_back

    before, data = libraries_bytes(bench.where)
    if limit_gb is not None:
        limit(bench, limit_gb, data)
    give_back()
    if bench.device.kind == "gpu":
        import torch

        torch.cuda.empty_cache()  # what an earlier cell's allocator kept is not this one's
    make = _inference if mode == "inference" else _training
    run, held, specials = make(bench, tuning, precision, batch, length)
    meter = MemoryMeter(bench.device.torch_type, bench.device.index)
    give_back()  # what building held for a moment, as weights in fp32 before they are rounded, is not the cell's
    meter.reset()
    for _ in range(steps):
        run()
    peaks = meter.peak()
    row: Row = {"tokens": batch * (length + specials), **peaks, **{f"{name}_gb": n / GB for name, n in held().items()}}
    dynamic = peaks.get("peak_memory_gb")
    if dynamic is None and before is not None and "peak_host_memory_gb" in peaks:
        dynamic = row["peak_above_libraries_gb"] = peaks["peak_host_memory_gb"] - before / GB
    row["floor_gb"] = row["weights_gb"]
    if dynamic is not None:
        known = sum(row.get(f"{name}_gb", 0.0) for name in ("weights", "gradients", "optimizer"))
        row["activations_gb"] = dynamic - known
    notes = list(meter.notes().values())
    return row | ({"note": "; ".join(notes)} if notes else {})


@lru_cache
def libraries_bytes(where: str) -> tuple[int | None, int | None]:
    """What this process holds before its first model, after its imports and small products; None: not told.

    Returns: resident bytes, and those of its data, which a limit counts.
    """
    import torch

    for name in LIBRARIES:
        importlib.import_module(name)
    for dtype in (torch.float32, torch.bfloat16):  # the products' library takes its scratch at first use
        some = torch.ones(512, 512, device=where, dtype=dtype, requires_grad=True)
        (some @ some).sum().backward()
    del some
    return _status("VmRSS"), _status("VmData")


def _status(name: str) -> int | None:
    """Bytes, of this process, where the system has /proc."""
    if not sys.platform.startswith("linux"):
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def limit(bench: Bench, limit_gb: float, data: int | None) -> None:
    """Pretend a smaller device: beyond it an allocation fails. On a CPU, of this process's data.

    Args: data: bytes of them that are there already.
    Raises: InputError: the system knows no such limit.
    """
    if bench.device.kind == "gpu":
        import torch

        whole = torch.cuda.get_device_properties(bench.device.index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_gb * GB / whole), bench.device.index)
        return
    if data is None:
        raise InputError("protocol.limit_gb: this system can't limit a process's memory. Set it to null.")
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (data + int(limit_gb * GB), hard))


Made = tuple[Callable[[], None], Callable[[], dict[str, int]], int]


def _inference(bench: Bench, tuning: str, precision: str, batch: int, length: int) -> Made:
    import numpy as np

    from plmft.bench.forward import forward_of
    from plmft.bench.material import encoded, fixed_sequences

    backbone = bench.backbone(precision)
    packed = encoded(bench.spec, fixed_sequences(batch, length, bench.seed)).pack(np.arange(batch)).to(bench.where)
    forward = forward_of(bench, backbone, "packed", precision)

    def run() -> None:
        forward(packed)

    return run, lambda: {"weights": bytes_of(backbone)}, _specials(bench)


def _training(bench: Bench, tuning: str, precision: str, batch: int, length: int) -> Made:
    """Optimizer steps as a run takes them, with all sequences in one micro-step."""
    import torch

    from plmft.bench.memory_plan import tuning_of
    from plmft.models.build import build_predictor
    from plmft.models.precision import autocast, hold_frozen_in_bf16
    from plmft.models.weights import locate

    task = bench.parts["task"]
    torch.manual_seed(bench.seed)
    predictor = build_predictor(
        bench.spec,
        locate(bench.spec),
        tuning=tuning_of(tuning),
        head=task.head,
        kind=task.kind,
        outputs=task.outputs,
    )
    if precision == "bf16_weights":
        hold_frozen_in_bf16(predictor.backbone)
    predictor.to(bench.where)
    bench.at(precision)  # tells PyTorch whether fp32 products may be TF32
    optimizer, _ = bench.parts["optim"].build(predictor, 100)
    step = steps_of(bench, batch, length).to(bench.where)
    learning = [weights for weights in predictor.parameters() if weights.requires_grad]
    device_type = torch.device(bench.where).type

    def backward(loss: torch.Tensor) -> None:
        with torch.autocast(device_type, enabled=False):
            loss.backward()

    def run() -> None:
        optimizer.zero_grad()
        with autocast(precision, device_type):
            predictor.backward_step(step, backward)
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()

    def held() -> dict[str, int]:
        gradients = sum(w.grad.numel() * w.grad.element_size() for w in learning if w.grad is not None)
        state = [value for values in optimizer.state.values() for value in values.values()]
        moments = sum(v.numel() * v.element_size() for v in state if isinstance(v, torch.Tensor) and v.numel() > 1)
        return {"weights": bytes_of(predictor), "gradients": gradients, "optimizer": moments}

    return run, held, _specials(bench)


def steps_of(bench: Bench, batch: int, length: int) -> StepBatch:
    """One optimizer step of random sequences and targets of the task's kind.

    Raises: InputError: a kind without labels that could be drawn.
    """
    import numpy as np

    from plmft.bench.material import fixed_sequences
    from plmft.data.packing import EncodedSplit
    from plmft.data.records import Record

    task, rng = bench.parts["task"], np.random.default_rng(bench.seed)
    targets: dict[str, Callable[[], Any]] = {
        "sequence_regression": lambda: float(rng.standard_normal()),
        "sequence_classification": lambda: int(rng.integers(0, task.outputs)),
        "residue_classification": lambda: rng.integers(0, task.outputs, length),
        "contacts": lambda: rng.normal(0, 10, (length, 3)).astype(np.float32),
    }
    if task.kind not in targets:
        raise InputError(f"task={task.name}: no targets are drawn for {task.kind}. Set task=fluorescence.")
    sequences = fixed_sequences(batch, length, bench.seed)
    records = [Record(str(n), sequence, targets[task.kind](), "train") for n, sequence in enumerate(sequences)]
    split = EncodedSplit(records, bench.spec.tokenizer, task.kind)
    return split.step(np.arange(batch), int(split.lengths.sum()))


def bytes_of(module: nn.Module) -> int:
    """Of weights and buffers, each once."""
    held = {value.data_ptr(): value for value in (*module.parameters(), *module.buffers())}
    return sum(value.numel() * value.element_size() for value in held.values())


def _specials(bench: Bench) -> int:
    return len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)
