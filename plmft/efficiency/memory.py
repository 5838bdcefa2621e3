"""Peak memory of one phase: the allocator's own peak on a GPU, the kernel's on the host. Nothing is sampled.

Free while a phase runs: PyTorch and the kernel keep these peaks anyway; the meter resets and reads them.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")  # writing 5 resets VmHWM: proc_pid_clear_refs(5)
GB = 1e9


class MemoryMeter:
    """Peaks since the last `reset`.

    On a GPU `peak_memory_gb` is what tensors held and `peak_reserved_gb` what the caching allocator took from the
    device; neither holds the CUDA context (some 0.3-0.5 GB), which nvidia-smi shows. `peak_host_memory_gb` is the peak
    resident set of this process alone, without data-loading workers. GB is 10⁹ bytes.
    """

    def __init__(self, device_type: str, device_index: int = 0) -> None:
        self.device_type, self.device_index = device_type, device_index
        self._host_note: str | None = "not reset yet: the peak since the process began"

    def reset(self) -> None:
        """Begin a phase. What earlier ones freed goes back to the system, or it would count in this one's peak."""
        _trim()
        if self.device_type == "cuda":
            import torch

            torch.cuda.init()  # its counters don't exist before
            torch.cuda.reset_peak_memory_stats(self.device_index)
        self._host_note = _reset_host_peak()

    def peak(self) -> dict[str, float]:
        """`peak_memory_gb` and `peak_reserved_gb` (only on a GPU), `peak_host_memory_gb` (where the system tells)."""
        peaks: dict[str, float] = {}
        if self.device_type == "cuda":
            import torch

            peaks["peak_memory_gb"] = torch.cuda.max_memory_allocated(self.device_index) / GB
            peaks["peak_reserved_gb"] = torch.cuda.max_memory_reserved(self.device_index) / GB
        host_bytes = _peak_resident_bytes()
        if host_bytes is not None:
            peaks["peak_host_memory_gb"] = host_bytes / GB
        return peaks

    def notes(self) -> dict[str, str]:
        """Why a figure is absent, or what it covers where it isn't this phase alone."""
        notes: dict[str, str] = {}
        if self.device_type not in ("cuda", "cpu"):
            notes["peak_memory"] = f"PyTorch keeps no peak of the allocator on {self.device_type}"
        if _peak_resident_bytes() is None:
            notes["peak_host_memory"] = "this system tells no peak resident set"
        elif self._host_note is not None:
            notes["peak_host_memory"] = self._host_note
        return notes


def give_back() -> None:
    """Free what nothing refers to, and return it to the system. Takes some 0.3 s for a large process."""
    gc.collect()
    _trim()


def _trim() -> None:
    """Return what was freed to the system, where glibc keeps it. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset_host_peak() -> str | None:
    """Set the kernel's peak to the present resident set; a reason where that can't be done."""
    if _high_water_bytes() is None:
        return f"the peak since the process began: this system has no VmHWM in {STATUS}"
    try:
        CLEAR_REFS.write_text("5")
    except OSError as error:
        return f"the peak since the process began: can't reset it ({error.strerror}: {CLEAR_REFS})"
    return None


def _peak_resident_bytes() -> int | None:
    high_water = _high_water_bytes()
    if high_water is not None:
        return high_water
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux and BSD kB


def _high_water_bytes() -> int | None:
    """VmHWM of /proc/self/status, given there in units of 1024 bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
