"""Where a run is planned for: this machine, or a GPU that is not here. Costs a measured matrix product, 0.3 s."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Gt

from plmft import InputError

if TYPE_CHECKING:
    from plmft.efficiency.plan_time import Speed
    from plmft.training.hardware import Hardware
    from plmft.training.run_plan import Place

GpuName = Literal[
    "V100", "T4", "A10", "A100-40", "A100-80", "L4", "L40S", "RTX4090", "H100-PCIe", "H100", "H200", "B200"
]
LIBRARIES_GB = 0.75  # Python with everything that a run imports; measured: docs/planning.md
SCRATCH_GB = 0.015  # what the matrix products' library takes at its first use; measured, too
CONTEXT_GB = 0.6  # CUDA's context and cuBLAS's workspace; an assumption
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Doctor:
    """What to plan for, where it isn't this machine.

    Args:
        gpu: a card by name, with the memory and the speed of its data sheet.
        memory_gb: of one device, in 10⁹ bytes; of the whole machine for a CPU.
    """

    gpu: GpuName | None = None
    memory_gb: Annotated[float, Gt(0)] | None = None

    def place(self, hardware: Hardware, width: int) -> Place:
        """Where the run would compute.

        Args: width: D of the model, for the share of the device's speed that it reaches.
        Raises: InputError: a card with hardware.accelerator=cpu; a precision that the device lacks.
        """
        if self.gpu is not None and hardware.accelerator == "cpu":
            raise InputError(f"doctor.gpu={self.gpu}: hardware.accelerator is cpu. Set hardware=gpu.")
        if self.gpu is not None or (hardware.accelerator == "gpu" and not has_gpu()):
            return _absent_gpu(self, hardware)
        device = hardware.resolve()
        return _this_gpu(self, device) if device.kind == "gpu" else _this_cpu(self, hardware, device, width)


def has_gpu() -> bool:
    """Whether PyTorch sees one."""
    import torch

    return torch.cuda.is_available()


def _absent_gpu(doctor: Doctor, hardware: Hardware) -> Place:
    from plmft.efficiency.flops import CARDS, peak_flops
    from plmft.efficiency.plan import GB
    from plmft.training.run_plan import Place

    card = CARDS.get(doctor.gpu or "")
    bf16 = card is None or peak_flops(card.device_name, "bf16") is not None
    precision = hardware.precision if hardware.precision != "auto" else ("bf16" if bf16 else "fp32")
    if precision in ("bf16", "bf16_weights") and not bf16:
        raise InputError(f"hardware.precision={precision}: {doctor.gpu} has no such arithmetic. Set fp16 or fp32.")
    memory_gb = doctor.memory_gb or (card.memory_gb if card else None)
    source = "doctor.memory_gb" if doctor.memory_gb else "data sheet"
    return Place(
        kind="gpu",
        name=doctor.gpu or "a GPU",
        precision=precision,
        kernel="flash",  # in fp32 PyTorch's own, which keeps as little
        memory_bytes=None if memory_gb is None else memory_gb * GB,
        memory_source=source,
        fixed=CONTEXT_GB * GB,
        fixed_source="CUDA context, assumed",
        speed=_gpu_speed(card.device_name if card else None, precision),
    )


def _this_gpu(doctor: Doctor, device: object) -> Place:
    import torch

    from plmft.efficiency.plan import GB
    from plmft.training.run_plan import Place

    free, _ = torch.cuda.mem_get_info(device.index)
    return Place(
        kind="gpu",
        name=device.name,
        precision=device.precision,
        kernel="flash",
        memory_bytes=doctor.memory_gb * GB if doctor.memory_gb else float(free),
        memory_source="doctor.memory_gb" if doctor.memory_gb else "free now",
        fixed=0.0,  # the context is there already
        fixed_source="CUDA context, in what is free",
        speed=_gpu_speed(device.name, device.arithmetic),
    )


def _this_cpu(doctor: Doctor, hardware: Hardware, device: object, width: int) -> Place:
    from plmft.efficiency.flops import measure_gemm_flops
    from plmft.efficiency.plan import GB
    from plmft.efficiency.plan_time import Speed, cpu_utilisation
    from plmft.models import kernels
    from plmft.training.run_plan import Place

    free = available_bytes()
    memory = doctor.memory_gb * GB if doctor.memory_gb else free
    rate, share = measure_gemm_flops(device.arithmetic), cpu_utilisation(width)
    return Place(
        kind="cpu",
        name="CPU",
        precision=device.precision,
        kernel="compiled" if kernels.load() is not None else "matmul",
        memory_bytes=None if memory is None else memory / hardware.devices,
        memory_source="doctor.memory_gb" if doctor.memory_gb else "free now",
        fixed=(LIBRARIES_GB + SCRATCH_GB) * GB,
        fixed_source="Python and the imported libraries, measured on another run",
        speed=Speed(
            rate.flops_per_s * share / hardware.devices,
            f"{rate.source}: {rate.flops_per_s / 1e12:.2f} TFLOP/s; {share:.0%} of it, as measured without the "
            "compiled kernel, at widths up to 640",
        ),
    )


def _gpu_speed(device_name: str | None, arithmetic: str) -> Speed | None:
    from plmft.efficiency.flops import peak_flops
    from plmft.efficiency.plan_time import GPU_UTILISATION, Speed

    peak = peak_flops(device_name, "bf16" if arithmetic == "bf16_weights" else arithmetic)
    if peak is None:
        return None
    told = f"{peak.source}: {peak.flops_per_s / 1e12:.0f} TFLOP/s; {GPU_UTILISATION:.0%} of it, an assumption"
    return Speed(peak.flops_per_s * GPU_UTILISATION, told)


def available_bytes() -> float | None:
    """Memory that a new process could have: what the system says is available, and what the control group leaves."""
    found = [*_meminfo(), *_cgroup()]
    return min(found) if found else None


def _meminfo() -> Iterator[float]:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return
    yield from (float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _cgroup() -> Iterator[float]:
    """Version 2's limit, less what is used and can't be dropped; nothing where there is no limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = float((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if limit != "max":
        yield float(limit) - used + float(stat.get("inactive_file", 0))
