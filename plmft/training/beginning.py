"""What a run says and logs before it learns: which records, what was done to them, which model, where."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from plmft.data.leaks import LeakReport
from plmft.data.records import DataSet
from plmft.models import kernels
from plmft.models.direct_spec import DirectSpec
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.weights import Located
from plmft.tracking.lineage import mask
from plmft.training.hardware import Device

if TYPE_CHECKING:
    from plmft.training.job import Job


def weights_named(model: Spec | DirectSpec, located: Located) -> str:
    """As the user is told."""
    if isinstance(model, DirectSpec):
        return "fitted directly"
    return "random weights" if located.source == "random" else f"weights: {located.source}"


def say_beginning(
    job: "Job", console: Console, dataset: DataSet, device: Device, located: Located, notes: Sequence[str]
) -> None:
    """A few lines on the console."""

    def say(text: str) -> None:
        console.print(mask(text), highlight=False, soft_wrap=True, markup=False)

    counts = " / ".join(f"{n:,}" for n in dataset.counts.values())
    splits = " / ".join(dataset.counts)
    subset = " (a subset: limit is set)" if dataset.subset else ""
    say(f"{job.task.name}: {counts} records ({splits}){subset} from {dataset.source}")
    for note in notes:
        say(note)
    if dataset.unlabelled:
        what = "sequences" if job.task.kind in ("sequence_classification", "pair_classification") else "residues"
        say(f"No label: {_by_split(dataset.unlabelled)} {what}; left out of loss and scores.")
    if dataset.cropped:
        say(f"Cropped to {job.model.context} residues: {_by_split(dataset.cropped)}")
    if dataset.windowed:
        say(f"Read in windows of {job.model.context} residues: {_by_split(dataset.windowed)}")
    where = device.name or "CPU"
    if job.hardware.devices * job.hardware.nodes > 1:
        where = f"{job.hardware.devices * job.hardware.nodes} x {where} ({job.hardware.strategy})"
    say(f"{job.model.name}: {weights_named(job.model, located)}; {job.tuning.name}; {where}, {device.precision}")
    if isinstance(job.model, TransformerSpec):
        for note in kernels.notes(device.torch_type):
            say(note)


def counts_of(dataset: DataSet, leaks: LeakReport | None) -> dict[str, float]:
    """`data/...`: records by split, what was cropped, windowed or has no label, and what splits share."""
    counts = {
        **dataset.counts,
        **{f"cropped_{split}": n for split, n in dataset.cropped.items()},
        **{f"windowed_{split}": n for split, n in dataset.windowed.items()},
        **{f"unlabelled_{split}": n for split, n in dataset.unlabelled.items()},
    }
    return {f"data/{name}": float(n) for name, n in counts.items()} | (leaks.metrics() if leaks else {})


def _by_split(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {n:,}" for split, n in counts.items())
