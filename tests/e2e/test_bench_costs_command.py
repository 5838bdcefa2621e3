"""The protocols that start processes of their own, as a user runs them."""

import pytest

from tests.e2e.test_bench_core_command import MODEL, benchmark, rows_of

pytestmark = pytest.mark.slow


def folder_of(runs):
    (folder,) = (runs / "work").glob("*esm2_tiny")
    return folder


def test_training_is_measured_by_the_training_command_and_leaves_no_run_of_its_own(tmp_path):
    options = ("protocol.tunings=[frozen]", "protocol.steps=7", "protocol.lengths=[16]", "protocol.batches=[2]")
    out = benchmark(tmp_path, "protocol=training", *MODEL, *options, "hardware.usd_per_hour=1").succeeded()
    folder = folder_of(tmp_path)
    (row,) = rows_of(folder)
    step_s = float(row["step_time_ms_mean"]) / 1e3
    assert float(row["steps_per_day_projected"]) == pytest.approx(86_400 / step_s)
    assert float(row["usd_projected"]) == pytest.approx(float(row["hours_projected"]))
    assert float(row["embed_sequences_per_s"]) > 0
    assert float(row["parameters_trainable"]) < float(row["parameters"])
    assert row["weights"] == "random (seed 0)"
    assert not list(folder.glob("training-*"))  # the training run's folder is gone
    assert "Best checkpoint" not in out  # nor is what it printed among the rows


def test_two_processes_load_side_by_side(tmp_path):
    cells = ("protocol.loaders=[packed]", "protocol.workers=[0]", "protocol.stages=[loader,loader_copy]")
    short = ("protocol.processes=[1,2]", "protocol.sequences=20", "protocol.seconds=0.1")
    benchmark(tmp_path, "protocol=loading", *MODEL, *cells, *short).succeeded()
    one, two, copy = rows_of(folder_of(tmp_path))
    assert [(row["processes"], row["nodes"]) for row in (one, two)] == [("1", "1"), ("2", "1")]
    assert float(one["sequences_per_s"]) > 0 < float(two["sequences_per_s"])
    assert copy["note"] == "the model computes on the CPU: nothing is copied"
    assert copy["sequences_per_s"] == ""


def test_rungs_take_turns_in_another_process(tmp_path):
    few = ("protocol.rungs=[eager,packed]", "protocol.batch=2", "protocol.longest=20", "protocol.steps=1")
    benchmark(tmp_path, "protocol=kernels", *MODEL, *few).succeeded()
    eager, packed = rows_of(folder_of(tmp_path))
    assert float(eager["times_as_fast"]) == float(eager["of_the_memory"]) == 1.0
    assert float(packed["padding_fraction"]) == 0.0
    assert packed["attention"] == "matmul by sequence"
