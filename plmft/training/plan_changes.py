"""What would make a run take less memory, the cheapest first, each with what it comes to. Costs one plan a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from plmft.models.tuning import Frozen, LoRA, QLoRA, Tuning
from plmft.training.planning import learns_of
from plmft.training.run_plan import STEP, Parts, Place, RunPlan, plan_run

TARGETS = ("attention", "feedforward")
DEVICES = (2, 4, 8)
# the orders in which changes are made together until the run fits; weights of four bits can't be sharded
FINER = ("hardware.precision", "hardware.tokens", "hardware.grad", "tuning=lora")
TOGETHER = ((*FINER, "tuning=qlora"), (*FINER, "hardware=fsdp"))


@dataclass(frozen=True)
class Change:
    """options: as on the command line. price: what it costs. parts, place, plan: what it comes to."""

    options: str
    price: str
    parts: Parts
    place: Place
    plan: RunPlan

    @property
    def fits(self) -> bool:
        """True also where the memory is not known."""
        return fits(self.plan, self.place)


def fits(plan: RunPlan, place: Place) -> bool:
    """Whether the planned peak is within the device's memory; True where that is not known."""
    return place.memory_bytes is None or plan.memory.total <= place.memory_bytes


def changes(parts: Parts, place: Place) -> list[Change]:
    """Each alone."""
    now = plan_run(parts, place)
    found = [Change(o, price, p, at, plan_run(p, at)) for o, price, p, at in _candidates(parts, place, now)]
    return [change for change in found if change.plan.memory.total < now.memory.total]


def together(parts: Parts, place: Place) -> Change | None:
    """The fewest of TOGETHER, in order, that make it fit; None: they don't."""
    found = (_in_order(parts, place, order) for order in TOGETHER)
    return next((change for change in found if change is not None), None)


def _in_order(parts: Parts, place: Place, order: tuple[str, ...]) -> Change | None:
    options: list[str] = []
    for beginning in order:
        for change in changes(parts, place):
            if change.options.startswith(beginning) and (change.fits or not _more_devices(change)):
                key = beginning.partition("=")[0]
                options = [o for o in options if o.partition("=")[0] != key] + [change.options]
                parts, place = change.parts, change.place
                if change.fits:
                    return replace(change, options=" ".join(options))
                break
    return None


def _more_devices(change: Change) -> bool:
    """Whether the same change with more devices is on the list."""
    return change.options.startswith("hardware=fsdp") and change.parts.hardware.devices < DEVICES[-1]


def _candidates(parts: Parts, place: Place, now: RunPlan) -> Iterator[tuple[str, str, Parts, Place]]:
    hardware = parts.hardware
    learns = learns_of(parts.model, parts.tuning, parts.task.head, parts.task.kind, parts.task.outputs)

    def with_hardware(**changed: object) -> Parts:
        return replace(parts, hardware=replace(hardware, **changed))

    if place.precision == "bf16" and not learns.products:
        price = "nothing: autocast rounds frozen weights anyway"
        yield "hardware.precision=bf16_weights", price, parts, replace(place, precision="bf16_weights")
    smaller = max(-(-parts.longest // STEP) * STEP, now.tokens_per_batch // 4 // STEP * STEP)
    if smaller < now.tokens_per_batch:
        option = f"hardware.tokens_per_batch={smaller}"
        yield option, "more and smaller passes a step", with_hardware(tokens_per_batch=smaller), place
    if learns.layers and not hardware.gradient_checkpointing:
        option = "hardware.gradient_checkpointing=true"
        yield option, "a third more time", with_hardware(gradient_checkpointing=True), place
    sharded = parts.hardware.strategy in ("fsdp", "zero3")
    for tuning, price in _other_tunings(parts.tuning, sharded):
        yield f"tuning={tuning.name}", price, replace(parts, tuning=tuning), place
    if parts.processes == 1 and learns.layers and place.kind == "gpu" and parts.tuning.name != "qlora":
        for devices in DEVICES:
            shared = with_hardware(strategy="fsdp", devices=devices)
            yield f"hardware=fsdp hardware.devices={devices}", f"{devices} devices", shared, place
        shared = with_hardware(strategy="zero3", devices=2, offload=True)
        price = "2 devices; weights travel in each step; needs deepspeed"
        yield "hardware=zero3_offload hardware.devices=2", price, shared, place


def _other_tunings(tuning: Tuning, sharded: bool) -> Iterator[tuple[Tuning, str]]:
    """Ways that hold less than this one. sharded: weights are, which those of four bits can't be."""
    if tuning.name in ("full", "last_layers", "bias"):
        yield LoRA(16, 32, 0.0, TARGETS), "another method: compare its accuracy"
    if tuning.name in ("full", "last_layers", "bias", "lora", "dora") and not sharded:
        lora = tuning if isinstance(tuning, LoRA) else LoRA(16, 32, 0.0, TARGETS)
        packed = QLoRA(lora.rank, lora.alpha, lora.dropout, lora.targets, lora.layers)
        yield packed, "weights of four bits: slower, other figures; needs bitsandbytes"
    if tuning.name not in ("frozen", "none"):
        yield Frozen(), "only the head learns, from cached vectors"
