"""What every protocol stands on: rows, tables, clocks, material, other processes."""

import csv
import io
import json
import math
import os

import numpy as np
import psutil
import pytest
from rich.console import Console

from plmft import InputError
from plmft.bench import job
from plmft.bench.choices import choice
from plmft.bench.material import LOG_LENGTH, draw, fixed_sequences, longest_possible, real_sequences
from plmft.bench.record import Recorder, to_csv
from plmft.bench.table import _cell, columns_of, show
from plmft.bench.timing import Timed, Timing, interleave, ratio, warm_up
from tests.unit.bench_parts import small_bench
from tests.unit.small_models import small


class Clock:
    """Time that passes only while a call works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds):
        times = iter(seconds)

        def call() -> None:
            self.now += next(times)

        return call


def forever(value):
    while True:
        yield value


def test_warm_up_ends_when_two_groups_agree():
    clock = Clock()
    falling = [9.0] * 3 + [4.0] * 3 + [1.0] * 3 + [1.02] * 3
    found = warm_up(clock.work(falling), Timing(1, 0.25, 1, 100.0), clock)
    assert found.stable
    assert found.warmup_calls == 12


def test_warm_up_that_never_settles_ends_by_time_and_says_so():
    clock = Clock()
    found = warm_up(clock.work(2.0**n for n in range(100)), Timing(1, 0.25, 1, 50.0), clock)
    assert not found.stable
    assert "not stable when warm-up ended" in found.notes


def test_blocks_last_as_long_as_asked_and_rivals_take_turns():
    clock, order = Clock(), []

    def rival(name, seconds):
        def call() -> None:
            order.append(name)
            clock.now += seconds

        return call

    found = interleave({"a": rival("a", 0.1), "b": rival("b", 0.4)}, Timing(4, 0.25, 1, 10.0), clock)
    assert [len(block) for block in found["a"].blocks] == [3] * 4
    assert [len(block) for block in found["b"].blocks] == [1] * 4
    measured = "".join(order[12:])  # after two groups of three of each
    assert measured == "aaab" + "baaa" + "aaab" + "baaa"


def test_more_rounds_until_there_are_calls_enough():
    clock = Clock()
    found = interleave({"": clock.work(forever(1.0))}, Timing(2, 0.25, 20, 1.0), clock)[""]
    assert len(found.calls) == 20


def test_slow_calls_end_by_time_after_a_whole_round():
    clock = Clock()
    calls = {"a": clock.work(forever(6.0)), "b": clock.work(forever(1.0))}
    found = interleave(calls, Timing(4, 0.25, 20, 1.0, most_s=10.0), clock)
    assert [len(timed.blocks) for timed in found.values()] == [2, 2]


def test_percentiles_need_calls_and_say_so():
    few = Timed(True, 6, [[0.001, 0.002, 0.003]])
    assert set(few.values()) == {"step_time_ms_p50", "step_time_ms_mean"}
    assert few.notes == ["too few calls for p25, p75, p95, p99"]
    many = Timed(True, 6, [[n / 1000 for n in range(1, 101)]])
    assert many.values()["step_time_ms_p99"] == pytest.approx(99.01)
    assert many.notes == []


def test_ratio_holds_the_truth_where_both_slow_down_together():
    drift = [1.0, 1.5, 0.8, 2.0, 1.2, 1.0, 1.1, 0.9]
    noise = [1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0]
    slow = Timed(True, 3, [[3.0 * d * n] for d, n in zip(drift, noise, strict=True)])
    fast = Timed(True, 3, [[1.0 * d] for d in drift])
    middle, low, high = ratio(slow, fast)
    assert low < 3.0 < high
    assert high - low < 0.1  # the drift is in both, and drops out
    assert middle == pytest.approx(3.0, rel=0.01)
    assert ratio(Timed(True, 3, [[1.0]] * 2), Timed(True, 3, [[1.0]] * 2)) is None


def test_columns_are_conditions_then_figures_then_the_note():
    rows = [{"model": "m", "note": "why"}, {"model": "m", "speed": 1.0, "batch": 3}]
    assert columns_of(rows) == ["model", "batch", "speed", "note"]


def test_small_figures_keep_three_digits():
    told = [_cell(value) for value in (8.68e-08, 1.502e-06, 0.00123456, 12.3456, 1234.5, 4.0, None)]
    assert told == ["8.68e-08", "1.5e-06", "0.00123", "12.3", "1,234", "4", ""]


def test_csv_has_an_empty_cell_where_nothing_was_measured():
    rows = [{"length": 5, "ms": 0.1}, {"length": 6, "note": "out of memory"}]
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert read[1] == {"length": "6", "ms": "", "note": "out of memory"}
    assert float(read[0]["ms"]) == 0.1


class Told:
    """An MLflow run that keeps what it is told."""

    def __init__(self) -> None:
        self.logged, self.kept = [], []

    def metrics(self, values, step):
        self.logged.append((values, step))

    def artifact(self, path):
        self.kept.append(path.name)


def test_recorder_keeps_each_row_at_once(tmp_path):
    tracked = Told()
    recorder = Recorder(tmp_path, tracked)
    recorder.add({"length": 5, "ms": 0.5, "energy_j": None})
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == {"length": 5, "ms": 0.5}
    recorder.add({"length": 6, "note": "no room"})
    assert tracked.logged == [({"bench/ms": 0.5}, 0), ({}, 1)] or tracked.logged == [({"bench/ms": 0.5}, 0)]
    recorder.finish({"protocol": "x"}, {"batch": 1})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rows"] == recorder.rows
    assert summary["fixed"] == {"batch": 1}
    assert tracked.kept == ["rows.jsonl", "rows.csv", "summary.json"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_recorder_refuses_what_is_no_number(tmp_path, value):
    with pytest.raises(ValueError, match="ms: not finite"):
        Recorder(tmp_path, Told()).add({"ms": value})
    assert not (tmp_path / "rows.jsonl").exists()


def test_table_tells_what_all_share_once_and_each_reason_once():
    stream = io.StringIO()
    rows = [{"model": "m", "n": 1, "ms": 2.0}, {"model": "m", "n": 2, "note": "cold; no room"}]
    show(Console(file=stream), "title", [*rows, {"model": "m", "n": 3, "note": "no room"}])
    out = stream.getvalue()
    assert "All rows: model m" in out
    assert "Note 1: cold\nNote 2: no room\n" in out
    assert out.count("no room") == 1


def test_figures_that_are_not_asked_for_are_not_shown():
    stream = io.StringIO()
    show(Console(file=stream), "title", [{"n": 1, "ms": 2.0, "gb": 3.0}, {"n": 2, "ms": 2.0}], ("ms",))
    assert "gb" not in stream.getvalue()
    assert "ms" in stream.getvalue()


def test_sequences_without_data_have_the_lengths_that_are_told():
    pool, told = real_sequences(None)
    logs = np.log([len(sequence) for sequence in pool])
    assert logs.mean() == pytest.approx(LOG_LENGTH[0], abs=0.03)
    assert logs.std() == pytest.approx(LOG_LENGTH[1], abs=0.03)
    assert str(LOG_LENGTH[0]) in told


def test_drawn_sequences_are_those_of_the_seed_and_fit_the_model():
    pool = ["A" * n for n in range(1, 21)]
    drawn = draw(pool, 20, seed=3, longest=12)
    assert sorted(map(len, drawn)) == [*range(1, 12), *([12] * 9)]
    assert drawn == draw(pool, 20, seed=3, longest=12) != draw(pool, 20, seed=4, longest=12)
    assert draw(pool, 25, seed=3, longest=None)[20:] == draw(pool, 5, seed=3, longest=None)
    assert {len(s) for s in fixed_sequences(3, 7, 0)} == {7}


def test_hard_limits_are_those_of_the_position_table():
    assert longest_possible(small("esm2")) is None
    assert longest_possible(small("esm1b")) == 50
    assert longest_possible(small("bert")) == 62


def test_bench_reads_the_data_folder(tmp_path, monkeypatch):
    import gzip

    (tmp_path / "sequences").mkdir()
    with gzip.open(tmp_path / "sequences" / "uniref90_10k.fasta.gz", "wt") as file:
        file.write(">a\nACDE\n>b\nKLMNP\n")
    monkeypatch.setenv("PLMFT_DATA", str(tmp_path))
    bench = small_bench(tmp_path)
    assert sorted(bench.sequences(2)) == ["ACDE", "KLMNP"]
    assert "UniRef90" in bench.source_of_sequences


def test_conditions_come_first_and_name_the_weights(tmp_path):
    row = small_bench(tmp_path).conditions("bf16", batch=2)
    assert list(row) == ["model", "weights", "device", "threads", "precision", "batch"]
    assert row["weights"] == "random (seed 0)"
    assert row["precision"] == "bf16"


@pytest.mark.parametrize(("share", "told"), [(3.0, False), (90.0, True)])
def test_who_uses_the_cores_is_told_and_kept(monkeypatch, share, told):
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval, percpu: [share] * (max(os.sched_getaffinity(0)) + 1))
    out = io.StringIO()
    assert job._busy(Console(file=out)) == {"machine.cores_busy": f"{share / 100 * cores:.1f}"}
    assert ("Others use" in out.getvalue()) is told


def test_a_model_that_does_not_fit_is_a_row(tmp_path):
    class Large:
        def measure(self, bench):
            yield bench.conditions() | {"sequences_per_s": 1.0}
            raise MemoryError("Unable to allocate 60.0 GiB")

    first, last = job._until_memory_ends(Large(), small_bench(tmp_path))
    assert first["sequences_per_s"] == 1.0
    assert last["model"] == "esm2_tiny" and last["note"].startswith("out of memory: Unable to allocate 60")


def test_a_fault_of_a_protocol_is_no_row(tmp_path):
    class Wrong:
        def measure(self, bench):
            yield {"x": 1 / 0}

    with pytest.raises(ZeroDivisionError):
        list(job._until_memory_ends(Wrong(), small_bench(tmp_path)))


def test_another_choice_while_hydra_runs():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from plmft.config.compose import config_folder

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        running = GlobalHydra.instance().hydra
        assert choice("model", "esm2_8m", init="random").width == 320
        assert GlobalHydra.instance().hydra is running
    with pytest.raises(InputError, match="there is no such tuning"):
        choice("tuning", "fulll")
