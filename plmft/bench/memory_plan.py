"""What the planner says of a cell, and the largest batch by a rule. Costs arithmetic alone."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from plmft.bench.protocol import Bench
from plmft.models.spec import TransformerSpec

if TYPE_CHECKING:
    from plmft.models.tuning import Tuning


def plan(bench: Bench, mode: str, tuning: str, precision: str, batch: int, length: int) -> float | None:
    """Bytes of the peak, without what Python and its libraries or the CUDA context take; None: no formula for it."""
    from plmft.efficiency.plan import Learns, MicroStep, Numerics, training_memory
    from plmft.models import kernels
    from plmft.training.planning import head_bytes, learns_of, network_of

    spec = bench.spec
    if not isinstance(spec, TransformerSpec):
        return None
    specials = len(spec.tokenizer.prefix) + len(spec.tokenizer.suffix)
    micro = MicroStep((length + specials,) * batch, alone=True)
    compiled = "compiled" if kernels.load() is not None else "matmul"
    numerics = Numerics(precision, "flash" if bench.device.kind == "gpu" else compiled)
    if mode == "inference":
        return training_memory(network_of(spec), Learns(0, 0, 0), micro, numerics).total
    task = bench.parts["task"]
    learns = learns_of(spec, tuning_of(tuning), task.head, task.kind, task.outputs)
    head = head_bytes(spec, task.head, micro, frozen=not learns.layers)
    return training_memory(network_of(spec), learns, micro, numerics, head=head).total


def room_bytes(bench: Bench) -> float | None:
    """What is free on the device; None: the system doesn't tell."""
    from plmft.training.places import available_bytes

    if bench.device.kind == "cpu":
        return available_bytes()
    import torch

    return float(torch.cuda.mem_get_info(bench.device.index)[0])


@lru_cache
def tuning_of(name: str) -> "Tuning":
    """A way of tuning by its name, with the options of conf/tuning."""
    from plmft.bench.choices import choice

    return choice("tuning", name)


def largest_batch(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch that fits, at most `limit`; 0: not even one sequence. Doubles, then halves the gap."""
    held, tried = 0, 1
    while tried <= limit and fits(tried):
        held, tried = tried, 2 * tried
    failed = min(tried, limit + 1)
    while failed - held > 1:
        middle = (held + failed) // 2
        held, failed = (middle, failed) if fits(middle) else (held, middle)
    return held
