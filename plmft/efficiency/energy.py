"""Energy of one phase, from the devices' own counters, through Zeus; or the reason why there is none.

Two readings of each counter a window and nothing in between, so it costs nothing while a phase runs. (The first window
with RAPL starts Zeus's own small process, which watches for counters that wrap around.) Counters only: a GPU without
one (older than Volta) is not measured, since sampled power differs from counters by up to 1.7 times.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from plmft.efficiency.counters import (
    Absent,
    Counter,
    count_other_processes,
    find_gpu,
    find_packages,
    visible_devices_as_indices,
)

logger = logging.getLogger(__name__)

# GPUs refresh their readings every 20-100 ms (Yang et al. 2024, "Part-time Power Measurements"), so that over a second
# the ends of a window are off by a tenth at most. RAPL's move every millisecond.
MIN_GPU_WINDOW_S = 1.0
MIN_RAPL_WINDOW_S = 0.05
RAPL_SCOPE = " (RAPL counts the whole package, every process on it)"


@dataclass(frozen=True)
class Energy:
    """Energy of one window.

    `joules` is None where it can't be told; never 0 and never an estimate. `source` names the counters that are in it.
    `reason` says why it is absent, or what to know about the figure: a device left out, shared or read too briefly.
    """

    joules: float | None
    source: str
    reason: str | None
    window_too_short: bool = False


@dataclass(frozen=True)
class _Window:
    start_s: float
    notes: list[str]


class EnergyMeter:
    """Measures windows over this process's own GPUs and, on one process a machine, its CPU packages.

    Args:
        gpu_indices: PyTorch's indices of the GPUs that this process computes on; empty for a CPU run.
        rapl: count CPU packages and their DRAM. False on all processes of a machine but the first, so that a sum over
            processes counts each device once.
        clock: seconds, monotonic; only the window's length depends on it.
    """

    def __init__(
        self, gpu_indices: Sequence[int] = (), *, rapl: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._gpu_indices = tuple(gpu_indices)
        self._gpus: list[Counter] = []
        self._packages: list[Counter] = []
        self._windows: dict[str, _Window] = {}
        self._monitor: Any = None
        self._missing: str | None = None  # what isn't counted, or why nothing is
        try:
            with _quiet(), visible_devices_as_indices():
                self._attach(rapl)
        except Exception as error:  # a driver's failure must not end a training run
            self._monitor, self._missing = None, f"{type(error).__name__}: {error}"

    def _attach(self, rapl: bool) -> None:
        try:
            self._gpus = [find_gpu(index) for index in self._gpu_indices]
        except Absent as absent:  # a sum without the GPU's share would mislead, so the host's alone is not told
            self._missing = str(absent)
            return
        try:
            self._packages = find_packages() if rapl else []
        except Absent as absent:
            self._missing = f"{absent}; " + ("the host is not counted" if self._gpus else "this run uses no GPU")
        if not rapl and not self._gpus:
            self._missing = "the first process on this machine counts its CPU packages"
        if not self._gpus and not self._packages:
            return
        from zeus.monitor.energy import ZeusMonitor

        gpus, packages = ([counter.index for counter in counters] for counters in (self._gpus, self._packages))
        self._monitor = ZeusMonitor(gpu_indices=gpus, cpu_indices=packages)
        self._monitor.soc_is_present = False  # not reported, and its windows can't be read while open

    def begin(self, name: str) -> None:
        """Open a window; one of that name left open by a phase that failed starts anew."""
        if self._monitor is None:
            return
        try:
            self._synchronize()
            self._windows[name] = _Window(self._clock(), self._shared_gpus("start"))
            with _quiet():
                self._monitor.begin_window(name, sync_execution=False, restart=True)
        except Exception as error:
            self._monitor, self._missing = None, f"{type(error).__name__}: {error}"

    def read(self, name: str) -> Energy:
        """Energy since `begin(name)`; the window stays open."""
        return self._measure(name, close=False)

    def end(self, name: str) -> Energy:
        """Energy since `begin(name)`.

        Raises: KeyError: no window of that name is open (where anything is measured at all).
        """
        return self._measure(name, close=True)

    def _measure(self, name: str, close: bool) -> Energy:
        if self._monitor is None:
            return Energy(None, "none", self._missing)
        window = self._windows.pop(name) if close else self._windows[name]
        try:
            self._synchronize()
            seconds = self._clock() - window.start_s
            readings = self._monitor.measurement_states[name]
            with _quiet():
                measured = self._monitor.end_window(name, sync_execution=False)
            if not close:
                self._monitor.measurement_states[name] = readings
            notes = [*window.notes, *self._shared_gpus("end")]
            gpu_joules = {counter.label: measured.gpu_energy[counter.index] for counter in self._gpus}
            package_joules = self._package_joules(measured)
        except Exception as error:
            return Energy(None, "none", f"{type(error).__name__}: {error}")
        return _total(gpu_joules, package_joules, [self._missing, *notes] if self._missing else notes, seconds)

    def _package_joules(self, measured: Any) -> dict[str, float]:
        """J of each package, and of its DRAM where that has a counter of its own (a package's doesn't hold it)."""
        joules: dict[str, float] = {}
        for counter in self._packages:
            joules[counter.label] = measured.cpu_energy[counter.index]
            if measured.dram_energy and counter.index in measured.dram_energy:
                joules[f"{counter.label}/dram"] = measured.dram_energy[counter.index]
        return joules

    def _synchronize(self) -> None:
        """Zeus would synchronise by its own indices, which need not be PyTorch's."""
        if not self._gpus:
            return
        import torch

        for index in self._gpu_indices:
            torch.cuda.synchronize(index)

    def _shared_gpus(self, when: str) -> list[str]:
        notes: list[str] = []
        for counter in self._gpus:
            others = 0 if counter.handle is None else count_other_processes(counter.handle)
            if others:
                notes.append(
                    f"at the {when} {others} other process(es) used {counter.label}: their energy is counted in"
                )
        return notes


def _total(gpu_joules: dict[str, float], package_joules: dict[str, float], notes: list[str], seconds: float) -> Energy:
    """Add up. A counter that stood still or ran backwards is no zero: a GPU's voids the sum, a package's drops out."""
    joules = gpu_joules | package_joules
    dead = {label for label in joules if joules[label] <= 0}
    too_short = seconds < (MIN_GPU_WINDOW_S if gpu_joules else MIN_RAPL_WINDOW_S)
    notes = [*notes, *(f"{label} gave {joules[label]:.3g} J in {seconds:.3g} s: not used" for label in sorted(dead))]
    if too_short:
        notes.append(f"{seconds:.3g} s are too short a window for these counters")
    counted = {label: joules[label] for label in joules if label not in dead}
    reason = "; ".join(notes) or None
    if not counted or dead & gpu_joules.keys():
        return Energy(None, "none", reason, too_short)
    source = " + ".join(counted) + (RAPL_SCOPE if counted.keys() & package_joules.keys() else "")
    return Energy(sum(counted.values()), source, reason, too_short)


class _ToDebug(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


@contextmanager
def _quiet() -> Iterator[None]:
    """Zeus's log records and warnings at level debug: what matters of them is in `Energy.reason`."""
    zeus, handler = logging.getLogger("zeus"), _ToDebug()
    propagate, zeus.propagate = zeus.propagate, False
    zeus.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        zeus.removeHandler(handler)
        zeus.propagate = propagate
