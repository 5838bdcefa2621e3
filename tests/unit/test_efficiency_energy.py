"""The energy meter, through the real Zeus, over fake counters with known power curves."""

import logging
import os
import sys
import warnings
from types import SimpleNamespace

import pynvml
import pytest
import zeus.device.cpu
import zeus.device.gpu
from zeus.device.cpu import rapl
from zeus.device.gpu import amd, nvidia

from plmft.efficiency.energy import MIN_GPU_WINDOW_S, EnergyMeter

OURS, THEIRS = "GPU-0c5a0000-aaaa-4000-8000-000000000001", "GPU-7d3b0000-bbbb-4000-8000-000000000002"


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def fresh_zeus(monkeypatch, tmp_path):
    """Zeus keeps its findings for the life of the process; here each test has a machine of its own, bare at first."""
    monkeypatch.setattr(zeus.device.gpu, "_gpus", None)
    monkeypatch.setattr(zeus.device.cpu, "_cpus", None)
    monkeypatch.setattr(rapl, "RAPL_DIR", str(tmp_path / "no-rapl"))
    monkeypatch.setattr(rapl, "CONTAINER_RAPL_DIR", str(tmp_path / "no-rapl"))
    for name in ("CUDA_VISIBLE_DEVICES", "ZEUSD_SOCK_PATH", "ZEUSD_HOST_PORT"):
        monkeypatch.delenv(name, raising=False)
    caches = (nvidia.nvml_is_available, amd.amdsmi_is_available, rapl.rapl_is_available)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


class FakeNVML:
    """Some GPUs with a power curve each: watts(t) and its integral joules(t), t in seconds on the test's clock."""

    def __init__(self, monkeypatch, clock, joules_by_uuid):
        self.clock, self.joules = clock, dict(joules_by_uuid)
        self.uuids, self.pids = list(self.joules), {uuid: [os.getpid()] for uuid in self.joules}
        self.architecture, self.counter_error = pynvml.NVML_DEVICE_ARCH_AMPERE, None
        for name in (
            "Init", "Shutdown", "DeviceGetCount", "DeviceGetHandleByIndex", "DeviceGetUUID", "DeviceGetC2cModeInfoV",
            "DeviceGetArchitecture", "DeviceGetTotalEnergyConsumption", "DeviceGetComputeRunningProcesses",
        ):  # fmt: skip
            monkeypatch.setattr(pynvml, f"nvml{name}", getattr(self, name))

    def Init(self):
        pass

    def Shutdown(self):
        pass

    def DeviceGetCount(self):
        return len(self.uuids)

    def DeviceGetHandleByIndex(self, index):
        if not 0 <= index < len(self.uuids):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.uuids[index]

    def DeviceGetUUID(self, handle):
        return handle

    def DeviceGetC2cModeInfoV(self, handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def DeviceGetArchitecture(self, handle):
        return self.architecture

    def DeviceGetTotalEnergyConsumption(self, handle):
        if self.counter_error is not None:
            raise pynvml.NVMLError(self.counter_error)
        return int(1000 * self.joules[handle](self.clock()))  # mJ since the driver was loaded

    def DeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid) for pid in self.pids[handle]]


def ramp(t):
    """Integral of watts(t) = 100 + 2·t."""
    return 100 * t + t**2


def constant(t):
    return 300 * t


@pytest.fixture
def nvml(monkeypatch, clock):
    see_cuda(monkeypatch, [OURS, THEIRS])
    return FakeNVML(monkeypatch, clock, {OURS: ramp, THEIRS: constant})


def see_cuda(monkeypatch, uuids, name="NVIDIA A100-SXM4-80GB"):
    """PyTorch sees these GPUs, in this order."""
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: None)
    properties = [SimpleNamespace(uuid=uuid.removeprefix("GPU-"), name=name) for uuid in uuids]
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: properties[index])


def measure(meter, clock, seconds):
    meter.begin("fit")
    clock.now_s += seconds
    return meter.end("fit")


def test_joules_are_the_integral_of_the_power_curve(nvml, clock):
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 60.0)
    assert energy.joules == pytest.approx(ramp(1060) - ramp(1000), abs=2e-3)  # the counter tells mJ
    assert (energy.source, energy.reason, energy.window_too_short) == (f"nvml:{OURS}", None, False)


def test_only_our_gpu_counts(nvml, clock, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    see_cuda(monkeypatch, [THEIRS])
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules == pytest.approx(3000)
    assert energy.source == f"nvml:{THEIRS}"


def test_two_gpus_of_ours_each_once(nvml, clock):
    energy = measure(EnergyMeter([0, 1, 0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules == pytest.approx(ramp(1010) - ramp(1000) + 3000, abs=4e-3)
    assert energy.source == f"nvml:{OURS} + nvml:{THEIRS}"


def test_cuda_numbers_gpus_in_another_order_than_nvml(nvml, clock, monkeypatch):
    see_cuda(monkeypatch, [THEIRS, OURS])
    assert EnergyMeter([1], rapl=False, clock=clock)._gpus[0].label == f"nvml:{OURS}"
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert (energy.joules, energy.source) == (pytest.approx(3000), f"nvml:{THEIRS}")


@pytest.mark.parametrize("value", [THEIRS, "GPU-7d3b", "GPU-7d3b,GPU-0c5a"])
def test_visible_devices_given_as_uuids(nvml, clock, monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    see_cuda(monkeypatch, [THEIRS])
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert (energy.joules, energy.source) == (pytest.approx(3000), f"nvml:{THEIRS}")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == value


def test_a_gpu_that_nvml_hides_is_absent_not_another_one(nvml, clock, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # NVML's 0 is OURS, CUDA's 0 is THEIRS
    see_cuda(monkeypatch, [THEIRS])
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules is None
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in energy.reason


def test_a_mig_slice_has_no_counter(nvml, clock, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1234")
    see_cuda(monkeypatch, [OURS], name="NVIDIA A100-SXM4-80GB MIG 3g.40gb")
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules is None and "is a slice" in energy.reason


@pytest.mark.parametrize("value", ["", "-1", "NoDevFiles"])
def test_a_cpu_run_with_hidden_gpus(nvml, clock, monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    energy = measure(EnergyMeter([], clock=clock), clock, 10.0)
    assert (energy.joules, energy.reason) == (None, "no RAPL on this machine; this run uses no GPU")


def test_a_gpu_without_a_counter_is_absent_and_not_sampled(nvml, clock):
    nvml.architecture = pynvml.NVML_DEVICE_ARCH_PASCAL
    energy = measure(EnergyMeter([0], clock=clock), clock, 10.0)
    assert (energy.joules, energy.source) == (None, "none")
    assert energy.reason == f"nvml:{OURS} has no energy counter"


def test_a_counter_that_the_driver_refuses(nvml, clock):
    nvml.counter_error = pynvml.NVML_ERROR_NOT_SUPPORTED
    energy = measure(EnergyMeter([0], clock=clock), clock, 10.0)
    assert energy.joules is None
    assert energy.reason.startswith(f"nvml:{OURS} has no readable energy counter")


def test_a_gpu_lost_during_a_window_ends_no_run(nvml, clock):
    meter = EnergyMeter([0], rapl=False, clock=clock)
    meter.begin("fit")
    nvml.counter_error = pynvml.NVML_ERROR_GPU_IS_LOST
    energy = meter.end("fit")
    assert energy.joules is None and "ZeusGPULostError" in energy.reason


@pytest.mark.parametrize("joules", [lambda t: 5.0, lambda t: -t])
def test_a_gpu_counter_that_stands_still_or_runs_backwards_is_no_zero(monkeypatch, clock, joules):
    see_cuda(monkeypatch, [OURS])
    FakeNVML(monkeypatch, clock, {OURS: joules})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules is None and f"{OURS} gave" in energy.reason


def test_one_dead_gpu_voids_the_sum(monkeypatch, clock):
    see_cuda(monkeypatch, [OURS, THEIRS])
    FakeNVML(monkeypatch, clock, {OURS: constant, THEIRS: lambda t: 5.0})
    energy = measure(EnergyMeter([0, 1], rapl=False, clock=clock), clock, 10.0)
    assert (energy.joules, energy.source) == (None, "none")


def test_a_short_window_is_flagged(nvml, clock):
    meter = EnergyMeter([0], rapl=False, clock=clock)
    short = measure(meter, clock, 0.9 * MIN_GPU_WINDOW_S)
    assert short.window_too_short and "too short" in short.reason
    assert short.joules == pytest.approx(ramp(1000.9) - ramp(1000), abs=2e-3)
    assert not measure(meter, clock, MIN_GPU_WINDOW_S * 1.001).window_too_short


@pytest.mark.parametrize(
    ("pids", "has_context", "others"),
    [
        ([], True, 0),
        ([os.getpid()], True, 0),
        ([os.getpid(), 4242], True, 1),
        ([31337], True, 0),  # a container: the host's number for this process
        ([31337, 4242], True, 1),
        ([4242], False, 1),  # no CUDA here yet, so it isn't us
    ],
)
def test_another_process_on_the_gpu_is_told(nvml, clock, monkeypatch, pids, has_context, others):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: has_context)
    nvml.pids[OURS] = pids
    energy = measure(EnergyMeter([0], rapl=False, clock=clock), clock, 10.0)
    assert energy.joules > 0
    if others:
        assert f"{others} other process(es) used nvml:{OURS}" in energy.reason
        assert "at the start" in energy.reason and "at the end" in energy.reason
    else:
        assert energy.reason is None


def test_reading_leaves_the_window_open(nvml, clock):
    meter = EnergyMeter([1], rapl=False, clock=clock)
    meter.begin("fit")
    clock.now_s += 10
    assert meter.read("fit").joules == pytest.approx(3000)
    clock.now_s += 10
    assert meter.read("fit").joules == pytest.approx(6000)
    assert meter.end("fit").joules == pytest.approx(6000)
    with pytest.raises(KeyError):
        meter.end("fit")


def test_windows_nest_and_a_stale_one_restarts(nvml, clock):
    meter = EnergyMeter([1], rapl=False, clock=clock)
    meter.begin("fit")
    clock.now_s += 10
    meter.begin("test")
    clock.now_s += 10
    meter.begin("test")
    clock.now_s += 10
    assert meter.end("test").joules == pytest.approx(3000)
    assert meter.end("fit").joules == pytest.approx(9000)


class FakeRAPL:
    """Zones as the kernel shows them: package-0 with DRAM, and psys, which holds the package once more."""

    def __init__(self, monkeypatch, root):
        self.root = root
        self.add("intel-rapl:0", "package-0")
        self.add("intel-rapl:0/intel-rapl:0:0", "dram")
        self.add("intel-rapl:1", "psys")
        monkeypatch.setattr(rapl, "RAPL_DIR", str(root))
        monkeypatch.setattr(rapl, "RaplWraparoundTracker", lambda *_: SimpleNamespace(get_num_wraparounds=lambda: 0))

    def add(self, zone, name):
        (self.root / zone).mkdir(parents=True)
        (self.root / zone / "name").write_text(name + "\n")
        (self.root / zone / "max_energy_range_uj").write_text("262143328850\n")
        self.set(zone, 5.0)

    def set(self, zone, joules):
        (self.root / zone / "energy_uj").write_text(f"{int(1e6 * joules)}\n")


@pytest.fixture
def host(monkeypatch, tmp_path):
    return FakeRAPL(monkeypatch, tmp_path / "intel-rapl")


def test_rapl_counts_package_and_dram_once_and_says_its_scope(host, clock):
    meter = EnergyMeter([], clock=clock)
    meter.begin("fit")
    clock.now_s += 10
    host.set("intel-rapl:0", 105.0)
    host.set("intel-rapl:0/intel-rapl:0:0", 12.0)
    host.set("intel-rapl:1", 205.0)
    energy = meter.end("fit")
    assert energy.joules == pytest.approx(107.0)
    assert energy.source == "rapl:package-0 + rapl:package-0/dram (RAPL counts the whole package, every process on it)"
    assert energy.reason is None


def test_gpu_and_host_together(nvml, host, clock):
    meter = EnergyMeter([1], clock=clock)
    meter.begin("fit")
    clock.now_s += 10
    host.set("intel-rapl:0", 105.0)
    energy = meter.end("fit")
    assert energy.joules == pytest.approx(3100.0)
    assert energy.source.startswith(f"nvml:{THEIRS} + rapl:package-0 (RAPL")
    assert "rapl:package-0/dram gave 0 J" in energy.reason  # it stood still: left out, and told


def test_two_processes_of_one_machine_count_each_device_once(nvml, host, clock):
    ranks = [EnergyMeter([rank], rapl=rank == 0, clock=clock) for rank in range(2)]
    for meter in ranks:
        meter.begin("fit")
    clock.now_s += 10
    host.set("intel-rapl:0", 105.0)
    total = sum(meter.end("fit").joules for meter in ranks)
    assert total == pytest.approx(ramp(1010) - ramp(1000) + 3000 + 100, abs=4e-3)


def forbid_counters(monkeypatch, root):
    def deny(path, *args, **kwargs):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr(rapl, "open", deny, raising=False)  # root reads everything, so permissions won't do


def test_rapl_that_only_root_may_read(nvml, host, clock, monkeypatch):
    forbid_counters(monkeypatch, host.root)
    alone = measure(EnergyMeter([], clock=clock), clock, 10.0)
    assert alone.joules is None and alone.reason.startswith("RAPL can be read by root only")
    with_gpu = measure(EnergyMeter([1], clock=clock), clock, 10.0)
    assert (with_gpu.joules, with_gpu.source) == (pytest.approx(3000), f"nvml:{THEIRS}")
    assert "the host is not counted" in with_gpu.reason


def test_nothing_measures_here(clock, caplog, capfd, monkeypatch):
    """No fake NVML: this machine's own, or none; with no GPU in the run and no RAPL there is nothing to tell."""
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy = measure(EnergyMeter([], clock=clock), clock, 10.0)
    assert (energy.joules, energy.source) == (None, "none")
    assert energy.reason == "no RAPL on this machine; this run uses no GPU"
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_gpu_run_without_nvml(clock, monkeypatch, caplog, capfd):
    def fail():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    caplog.set_level(logging.INFO)
    energy = measure(EnergyMeter([0], clock=clock), clock, 10.0)
    assert energy.joules is None
    assert energy.reason.startswith("no NVML or AMD SMI on this machine")
    assert not caplog.records and capfd.readouterr() == ("", "")
