"""One phase's cost from meters whose truth is known."""

import json

import pytest

from plmft.efficiency.energy import Energy
from plmft.efficiency.flops import Peak
from plmft.efficiency.phase import PhaseMeter
from plmft.efficiency.steps import StepMeter, WallClock

# design's table of cost names, without what is only there when asked for (energy_estimate_j)
NAMES = {
    "step_time_ms_p50", "step_time_ms_p95", "step_time_ms_mean", "data_wait_fraction", "residues_per_s",
    "sequences_per_s", "padding_fraction", "peak_memory_gb", "peak_reserved_gb", "peak_host_memory_gb", "energy_j",
    "energy_j_per_1k_sequences", "model_flops", "mfu", "usd", "usd_per_1m_sequences", "wall_time_s",
}  # fmt: skip


class Machine:
    """A clock, a memory meter and an energy meter (250 W) of a machine that the test moves."""

    def __init__(self, watts=250.0, reason=None):
        self.now_s, self.watts, self.reason, self.calls = 0.0, watts, reason, []
        self.peaks = {"peak_memory_gb": 2.0, "peak_reserved_gb": 3.0, "peak_host_memory_gb": 1.0}

    def reset(self):
        self.calls.append("reset")

    def peak(self):
        return dict(self.peaks)

    def notes(self):
        return {}

    def begin(self, name):
        self.start_s = self.now_s

    def read(self, name):
        if self.watts is None:
            return Energy(None, "none", self.reason)
        return Energy(self.watts * (self.now_s - self.start_s), "nvml:GPU-1", self.reason)

    end = read


def meter_on(machine, **options):
    steps = StepMeter(WallClock(lambda: machine.now_s), warmup_steps=2)
    options = {"usd_per_hour": 3.6, "peak": Peak(1e12, "a card")} | options
    return PhaseMeter("cuda", clock=lambda: machine.now_s, steps=steps, memory=machine, energy=machine, **options)


def run(machine, meter, steps, flops=1e11):
    for _ in range(steps):
        meter.steps.fetch_begin()
        machine.now_s += 0.25
        meter.steps.step_begin()
        machine.now_s += 0.25
        meter.steps.step_end(residues=100, sequences=4, tokens=108, flops=flops)


def test_every_cost_of_a_phase():
    machine = Machine()
    meter = meter_on(machine)
    machine.now_s = 77.0  # before the phase: not its cost
    meter.begin()
    run(machine, meter, 22)
    machine.now_s += 9.0  # after the last step: a checkpoint is written
    cost = meter.end()
    assert cost.values.keys() == NAMES
    assert cost.values == pytest.approx(
        {
            "step_time_ms_p50": 500,
            "step_time_ms_p95": 500,
            "step_time_ms_mean": 500,
            "data_wait_fraction": 0.5,
            "residues_per_s": 200,
            "sequences_per_s": 8,
            "padding_fraction": 0,
            **machine.peaks,
            "energy_j": 250 * 20,
            "energy_j_per_1k_sequences": 250 * 20 / 88 * 1000,
            "model_flops": 22e11,
            "mfu": 0.2,
            "usd": 20 * 0.001,
            "usd_per_1m_sequences": 20 * 0.001 / 88 * 1e6,
            "wall_time_s": 20,
        }
    )
    assert cost.energy_source == "nvml:GPU-1"
    assert cost.notes == {"mfu": "over 1 TFLOP/s: a card"}
    assert machine.calls == ["reset"]


def test_what_is_not_known_is_left_out_with_a_reason():
    machine = Machine(watts=None, reason="no RAPL on this machine")
    meter = meter_on(machine, usd_per_hour=None, peak=None)
    meter.begin()
    run(machine, meter, 5)
    cost = meter.end()
    assert NAMES - cost.values.keys() == {
        "energy_j", "energy_j_per_1k_sequences", "mfu", "usd", "usd_per_1m_sequences",
    }  # fmt: skip
    assert cost.energy_source == "absent: no RAPL on this machine"
    assert cost.notes.keys() == {"step_time", "energy_j", "usd", "mfu"}
    assert cost.notes["step_time"].startswith("only 3 steps")


def test_a_phase_without_steps():
    machine = Machine()
    meter = meter_on(machine)
    meter.begin()
    machine.now_s += 1.0
    cost = meter.end()
    assert cost.values.keys() == {
        "peak_memory_gb", "peak_reserved_gb", "peak_host_memory_gb", "energy_j", "usd", "wall_time_s",
    }  # fmt: skip
    assert "no step" in cost.notes["step_time"] and "no step" in cost.notes["mfu"]


def resume(state, machine, steps):
    meter = meter_on(machine)
    meter.load_state_dict(json.loads(json.dumps(state)))
    meter.begin()
    run(machine, meter, steps)
    return meter.end()


def test_a_resumed_phase_counts_both_parts_and_not_what_was_lost():
    first = Machine()
    meter = meter_on(first)
    meter.begin()
    run(first, meter, 12)
    state = meter.state_dict()  # a checkpoint; then the job is killed
    run(first, meter, 3)
    second = Machine()
    second.now_s, second.peaks = 5000.0, {"peak_memory_gb": 2.5, "peak_reserved_gb": 2.5, "peak_host_memory_gb": 0.5}
    cost = resume(state, second, 10)
    assert cost.values["wall_time_s"] == 11
    assert cost.values["energy_j"] == 250 * 11
    assert cost.values["energy_j_per_1k_sequences"] == pytest.approx(250 * 11 / 88 * 1000)
    assert cost.values["model_flops"] == 22e11
    peaks = [cost.values[name] for name in ("peak_memory_gb", "peak_reserved_gb", "peak_host_memory_gb")]
    assert peaks == [2.5, 3.0, 1.0]
    assert meter.end().values["wall_time_s"] == 7.5  # a state_dict closes nothing
    assert meter.state_dict()["spent"]["wall_time_s"] == 7.5  # the last checkpoint may come after the end


def test_energy_known_in_one_part_only_is_absent():
    first = Machine(watts=None, reason="no RAPL on this machine")
    meter = meter_on(first)
    meter.begin()
    cost = resume(meter.state_dict(), Machine(), 10)
    assert "energy_j" not in cost.values
    assert cost.energy_source == "absent: no RAPL on this machine"


def test_a_phase_must_begin_before_it_ends():
    with pytest.raises(RuntimeError, match="not begun"):
        meter_on(Machine()).end()
    assert meter_on(Machine()).state_dict()["spent"] is None


def test_the_real_meters_of_this_machine():
    meter = PhaseMeter("cpu", usd_per_hour=1.0)
    meter.begin()
    for _ in range(20):
        meter.steps.fetch_begin()
        meter.steps.step_begin()
        meter.steps.step_end(residues=1, sequences=1, tokens=3)
    cost = meter.end()
    assert cost.values["peak_host_memory_gb"] > 0.01
    assert cost.values["wall_time_s"] > 0
    assert ("energy_j" in cost.values) != cost.energy_source.startswith("absent: ")
