"""The memory protocol: what is tried, what is refused by the plan, growth, the largest batch; and one cell."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.bench import memory
from plmft.bench.memory import Memory, below_floor, exponent
from plmft.bench.memory_cell import bytes_of, measure_cell, steps_of
from plmft.bench.memory_plan import largest_batch, plan
from tests.unit.bench_parts import small_bench

GB = 1e9
QUICK = Memory(
    modes=("inference", "training"),
    tunings=("full",),
    lengths=(16, 32),
    batches=(1, 2),
    precisions=("fp32",),
    limit_gb=None,
    largest_batch=0,
    fresh=False,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"), "task=fluorescence")


@pytest.fixture
def answered(monkeypatch):
    """Cells are answered without a process: what was asked for, and a peak quadratic in the length."""
    asked = []

    def answer(bench, function, cells, *, fresh=False):
        for cell in cells:
            asked.append(dict(cell))
            held = 1e-6 * cell["batch"] * cell["length"] ** 2
            too_much = cell["limit_gb"] is not None and held + 0.001 > cell["limit_gb"]
            figures = {"weights_gb": 0.001, "floor_gb": 0.001, "activations_gb": held, "peak_memory_gb": held + 0.001}
            yield dict(cell), {"note": "out of memory: told"} if too_much else figures

    monkeypatch.setattr(memory, "apart", answer)
    return asked


def test_what_building_held_is_not_the_cells(bench, monkeypatch):
    import torch

    made = type(bench).backbone

    def wasteful(self, precision="fp32"):
        held = torch.ones(50_000_000)  # 200 MB, for a moment
        return made(self, precision) if held.numel() else None

    monkeypatch.setattr(type(bench), "backbone", wasteful)
    cell = {"tuning": "none", "precision": "fp32", "batch": 1, "length": 16, "limit_gb": None, "steps": 1}
    row = measure_cell(bench, mode="inference", **cell)
    if "peak_above_libraries_gb" not in row:
        pytest.skip("this system does not tell a process's memory")
    assert row["activations_gb"] < 0.1


@settings(max_examples=50)
@given(st.integers(0, 200), st.integers(1, 100))
def test_largest_batch_is_the_largest_that_fits(most, limit):
    assert largest_batch(lambda batch: batch <= most, limit) == min(most, limit)


def test_growth_is_the_slope_of_the_logarithms():
    assert exponent([(n, 3e-6 * n**2) for n in (128, 512, 1024)]) == pytest.approx(2)
    assert exponent([(n, 3e-6 * n) for n in (128, 512)]) == pytest.approx(1)


def test_cells_by_size_then_growth(bench, answered):
    rows = list(QUICK.measure(bench))
    assert [(c["mode"], c["batch"] * c["length"]) for c in answered] == [
        (mode, n) for mode in ("inference", "training") for n in (16, 32, 32, 64)
    ]
    growth = [row for row in rows if row.get("figure") == "growth"]
    assert [row["growth_exponent"] for row in growth] == [pytest.approx(2)] * 4
    assert all(0 < row["planned_gb"] < 1 for row in rows if "figure" not in row)


def test_what_is_planned_not_to_fit_is_not_tried(bench, answered):
    between = (plan(bench, "training", "full", "fp32", 1, 32) + plan(bench, "training", "full", "fp32", 2, 32)) / 2
    protocol = dataclasses.replace(QUICK, modes=("training",), lengths=(32,), limit_gb=between / GB)
    rows = list(protocol.measure(bench))
    assert [cell["batch"] for cell in answered] == [1]
    (refused,) = [row for row in rows if row.get("batch") == 2]
    assert refused["note"].startswith("not tried: planned ")
    assert "peak_memory_gb" not in refused


def test_largest_batch_is_tried_out_where_a_limit_is_set(bench, answered):
    protocol = dataclasses.replace(
        QUICK, modes=("training",), lengths=(100,), batches=(1,), limit_gb=0.0715, largest_batch=64
    )
    row = list(protocol.measure(bench))[-1]
    assert row["largest_batch"] == 7  # 7 · 0.01 + 0.001
    assert row["found"] == "tried out"
    assert row["note"] == "a larger one does not fit"


def test_on_a_cpu_without_a_limit_it_is_planned(bench, answered, monkeypatch):
    monkeypatch.setattr(memory, "room_bytes", lambda _: plan(bench, "training", "full", "fp32", 5, 32) + 1)
    protocol = dataclasses.replace(QUICK, modes=("training",), batches=(1,), largest_batch=64)
    row = list(protocol.measure(bench))[-1]
    assert (row["largest_batch"], row["found"]) == (5, "planned")


def test_a_peak_below_the_weights_fails():
    assert below_floor({"peak_memory_gb": 1.0, "floor_gb": 1.1}).startswith("FAILED")
    assert below_floor({"peak_above_libraries_gb": 1.2, "floor_gb": 1.1}) is None
    assert below_floor({"note": "out of memory"}) is None


def cell(bench, **changes):
    given_ = {"mode": "training", "tuning": "full", "precision": "fp32", "batch": 2, "length": 16, "limit_gb": None}
    return measure_cell(bench, **given_ | {"steps": 2} | changes)


@pytest.mark.slow
def test_parts_of_a_training_step_by_what_learns(bench):
    full, frozen = cell(bench), cell(bench, tuning="frozen")
    assert full["gradients_gb"] <= full["weights_gb"]
    assert full["gradients_gb"] == pytest.approx(full["weights_gb"], rel=0.05)  # buffers and unused weights aside
    assert full["optimizer_gb"] == pytest.approx(2 * full["gradients_gb"], rel=0.01)
    assert frozen["weights_gb"] == full["weights_gb"]
    assert frozen["gradients_gb"] < full["gradients_gb"] / 2
    assert full["tokens"] == 2 * 18


def test_inference_holds_weights_and_no_gradients(bench):
    row = cell(bench, mode="inference", tuning="none")
    assert row["weights_gb"] * GB == bytes_of(bench.backbone())
    assert "gradients_gb" not in row
    halved = cell(bench, mode="inference", tuning="none", precision="bf16_weights")
    assert halved["weights_gb"] < row["weights_gb"]


@pytest.mark.parametrize("task", ["fluorescence", "secondary_structure", "contacts", "homology"])
def test_a_step_for_every_kind_of_target(tmp_path, task):
    bench = small_bench(tmp_path, f"task={task}")
    step = steps_of(bench, 3, 12)
    assert [len(batch.lengths) for batch in step.micro] == [3]
    assert step.targets > 0


def test_a_kind_without_labels_is_refused(tmp_path):
    with pytest.raises(InputError, match="no targets are drawn"):
        QUICK.check(small_bench(tmp_path, "task=mutation_effects", "tuning=none"))


def test_plan_grows_with_length_and_is_absent_without_a_formula(tmp_path, bench):
    sizes = [plan(bench, "inference", "none", "fp32", 1, n) for n in (64, 128, 256, 512)]
    assert np.all(np.diff(sizes) > 0)
    assert plan(small_bench(tmp_path, "model=onehot_cnn", "~model.init"), "inference", "none", "fp32", 1, 64) is None
