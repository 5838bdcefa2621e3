"""Will it fit, how long will it take, and is everything there? Told before anything is loaded, in seconds.

    python -m plmft.doctor model=esm2_650m task=secondary_structure tuning=full data.length_policy=crop
    python -m plmft.doctor model=esm2_3b tuning=lora task=contacts hardware=gpu doctor.gpu=H100

Takes the options of plmft.train, and doctor.gpu or doctor.memory_gb for a machine that is not this one. The formulas
and how well they hold: docs/planning.md. Exit code 0: nothing blocks; 1: it won't fit, or something blocks; 2: a
mistake on the command line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from plmft import InputError
from plmft.ending import ending

if TYPE_CHECKING:
    from plmft.training.environment import Check
    from plmft.training.run_plan import Parts, Place, RunPlan

CONFIG = "doctor"
GB = 1e9
CLOSE = 0.85  # of the memory: above it the formulas' own error may decide


def main() -> None:
    """The command."""
    with ending():
        code = examine(sys.argv[1:])
    sys.exit(code)


def examine(arguments: Sequence[str]) -> int:
    """Print the report; the exit code, 0 or 1. Raises: InputError: a mistake in the options."""
    if any(word in ("-h", "--help") for word in arguments):
        print(__doc__)
        return 0
    parts = _composed(list(arguments))
    model, tuning = parts["model"].name, parts["tuning"].name
    planned, checks = _plan(parts)
    print(f"{model}, tuning={tuning}, {parts['task'].name}\n\nEnvironment")
    for check in checks:
        print(f"  {check.state:8} {check.told}")
    blocked = any(check.state == "problem" for check in checks)
    if isinstance(planned, str):
        print(f"\nMemory and time: {planned}")
        return int(blocked)
    what, place = planned
    from plmft.training.plan_changes import fits
    from plmft.training.run_plan import plan_run

    plan = plan_run(what, place)
    for line in (*_memory(plan, place), *_time(what, plan, place), *_changes(what, place, plan)):
        print(line)
    return int(blocked or not fits(plan, place))


def _composed(arguments: list[str]) -> dict[str, Any]:
    """The parts by key, checked as training checks them."""
    from omegaconf import OmegaConf

    from plmft.config.check import check
    from plmft.config.compose import check_command_line, compose_config, parts_of

    unknown = [word for word in arguments if word.startswith("-")]
    if unknown:
        raise InputError(f"{unknown[0]}: the doctor takes options of the form key=value only.")
    check_command_line(arguments, CONFIG)
    plain = OmegaConf.to_container(compose_config(arguments, CONFIG), resolve=True, throw_on_missing=True)
    elsewhere = plain["doctor"]["gpu"] is not None or plain["doctor"]["memory_gb"] is not None
    check(plain, packages=not elsewhere)
    return parts_of(plain)


def _plan(parts: dict[str, Any]) -> tuple[tuple[Parts, Place] | str, list[Check]]:
    """What is planned where, or why nothing is; and the checks."""
    from plmft.models.spec import TransformerSpec
    from plmft.tracking.options import runs_dir
    from plmft.training import environment
    from plmft.training.run_plan import Parts

    hardware, doctor, model, runs = parts["hardware"], parts["doctor"], parts["model"], runs_dir()
    elsewhere = doctor.gpu is not None or doctor.memory_gb is not None
    checks = [environment.check_packages(), environment.check_device(hardware, elsewhere)]
    checks.append(environment.check_tracking(parts["tracking"], runs))
    if not isinstance(model, TransformerSpec) or parts["tuning"].name == "none":
        checks.append(environment.check_disk(runs, None))
        return f"no plan is made for {model.name} with tuning={parts['tuning'].name}: docs/planning.md.", checks
    checks += [environment.check_weights(model), *environment.check_optional(hardware, parts["tuning"].name, elsewhere)]
    place = doctor.place(hardware, model.width)
    found = _data(parts, checks)
    if found is None:
        checks.append(environment.check_disk(runs, None))
        return "no plan without the records' lengths; see data above.", checks
    task, lengths = found
    names = ("model", "tuning", "optim", "hardware", "batch_size", "seed")
    what = Parts(task=task, lengths=lengths, **{name: parts[name] for name in names})
    disk = environment.check_disk(runs, _disk_gb(what))
    checks.append(environment.Check("note", disk.told) if elsewhere else disk)  # another machine has another disk
    return (what, place), checks


def _data(parts: dict[str, Any], checks: list[Check]) -> tuple[Any, Any] | None:
    """The task with its classes, and the records' lengths; None: they are not known. Adds its check."""
    from plmft.data.task import NotFetched
    from plmft.tracking.options import runs_dir
    from plmft.training.environment import Check
    from plmft.training.planned_data import planned_data

    try:
        data = planned_data(*(parts[n] for n in ("task", "data", "limit", "model")), runs_dir(), parts["seed"])
    except InputError as error:
        checks.append(Check("note" if isinstance(error, NotFetched) else "problem", f"data: {error}"))
        return None
    checks.append(Check("ok" if data.read else "note", f"data: {data.told}"))
    return data.task, data.lengths


def _disk_gb(what: Parts) -> float:
    """Two checkpoints of what learns with its optimizer's state, and the tuned model twice: kept and logged."""
    from plmft.training.planning import learns_of

    learns = learns_of(what.model, what.tuning, what.task.head, what.task.kind, what.task.outputs)
    whole = what.model.parameters if what.tuning.name in ("full", "last_layers", "bias") else learns.backbone
    return (2 * 12 * learns.weights + 2 * 4 * (whole + learns.head)) / GB


def _memory(plan: RunPlan, place: Place) -> Iterator[str]:
    micro, memory = plan.micro, plan.memory
    yield (
        f"\nMemory of one {'GPU' if place.kind == 'gpu' else 'process'} ({place.name}, {place.precision}, attention: "
        f"{place.kernel}), at the largest micro-step: {micro.tokens:,} tokens in {len(micro.lengths)} sequences, the "
        f"longest {max(micro.lengths):,}; hardware.tokens_per_batch={plan.tokens_per_batch}"
    )
    for name, value in memory.terms.items():
        yield f"  {name:12} {value / GB:9.3f} GB  {MEANING[name].format(fixed=place.fixed_source)}"
    yield f"  {'peak':12} {memory.total / GB:9.3f} GB  {_verdict(memory.total, place)}"


MEANING = {
    "weights": "of backbone, adapters and head",
    "gradients": "of what learns; held beside the activations from the second micro-step on",
    "optimizer": "AdamW's two moments",
    "copies": "half-precision or joined weights that the graph keeps",
    "activations": "what the backward pass reads",
    "working": "of the layer that is computed; it or the head counts, whichever is larger",
    "head": "head and loss",
    "heap": "holes in the C library's heap",
    "fixed": "{fixed}",
}


def _verdict(total: float, place: Place) -> str:
    if place.memory_bytes is None:
        return "how much there is, is not known: set doctor.gpu=NAME or doctor.memory_gb=80"
    of = f"of {place.memory_bytes / GB:,.1f} GB ({place.memory_source})"
    if total > place.memory_bytes:
        return f"{of}: does NOT fit"
    return f"{of}: fits" if total <= CLOSE * place.memory_bytes else f"{of}: fits, but the formulas may be 15 % off"


def _time(what: Parts, plan: RunPlan, place: Place) -> Iterator[str]:
    yield "\nTime and money, without early stopping"
    if plan.duration is None:
        yield "  not known: no figure for the speed of this device. Set doctor.gpu to a card by name."
        return
    spent = plan.duration
    yield f"  step         {_seconds(spent.step_s)} ({what.batch_size} sequences on {what.processes} device(s))"
    yield f"  training     {spent.steps:,} steps, validation and test: {_duration(spent.hours)}"
    price = "no price: set hardware.usd_per_hour" if spent.usd is None else f"{spent.usd:,.2f} USD"
    yield f"  money        {price}"
    yield f"  speed        {place.speed.source}"


def _duration(hours: float) -> str:
    return f"{hours:,.2f} h" if hours >= 1 else f"{60 * hours:,.1f} min"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1e3:,.0f} ms"


def _changes(what: Parts, place: Place, plan: RunPlan) -> Iterator[str]:
    from plmft.training.plan_changes import changes, fits, together

    if place.memory_bytes is not None and plan.memory.total <= CLOSE * place.memory_bytes:
        return
    found = changes(what, place)
    yield "\nLess memory, the cheapest first, each alone"
    for change in found:
        total = change.plan.memory.total / GB
        mark = "" if place.memory_bytes is None else ("fits" if change.fits else "does not fit")
        saved = plan.memory.total / GB - total
        yield f"  {change.options:44} {total:9.3f} GB, saves {saved:7.3f}  {mark:12}  {change.price}"
    if not fits(plan, place) and not any(change.fits for change in found):
        best = together(what, place)
        yield (
            "  Nothing here makes it fit. Take a smaller model."
            if best is None
            else (f"  Together these fit, at {best.plan.memory.total / GB:.3f} GB: {best.options}")
        )


if __name__ == "__main__":
    main()
