"""The step meter against clocks whose truth is known."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft.efficiency.steps import MAX_PENDING, CudaClock, StepMeter, WallClock


class HandClock(WallClock):
    """A host clock that the test moves."""

    def __init__(self):
        self.now_s = 0.0
        super().__init__(lambda: self.now_s)


def run_steps(meter, clock, steps, **counts):
    """`steps` are (wait, work) in seconds."""
    counts = {"residues": 90, "sequences": 3, "tokens": 100} | counts
    for wait_s, work_s in steps:
        meter.fetch_begin()
        clock.now_s += wait_s
        meter.step_begin()
        clock.now_s += work_s
        meter.step_end(**counts)


def hand_meter(warmup_steps=0):
    clock = HandClock()
    return StepMeter(clock, warmup_steps=warmup_steps), clock


def test_exact_figures_after_warmup():
    meter, clock = hand_meter(warmup_steps=5)
    run_steps(meter, clock, [(9.0, 9.0)] * 5, padding=40, flops=1e9)  # slow, as first steps are
    run_steps(meter, clock, [(0.125, 0.125 * k) for k in range(1, 21)], flops=2e9)
    step_ms = [125.0 * (k + 1) for k in range(1, 21)]
    seconds = sum(step_ms) / 1e3
    summary = meter.summary()
    assert summary == pytest.approx(
        {
            "steps_measured": 20,
            "step_time_ms_p50": np.percentile(step_ms, 50),
            "step_time_ms_p95": np.percentile(step_ms, 95),
            "step_time_ms_mean": np.mean(step_ms),
            "data_wait_fraction": 20 * 0.125 / seconds,
            "residues_per_s": 20 * 90 / seconds,
            "sequences_per_s": 20 * 3 / seconds,
            "padding_fraction": 5 * 40 / 2500,
            "model_flops": 45e9,
            "flops_per_s": 40e9 / seconds,
        }
    )
    assert summary["step_time_ms_p50"] == pytest.approx(125 * 11.5)
    assert meter.notes() == {}
    assert (meter.total_steps, meter.total_residues, meter.total_sequences) == (25, 25 * 90, 75)
    assert meter.total_flops == 45e9


def test_a_step_that_sleeps():
    meter = StepMeter(WallClock(), warmup_steps=0)
    for _ in range(3):
        meter.fetch_begin()
        time.sleep(0.01)
        meter.step_begin()
        time.sleep(0.02)
        meter.step_end(residues=1, sequences=1, tokens=3)
    summary = meter.summary()
    assert summary["step_time_ms_p50"] >= 30
    assert summary["residues_per_s"] <= 1 / 0.03
    assert 0.1 < summary["data_wait_fraction"] < 0.9


def test_micro_batches_add_up_to_one_step():
    meter, clock = hand_meter()
    for _ in range(4):
        meter.fetch_begin()
        clock.now_s += 0.25
        meter.step_begin()
        clock.now_s += 0.5
    meter.step_end(residues=8, sequences=4, tokens=16)
    summary = meter.summary()
    assert summary["step_time_ms_mean"] == 3000
    assert summary["data_wait_fraction"] == pytest.approx(1 / 3)
    assert summary["sequences_per_s"] == pytest.approx(4 / 3)


def test_pause_belongs_to_no_step():
    meter, clock = hand_meter()
    run_steps(meter, clock, [(0.5, 0.5)] * 10)
    meter.fetch_begin()  # the epoch's end: this fetch brings nothing
    meter.pause()
    clock.now_s += 3600  # validation
    run_steps(meter, clock, [(0.5, 0.5)] * 10)
    assert meter.summary()["step_time_ms_p95"] == 1000
    assert meter.summary()["step_time_ms_mean"] == 1000


def test_a_batch_nobody_waited_for_has_no_wait():
    meter, clock = hand_meter()
    meter.fetch_begin()
    meter.pause()
    clock.now_s += 3600
    meter.step_begin()
    clock.now_s += 1.0
    meter.step_end(residues=1, sequences=1, tokens=3)
    assert (meter.summary()["step_time_ms_mean"], meter.summary()["data_wait_fraction"]) == (1000, 0)


def test_a_step_cut_by_a_pause_is_counted_but_not_timed():
    meter, clock = hand_meter()
    meter.fetch_begin()
    meter.step_begin()
    meter.pause()
    clock.now_s += 3600
    run_steps(meter, clock, [(0.5, 0.5)] * 2)
    assert meter.total_steps == 2
    assert meter.summary()["steps_measured"] == 1
    assert meter.summary()["step_time_ms_mean"] == 1000


@pytest.mark.parametrize(("steps", "measured"), [(0, 0), (3, 0), (5, 0), (6, 1), (14, 9)])
def test_too_few_steps_are_flagged(steps, measured):
    meter, clock = hand_meter(warmup_steps=5)
    run_steps(meter, clock, [(0.1, 0.9)] * steps)
    assert ("step_time_ms_p50" in meter.summary()) == (measured > 0)
    assert ("residues_per_s" in meter.summary()) == (measured > 0)
    assert meter.summary()["steps_measured"] == measured
    expected = f"only {measured} steps after 5 of warm-up" if measured else f"no step measured: {steps} steps in all"
    assert meter.notes()["step_time"].startswith(expected)


def test_one_unknown_flop_count_makes_the_sum_unknown():
    meter, clock = hand_meter()
    assert meter.total_flops is None
    run_steps(meter, clock, [(0.1, 0.9)], flops=1e9)
    assert meter.total_flops == 1e9
    run_steps(meter, clock, [(0.1, 0.9)])
    assert meter.total_flops is None
    assert "model_flops" not in meter.summary() and "flops_per_s" not in meter.summary()


def test_recent_rate_follows_the_last_steps():
    meter, clock = hand_meter()
    assert meter.recent_residues_per_s is None
    run_steps(meter, clock, [(0.0, 1.0)] * 50, residues=10)
    run_steps(meter, clock, [(0.0, 1.0)] * 20, residues=30)
    assert meter.recent_residues_per_s == pytest.approx(30)


TIMES_S = st.integers(1, 10_000).map(lambda n: n / 1024)  # sums of these are exact


@given(st.lists(st.tuples(TIMES_S, TIMES_S), min_size=1, max_size=30), st.integers(0, 30))
def test_resumed_equals_uninterrupted(steps, cut):
    whole, clock = hand_meter()
    run_steps(whole, clock, steps, flops=1.0)
    first, clock = hand_meter()
    run_steps(first, clock, steps[:cut], flops=1.0)
    second, clock = hand_meter()
    second.load_state_dict(first.state_dict())
    run_steps(second, clock, steps[cut:], flops=1.0)
    assert second.summary() == pytest.approx(whole.summary(), rel=1e-9)
    assert second.total_residues == whole.total_residues == 90 * len(steps)
    summary = whole.summary()
    assert summary["step_time_ms_p50"] <= summary["step_time_ms_p95"] * (1 + 1e-12)
    total_ms = 1e3 * sum(wait + work for wait, work in steps)
    assert summary["step_time_ms_mean"] * len(steps) == pytest.approx(total_ms, rel=1e-9)
    assert summary["data_wait_fraction"] == pytest.approx(1e3 * sum(wait for wait, _ in steps) / total_ms, rel=1e-9)
    assert summary["residues_per_s"] * total_ms / 1e3 == pytest.approx(90 * len(steps))


class FakeStream:
    """A device that works through a queue in order; an event is passed when the device gets there.

    The host's clock moves only through `host_works`; the device can't begin a kernel before the host issued it.
    """

    def __init__(self):
        self.host_s = self.device_free_s = 0.0
        self.waits = 0

    def host_works(self, seconds):
        self.host_s += seconds

    def kernel(self, seconds):
        self.device_free_s = max(self.device_free_s, self.host_s) + seconds


def fake_event(stream):
    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, recorded_in):
            assert recorded_in is stream
            self.passed_s = stream.device_free_s = max(stream.device_free_s, stream.host_s)

        def query(self):
            return self.passed_s <= stream.host_s

        def synchronize(self):
            if not self.query():
                stream.waits += 1
                stream.host_s = self.passed_s

        def elapsed_time(self, end):
            assert self.query() and end.query(), "read before the device got there"
            return 1e3 * (end.passed_s - self.passed_s)

    return Event


@pytest.fixture
def stream(monkeypatch):
    stream = FakeStream()
    monkeypatch.setattr("torch.cuda.Event", fake_event(stream))
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: stream)
    return stream


def gpu_steps(stream, steps, fetch_s, kernel_s):
    meter = StepMeter(CudaClock(0), warmup_steps=0)
    for _ in range(steps):
        meter.fetch_begin()
        stream.host_works(fetch_s)
        meter.step_begin()
        stream.kernel(kernel_s)
        meter.step_end(residues=10, sequences=1, tokens=12)
    return meter


def test_gpu_steps_never_wait_and_a_hidden_fetch_is_free(stream):
    meter = gpu_steps(stream, MAX_PENDING, fetch_s=0.001, kernel_s=1.0)
    assert stream.waits == 0
    summary = meter.summary()
    assert summary["step_time_ms_p50"] == pytest.approx(1000)
    assert summary["data_wait_fraction"] == pytest.approx(0.001 / (MAX_PENDING + 0.001))  # the very first fetch alone


def test_gpu_that_starves_waits_for_data(stream):
    summary = gpu_steps(stream, 20, fetch_s=3.0, kernel_s=1.0).summary()
    assert summary["data_wait_fraction"] == pytest.approx(
        (3.0 + 19 * 2.0) / (4.0 + 19 * 3.0)
    )  # a fetch begins with the kernels still running
    assert summary["step_time_ms_p50"] == pytest.approx(3000)


def test_gpu_events_do_not_pile_up(stream):
    meter = gpu_steps(stream, 3 * MAX_PENDING, fetch_s=0.0, kernel_s=1.0)
    assert len(meter._pending) <= MAX_PENDING
    assert meter.summary()["steps_measured"] == 3 * MAX_PENDING
