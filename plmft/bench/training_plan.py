"""What a training step is planned to hold, before it is tried: the formulas of plmft.efficiency.plan for a cell.

Costs arithmetic alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plmft.bench.protocol import Bench
from plmft.bench.train_command import tuning_config
from plmft.models.head_spec import SequenceHead
from plmft.models.spec import TransformerSpec

GB = 1e9
LARGEST_BATCH = 1 << 16  # searched up to here
HEAD = SequenceHead(pooling="mean", normalize=False, hidden=512, dropout=0.0)  # the one that is trained


@dataclass(frozen=True)
class Planned:
    """In GB; free: of the device now, None where the system does not tell."""

    peak_gb: float
    activations_gb: float
    free_gb: float | None
    largest_batch: int | None

    @property
    def fits(self) -> bool:
        """Whether it may be tried."""
        return self.free_gb is None or self.peak_gb <= self.free_gb


def plan_step(
    bench: Bench, tuning: str, lengths: tuple[int, ...], precision: str, checkpointing: bool
) -> Planned | None:
    """The plan of one step in one pass. None: a model or a tuning that there is no formula for.

    Args: lengths: of the sequences in residues; `largest_batch` repeats them.
    """
    if not isinstance(bench.spec, TransformerSpec):
        return None
    place, made = _place(bench, precision), _tuning(bench, tuning)
    extra = len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)
    tokens = tuple(length + extra for length in lengths)

    def memory(count: int) -> Any:
        return _memory(bench, made, place, tuple(tokens[i % len(tokens)] for i in range(count)), checkpointing)

    here, free = memory(len(tokens)), place.memory_bytes
    largest = None if free is None else _largest(lambda count: memory(count).total <= free)
    return Planned(here.total / GB, here.terms["activations"] / GB, None if free is None else free / GB, largest)


def _memory(bench: Bench, tuning: Any, place: Any, tokens: tuple[int, ...], checkpointing: bool) -> Any:
    from plmft.efficiency.plan import MicroStep, Numerics, training_memory
    from plmft.training.planning import head_bytes, learns_of, network_of

    learns = learns_of(bench.spec, tuning, HEAD, "sequence_regression", 1)
    micro = MicroStep(tokens, alone=True)
    return training_memory(
        network_of(bench.spec),
        learns,
        micro,
        Numerics(place.precision, place.kernel, checkpointing),
        head=head_bytes(bench.spec, HEAD, micro, frozen=not learns.layers),
        fixed=place.fixed,
    )


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest count that fits, by halving; 0: not even one does."""
    low, high = 0, 1
    while high <= LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _tuning(bench: Bench, name: str) -> Any:
    from hydra.utils import instantiate

    if bench.parts["tuning"].name == name:
        return bench.parts["tuning"]
    return instantiate(tuning_config(name)["tuning"], _convert_="all")


def _place(bench: Bench, precision: str) -> Any:
    """This device for a new process, with the memory that is free now."""
    from plmft.models import kernels
    from plmft.training.places import CONTEXT_GB, LIBRARIES_GB, SCRATCH_GB, available_bytes
    from plmft.training.run_plan import Place

    if bench.device.kind == "gpu":
        import torch

        free, _ = torch.cuda.mem_get_info(bench.device.index)
        told = "CUDA context, assumed"
        return Place("gpu", bench.device.name, precision, "flash", free, "free now", CONTEXT_GB * GB, told, None)
    kernel = "compiled" if kernels.load() is not None else "matmul"
    fixed, told = (LIBRARIES_GB + SCRATCH_GB) * GB, "Python and the imported libraries, measured on another run"
    return Place("cpu", "CPU", precision, kernel, available_bytes(), "free now", fixed, told, None)
