"""P-LOAD: loaders alone, with the copy to the device, and with the model; by one process and by several side by side.

The loaders are those of plmft.bench.loaders, over the same proteins. Each process has cores of its own, and all begin a
cell together. The loader's rate beside the model's says whether it limits.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from plmft.bench.loaders import Loader, Source
from plmft.bench.protocol import Bench, Row
from plmft.efficiency.out_of_memory import is_out_of_memory
from plmft.models.spec import TransformerSpec
from plmft.sweeps.jobs import first_line

if TYPE_CHECKING:
    from torch import nn

Stage = Literal["loader", "loader_copy", "loader_model"]
POLL_S = 1.0
LEAST_BATCHES = 3  # of a cell, however long they take
PADDED_WITH_MODEL = (("loader_model", "padded"), ("loader_model", "padded_bucketed"))
SUMS = ("sequences", "residues", "tokens", "cpu_s")


@dataclass(frozen=True)
class Loading:
    """Options of the protocol.

    Args:
        loaders: see plmft.bench.loaders. workers: processes of PyTorch's DataLoader; 0: the training process loads.
        processes: how many load and compute side by side, as one for each device does.
        batch: sequences, of the padded loaders; the packed ones take as many as fit in a batch of mean length.
        sequences: proteins of real lengths that an epoch has. seconds: of each cell.
    """

    loaders: Annotated[tuple[Loader, ...], MinLen(1)]
    workers: Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1)]
    stages: Annotated[tuple[Stage, ...], MinLen(1)]
    processes: Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]
    batch: Annotated[int, Gt(0)]
    sequences: Annotated[int, Gt(0)]
    seconds: Annotated[float, Gt(0)]

    uses: ClassVar[tuple[str, ...]] = ("data",)

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "nodes": 1,
            "model": "forward pass at hardware.precision",
            "start_of_workers": "not timed",
            "least_batches": LEAST_BATCHES,
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """A row for each number of processes, stage, loader and number of workers."""
        for count in self.processes:
            for (stage, loader, workers), found in zip(self._cells(bench), self._all(bench, count), strict=True):
                row = bench.conditions(
                    nodes=1,
                    processes=count,
                    stage=stage,
                    loader=loader,
                    workers=workers,
                    batch=self.batch,
                    lengths=bench.source_of_sequences,
                )
                if bench.device.kind == "cpu":
                    row["threads"] = threads_of(count)
                yield row | figures(found)
        if bench.device.kind == "cpu" and "loader_copy" in self.stages:
            told = "the model computes on the CPU: nothing is copied"
            yield bench.conditions(stage="loader_copy") | {"note": told}

    def _cells(self, bench: Bench) -> list[tuple[Stage, Loader, int]]:
        stages = [stage for stage in self.stages if stage != "loader_copy" or bench.device.kind == "gpu"]
        cells = [(stage, loader, n) for stage in stages for loader in self.loaders for n in self.workers]
        rectangles = isinstance(bench.spec, TransformerSpec)  # models from scratch take packed batches alone
        return [cell for cell in cells if rectangles or cell[:2] not in PADDED_WITH_MODEL]

    def _all(self, bench: Bench, count: int) -> Iterator[list[dict[str, float]]]:
        """What each process found, cell by cell, as they come."""
        if count == 1:
            yield from ([found] for found in self._run(bench, count, lambda: None))
            return
        context = multiprocessing.get_context("spawn")
        together, told = context.Barrier(count), context.Queue()
        parts = {name: bench.parts[name] for name in ("hardware", "data")}  # a task's reader can't be handed over
        bench = replace(bench, parts=parts, config={})
        others = [context.Process(target=_work, args=(self, bench, n, count, together, told)) for n in range(count)]
        for other in others:
            other.start()
        try:
            for _ in self._cells(bench):
                yield [_next(told, others) for _ in range(count)]
        finally:
            for other in others:
                other.join(timeout=POLL_S)
                other.kill()
                other.join()

    def _run(self, bench: Bench, count: int, begin: Callable[[], None]) -> Iterator[dict[str, float]]:
        """The cells in this process. begin: waits for the other processes."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads_of(count))
        try:
            source = Source(bench, self.sequences, self.batch)
            model: nn.Module | None = None
            for stage, loader, workers in self._cells(bench):
                if stage == "loader_model" and model is None:
                    model = bench.backbone(bench.device.precision)
                yield _measure(source, stage, loader, workers, self.seconds, model, begin)
        finally:
            torch.set_num_threads(before)


def threads_of(processes: int) -> int:
    """Cores for each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def figures(found: Sequence[Mapping[str, float]]) -> Row:
    """Rates added up over processes; CPU time is theirs and their workers'."""
    total = {name: sum(one[name] for one in found) for name in SUMS}
    per_s = {name: sum(one[name] / one["wall_s"] for one in found) for name in SUMS}
    row: Row = {
        "sequences_per_s": per_s["sequences"],
        "residues_per_s": per_s["residues"],
        "cpu_s_per_1k_sequences": 1e3 * total["cpu_s"] / total["sequences"],
        "cpu_cores_busy": per_s["cpu_s"],
        "padding_fraction": sum(one["padding"] for one in found) / total["tokens"],
    }
    return row


def _work(protocol: Loading, bench: Bench, number: int, count: int, together: Any, told: Any) -> None:
    """One of several processes, on a GPU of its own as far as there are enough."""
    if bench.device.kind == "gpu":
        import torch

        index = number % torch.cuda.device_count()
        torch.cuda.set_device(index)
        bench = replace(bench, device=replace(bench.device, index=index))
    try:
        for found in protocol._run(bench, count, together.wait):
            told.put(found)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        told.put(first_line(error))


def _next(told: Any, others: Sequence[Any]) -> dict[str, float]:
    """The next that one of them found. Raises: MemoryError: one had no room. RuntimeError: one has died."""
    while True:
        try:
            found = told.get(timeout=POLL_S)
            if isinstance(found, str):
                raise MemoryError(found)
            return found
        except Empty:
            dead = [other.exitcode for other in others if other.exitcode]
            if dead:
                raise RuntimeError(f"a loading process ended with exit code {dead[0]}") from None


def _measure(
    source: Source,
    stage: Stage,
    name: Loader,
    workers: int,
    seconds: float,
    model: "nn.Module | None",
    begin: Callable[[], None],
) -> dict[str, float]:
    """One cell: what passed, and the time of this process and its workers, after the first batch is there."""
    import torch

    from plmft.models.precision import autocast

    bench = source.bench
    device, gpu = bench.where, bench.device.kind == "gpu"
    counts = dict.fromkeys((*SUMS, "padding", "wall_s"), 0.0)
    stream = source.endless(name, workers)
    with torch.inference_mode(), autocast(bench.device.precision, bench.device.torch_type):
        batch = next(stream)
        if stage == "loader_model":
            source.pass_through(model, batch)
        begin()
        cpu, start, passed = cpu_seconds(), time.perf_counter(), 0
        while passed < LEAST_BATCHES or time.perf_counter() - start < seconds:
            batch, passed = next(stream), passed + 1
            counts["sequences"] += batch.sequences
            counts["residues"] += batch.residues
            counts["tokens"] += batch.tokens.numel()
            counts["padding"] += batch.padding
            if stage == "loader_copy":
                batch.packed.to(device) if batch.packed is not None else batch.tokens.to(device)
            elif stage == "loader_model":
                source.pass_through(model, batch)
            if gpu:
                torch.cuda.synchronize(bench.device.index)
        counts["wall_s"] = time.perf_counter() - start
        counts["cpu_s"] = cpu_seconds() - cpu
    stream.close()
    return counts


def cpu_seconds() -> float:
    """User and system time of this process and of those that it has started."""
    import psutil

    own = psutil.Process()
    total = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system
    return total
