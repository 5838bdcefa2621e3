"""What a run will hold and how long it will take, from its parts, on a given device: nothing is loaded for it.

The records' lengths decide both. Steps are drawn and cut as in training, so the first epoch's largest micro-step is the
one that is planned. Costs a few microseconds a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from plmft.data.packing import cut
from plmft.data.sampler import shares, step_index
from plmft.data.task import Task
from plmft.efficiency.plan import Kernel, Memory, MicroStep, Numerics, Sharing, training_memory
from plmft.efficiency.plan_time import COMPUTED_AGAIN, Duration, Speed
from plmft.models.spec import TransformerSpec
from plmft.models.tuning import Tuning
from plmft.training.hardware import Hardware
from plmft.training.optim import Optim
from plmft.training.planning import head_bytes, learns_of, network_of
from plmft.training.run_flops import run_flops

FILL = 0.8  # of the free memory that `auto` plans for: predictions are within 15 %
STEP = 1024
LARGEST = {"cpu": 4096, "gpu": 65_536}  # more tokens at once bring nothing: docs/planning.md


@dataclass(frozen=True)
class Place:
    """Where a run computes.

    Args:
        memory_bytes: of one device; for a CPU what one process can have. None: not known.
        fixed: bytes that are taken before a model is there. precision: as resolved.
        speed: that a step reaches; None: not known.
    """

    kind: str
    name: str
    precision: str
    kernel: Kernel
    memory_bytes: float | None
    memory_source: str
    fixed: float
    fixed_source: str
    speed: Speed | None


@dataclass(frozen=True)
class Parts:
    """What is planned. lengths: tokens of each record by split, one number for each of its sequences."""

    model: TransformerSpec
    task: Task
    tuning: Tuning
    optim: Optim
    hardware: Hardware
    batch_size: int
    seed: int
    lengths: Mapping[str, list[tuple[int, ...]]]

    @property
    def processes(self) -> int:
        """That share each step."""
        return self.hardware.devices * self.hardware.nodes

    @property
    def longest(self) -> int:
        """Tokens of the longest record of any split."""
        return max(sum(lengths) for records in self.lengths.values() for lengths in records)


@dataclass(frozen=True)
class RunPlan:
    """duration: None where the device's speed is not known."""

    tokens_per_batch: int
    micro: MicroStep
    memory: Memory
    duration: Duration | None


def plan_run(parts: Parts, place: Place) -> RunPlan:
    """The plan; `hardware.tokens_per_batch=auto` is chosen first."""
    budget = parts.hardware.tokens_per_batch
    if budget == "auto":
        budget = choose_tokens(parts, place)
    micro = largest_micro_step(parts, place, budget)
    return RunPlan(budget, micro, memory_of(parts, place, micro), duration_of(parts, place))


def choose_tokens(parts: Parts, place: Place) -> int:
    """The most tokens at once that are planned to fit, a multiple of 1,024, and at least the longest sequence.

    Where even those don't fit or the memory is not known: the longest sequence, or 1,024.
    """
    longest = -(-parts.longest // STEP) * STEP
    whole = max(sum(map(sum, step)) for step in steps_of(parts))  # a step that is not cut any more
    largest = max(longest, min(LARGEST[place.kind], -(-whole // STEP) * STEP))
    budget = largest
    while budget > longest:
        memory = memory_of(parts, place, largest_micro_step(parts, place, budget))
        if place.memory_bytes is not None and memory.total <= FILL * place.memory_bytes:
            break
        budget -= STEP if budget <= 8 * STEP else budget // 4 // STEP * STEP
    return max(budget, longest)


def steps_of(parts: Parts) -> list[list[tuple[int, ...]]]:
    """The records' lengths in each step of the first epoch, as the first of the processes has them."""
    train, found = parts.lengths["train"], []
    for step in range(-(-len(train) // parts.batch_size)):
        index = step_index(len(train), parts.batch_size, parts.seed, 0, step)
        if parts.processes > 1:
            tokens = np.array([sum(train[i]) for i in index])
            index = index[shares(tokens, parts.processes)[0]]
        found.append([train[i] for i in index])
    return found


def largest_micro_step(parts: Parts, place: Place, budget: int) -> MicroStep:
    """Of the first epoch, the one that needs most memory; where nothing but the head learns, of all splits."""
    found: tuple[float, MicroStep] | None = None
    network = network_of(parts.model)

    def weigh(records: list[tuple[int, ...]], alone: bool) -> None:
        nonlocal found
        lengths = tuple(n for record in records for n in record)
        squares = 2 * network.heads * sum(n * n for n in lengths) if place.kernel == "matmul" else 0
        need = 34.0 * network.width * sum(lengths) + squares + (0 if alone else 1)
        if found is None or need > found[0]:
            found = need, MicroStep(lengths, alone)

    for step in steps_of(parts):
        slices = list(cut(np.array([sum(record) for record in step], dtype=np.int64), budget))
        for part in slices:
            weigh(step[part], len(slices) == 1)
    if parts.tuning.name == "frozen":
        for records in parts.lengths.values():
            longest_first = sorted(records, key=sum, reverse=True)
            for part in cut(np.array([sum(record) for record in longest_first], dtype=np.int64), budget):
                weigh(longest_first[part], True)
    return found[1]


def memory_of(parts: Parts, place: Place, micro: MicroStep) -> Memory:
    """Of one process."""
    task, hardware = parts.task, parts.hardware
    learns = learns_of(parts.model, parts.tuning, task.head, task.kind, task.outputs)
    return training_memory(
        network_of(parts.model),
        learns,
        micro,
        Numerics(place.precision, place.kernel, hardware.gradient_checkpointing),
        sharing=Sharing(hardware.strategy if parts.processes > 1 else "single", parts.processes, hardware.offload),
        head=head_bytes(parts.model, task.head, micro, frozen=not learns.layers),
        fixed=place.fixed,
    )


def duration_of(parts: Parts, place: Place) -> Duration | None:
    """Of the whole run, early stopping aside. A frozen backbone reads each record once: its vectors are cached."""
    if place.speed is None:
        return None
    task, frozen = parts.task, parts.tuning.name == "frozen"
    train, forward = run_flops(parts.model, parts.tuning, task.head, task.outputs, cached=frozen)
    _, whole = run_flops(parts.model, parts.tuning, task.head, task.outputs)
    flat = {split: [n for record in records for n in record] for split, records in parts.lengths.items()}
    steps_an_epoch = -(-len(parts.lengths["train"]) // parts.batch_size)
    steps = parts.optim.total_steps(steps_an_epoch)
    rate = place.speed.flops_per_s * parts.processes
    again = COMPUTED_AGAIN if parts.hardware.gradient_checkpointing and not frozen else 1.0
    epochs = -(-steps // steps_an_epoch)
    tests = [n for split, lengths in flat.items() if split not in ("train", "valid") for n in lengths]
    passes = epochs * forward(flat["valid"]) + forward(tests)
    if frozen:
        passes += sum(map(whole, flat.values()))
    return Duration(
        train(flat["train"]) * again / steps_an_epoch / rate, steps, passes / rate, parts.hardware.usd_per_hour
    )
