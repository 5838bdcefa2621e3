"""Find the energy counters of this process's own devices: its GPUs by UUID, and the machine's CPU packages.

Asks Zeus for its lists, once a run, some 0.1 s; nothing is measured here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Counter:
    """One counter: its index in Zeus, its name, and for an NVIDIA GPU its NVML handle."""

    index: int
    label: str
    handle: Any = None


class Absent(Exception):
    """Something can't be measured; the message is the reason."""


def find_gpu(index: int) -> Counter:
    """The counter of PyTorch's GPU `index`.

    CUDA and NVML number GPUs differently (by speed, and by bus), and Zeus reads CUDA_VISIBLE_DEVICES as NVML's
    numbers. So the GPU is found by its UUID.
    """
    from zeus.device import get_gpus
    from zeus.device.exception import ZeusBaseGPUError
    from zeus.device.gpu.common import ZeusGPUInitError
    from zeus.device.gpu.nvidia import NVIDIAGPUs

    try:
        gpus = get_gpus()
    except ZeusGPUInitError as error:
        raise Absent(f"no NVML or AMD SMI on this machine ({error})") from error
    if isinstance(gpus, NVIDIAGPUs):
        counter = _find_nvidia_gpu(index, gpus)
    elif index < len(gpus):
        counter = Counter(index, f"amdsmi:{index}")
    else:
        raise Absent(f"AMD SMI lists {len(gpus)} GPUs, none is number {index}")
    try:
        if not gpus.supports_get_total_energy_consumption(counter.index):
            raise Absent(f"{counter.label} has no energy counter")
        gpus.get_total_energy_consumption(counter.index)
    except ZeusBaseGPUError as error:
        raise Absent(f"{counter.label} has no readable energy counter ({error})") from error
    return counter


def _find_nvidia_gpu(index: int, gpus: Any) -> Counter:
    import pynvml
    import torch

    device = torch.cuda.get_device_properties(index)
    if " MIG " in device.name:
        raise Absent(f"GPU {index} ({device.name}) is a slice, which has no energy counter of its own")
    uuids = [pynvml.nvmlDeviceGetUUID(gpu.handle) for gpu in gpus.gpus]
    own = f"GPU-{device.uuid}"
    if own not in uuids:
        raise Absent(
            f"NVML does not show {own}, which is CUDA's GPU {index}. CUDA and NVML number GPUs differently; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID beside CUDA_VISIBLE_DEVICES"
        )
    place = uuids.index(own)
    return Counter(place, f"nvml:{own}", gpus.gpus[place].handle)


def find_packages() -> list[Counter]:
    """RAPL's CPU packages. Zones of other names, such as `psys`, hold a package a second time and are left out."""
    from zeus.device import get_cpus
    from zeus.device.cpu import rapl
    from zeus.device.cpu.common import ZeusCPUInitError, ZeusCPUNoPermissionError

    try:
        cpus = get_cpus()
    except ZeusCPUNoPermissionError as error:
        raise Absent(f"RAPL can be read by root only ({rapl.RAPL_DIR}/*/energy_uj)") from error
    except ZeusCPUInitError as error:
        raise Absent("no RAPL on this machine") from error
    names = [Path(cpus.rapl_dir, f"intel-rapl:{cpu.cpu_index}", "name").read_text().strip() for cpu in cpus.cpus]
    packages = [Counter(place, f"rapl:{name}") for place, name in enumerate(names) if name.startswith("package")]
    if not packages:
        raise Absent("RAPL lists no CPU package")
    return packages


def count_other_processes(handle: Any) -> int:
    """How many other processes compute on a GPU; 0 where NVML doesn't tell.

    In a container NVML tells the host's process numbers: then one that isn't ours by number may still be us.
    """
    import pynvml
    import torch

    try:
        pids = {process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)}
    except pynvml.NVMLError:
        return 0
    listed_as_other = os.getpid() not in pids and torch.cuda.is_initialized()
    return max(0, len(pids - {os.getpid()}) - listed_as_other)


@contextmanager
def visible_devices_as_indices() -> Iterator[None]:
    """Hide a CUDA_VISIBLE_DEVICES that Zeus can't parse (UUIDs, empty, -1) while it lists GPUs; we pick by UUID."""
    name = "CUDA_VISIBLE_DEVICES"
    value = os.environ.get(name)
    if value is None or re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", value):
        yield
        return
    del os.environ[name]
    try:
        yield
    finally:
        os.environ[name] = value
