"""hardware.tokens_per_batch=auto: as many tokens at once as the planner says will fit into what is free now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plmft.data.records import DataSet
from plmft.efficiency.plan import GB
from plmft.models import kernels
from plmft.models.spec import TransformerSpec
from plmft.training.hardware import Device
from plmft.training.places import SCRATCH_GB, available_bytes
from plmft.training.planned_data import lengths_of
from plmft.training.run_plan import FILL, Parts, Place, choose_tokens, largest_micro_step, memory_of

if TYPE_CHECKING:
    from plmft.training.job import Job

UNPLANNED = 4096  # where there is no formula


def tokens_for(job: Job, dataset: DataSet, device: Device) -> tuple[int, str]:
    """The tokens, and a line that says why."""
    if not isinstance(job.model, TransformerSpec) or job.tuning.name == "none":
        return UNPLANNED, f"hardware.tokens_per_batch=auto: {UNPLANNED:,}; no plan is made for this kind of run."
    names = ("model", "task", "tuning", "optim", "hardware", "batch_size", "seed")
    parts = Parts(lengths=lengths_of(dataset, job.model), **{name: getattr(job, name) for name in names})
    place = _here(job, device)
    tokens = choose_tokens(parts, place)
    if place.memory_bytes is None:
        return tokens, f"hardware.tokens_per_batch=auto: {tokens:,}; this system does not tell its free memory."
    planned = memory_of(parts, place, largest_micro_step(parts, place, tokens)).total
    free = f"{place.memory_bytes / GB:,.1f} GB that are free"
    told = f"hardware.tokens_per_batch=auto: {tokens:,}; planned to take {planned / GB:,.2f} GB of {free}"
    return tokens, f"{told}{': it may not fit' if planned > FILL * place.memory_bytes else ''}."


def _here(job: Job, device: Device) -> Place:
    """This device as it is now: what was imported is in memory already."""
    if device.kind == "gpu":
        import torch

        free, _ = torch.cuda.mem_get_info(device.index)
        return Place("gpu", device.name, device.precision, "flash", float(free), "free now", 0.0, "", None)
    free, kernel = available_bytes(), "compiled" if kernels.load() is not None else "matmul"
    share = None if free is None else free / job.hardware.devices
    return Place("cpu", "CPU", device.precision, kernel, share, "free now", SCRATCH_GB * GB, "", None)
