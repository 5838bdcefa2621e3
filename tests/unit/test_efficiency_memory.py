"""The memory meter against allocations of known size."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from plmft.efficiency import memory
from plmft.efficiency.memory import MemoryMeter

SIZE_GB = 0.2


def touch():
    """Resident, not just reserved: every page is written."""
    return np.ones(int(SIZE_GB * 1e9), dtype=np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_host_peak_rises_by_an_allocation_and_falls_after_reset():
    meter = MemoryMeter("cpu")
    meter.reset()
    if meter.notes():
        pytest.skip(meter.notes()["peak_host_memory"])
    before = meter.peak()["peak_host_memory_gb"]
    block = touch()
    del block  # a peak outlives what caused it
    assert meter.peak()["peak_host_memory_gb"] - before == pytest.approx(SIZE_GB, rel=0.03)
    meter.reset()
    assert meter.peak()["peak_host_memory_gb"] == pytest.approx(before, abs=0.03 * SIZE_GB)
    assert meter.peak().keys() == {"peak_host_memory_gb"}


def test_without_reset_the_peak_is_the_process_s():
    assert "since the process began" in MemoryMeter("cpu").notes()["peak_host_memory"]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_the_peak_is_the_process_s_and_says_so(monkeypatch, tmp_path, platform, unit):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "missing")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=3_000_000))
    meter = MemoryMeter("cpu")
    meter.reset()
    assert meter.peak() == {"peak_host_memory_gb": 3_000_000 * unit / 1e9}
    assert "since the process began" in meter.notes()["peak_host_memory"]


def test_where_the_peak_cannot_be_reset_the_note_says_so(monkeypatch, tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t 2000000 kB\nVmRSS:\t 1 kB\n")
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "CLEAR_REFS", tmp_path)  # a folder can't be written to
    meter = MemoryMeter("cpu")
    meter.reset()
    assert meter.peak() == {"peak_host_memory_gb": 2.048}
    assert "can't reset it" in meter.notes()["peak_host_memory"]


def test_where_nothing_tells_a_peak_it_is_absent(monkeypatch):
    monkeypatch.setattr(memory, "_peak_resident_bytes", lambda: None)
    meter = MemoryMeter("cpu")
    assert meter.peak() == {}
    assert meter.notes() == {"peak_host_memory": "this system tells no peak resident set"}


class FakeAllocator:
    """Holds tensors in blocks, as the caching allocator does, and keeps both peaks."""

    def __init__(self, monkeypatch, device):
        self.device, self.held = device, 0
        self.peak = self.peak_reserved = self.reserved = 0
        monkeypatch.setattr("torch.cuda.init", lambda: None)
        for name in ("reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved"):
            monkeypatch.setattr(f"torch.cuda.{name}", getattr(self, name))

    def allocate(self, size):
        self.held += size
        self.reserved = max(self.reserved, self.held)
        self.peak, self.peak_reserved = max(self.peak, self.held), max(self.peak_reserved, self.reserved)

    def free(self, size):
        self.held -= size  # stays reserved

    def reset_peak_memory_stats(self, device):
        assert device == self.device
        self.peak, self.peak_reserved = self.held, self.reserved

    def max_memory_allocated(self, device):
        assert device == self.device
        return self.peak

    def max_memory_reserved(self, device):
        assert device == self.device
        return self.peak_reserved


def test_gpu_peaks_are_the_allocator_s_and_of_this_phase(monkeypatch):
    gpu = FakeAllocator(monkeypatch, device=1)
    gpu.allocate(7_000_000_000)
    gpu.free(6_000_000_000)
    meter = MemoryMeter("cuda", device_index=1)
    meter.reset()
    gpu.allocate(2_500_000_000)
    gpu.free(2_500_000_000)
    peaks = meter.peak()
    assert peaks["peak_memory_gb"] == 3.5
    assert peaks["peak_reserved_gb"] == 7.0
    assert "peak_memory" not in meter.notes()


def test_other_accelerators_have_no_peak_and_say_so():
    assert "mps" in MemoryMeter("mps").notes()["peak_memory"]
