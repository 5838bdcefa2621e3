"""What a run took: both phases of frozen tuning, nothing known where an earlier run paid, and on which machine."""

from types import SimpleNamespace

import pytest

from plmft.page.choice import memory_of
from plmft.page.configurations import contests
from plmft.page.costs import BY_KEY
from plmft.page.guide import guide
from plmft.page.runs import Scored, _benchmark, device_of
from tests.unit.page_runs import scored

FIT = {"wall_time_s": 10.0, "energy_j": 20.0, "usd": 1.0, "peak_memory_gb": 1.0, "peak_host_memory_gb": 5.0}
PASS = {"wall_time_s": 90.0, "energy_j": 70.0, "usd": 8.0, "peak_memory_gb": 3.0, "peak_host_memory_gb": 4.0}
OF_PHASES = ("train_s", "energy_j", "usd", "gpu_gb", "host_gb")
CPU = {"device": "cpu", "machine.cpu": "AMD EPYC", "machine.usable_cores": "2"}


def frozen(run_id: str, computed: float, *, without: str = "", **changes: object) -> Scored:
    """Frozen tuning of 8 sequences, of which it computed so many."""
    costs = {f"cost/{name}": value for name, value in FIT.items()}
    costs |= {f"cost/embed/{name}": value for name, value in PASS.items() if name != without}
    costs |= {"cost/embed/sequences": 8.0, "cost/embed/sequences_computed": computed, "cost/embed/cache_gb": 1.0}
    return scored(run_id, 0.5, tuning="frozen", costs=costs | {"cost/test/wall_time_s": 2.0}, **changes)


def figures(run: Scored) -> list[float | None]:
    return [BY_KEY[key].read(run) for key in OF_PHASES]


def test_frozen_tuning_takes_both_phases() -> None:
    assert figures(frozen("r", 8.0)) == [100.0, 90.0, 9.0, 3.0, 5.0]
    assert figures(scored("f", 0.5, costs={f"cost/{name}": value for name, value in FIT.items()})) == [*FIT.values()]


@pytest.mark.parametrize("name", FIT)
def test_a_phase_that_was_made_and_not_measured_leaves_the_sum_unknown(name: str) -> None:
    found = dict(zip(FIT, figures(frozen("r", 8.0, without=name)), strict=True))
    assert [absent for absent, value in found.items() if value is None] == [name]


def test_a_run_that_read_what_an_earlier_one_computed_took_an_unknown_amount() -> None:
    assert figures(frozen("r", 0.0)) == figures(frozen("r", 7.0)) == [None] * 5
    (contest,) = contests([frozen("cold", 8.0), frozen("warm", 0.0, seed="1")], {})
    (one,) = contest.configurations
    assert [one.cost(BY_KEY[key]) for key in OF_PHASES] == [100.0, 90.0, 9.0, 3.0, 5.0], "the mean of cold runs"
    (warm,) = contests([frozen("warm", 0.0)], {})
    gaps = " ".join(one.text for one in guide(warm) if one.tone == "gap")
    assert "an earlier run had computed" in gaps and "Energy" not in gaps and "Money" not in gaps


def test_an_accelerator_without_its_peak_is_no_host() -> None:
    (contest,) = contests([frozen("r", 8.0, without="peak_memory_gb")], {})
    assert memory_of(contest.configurations[0]) is None
    assert "memory" not in guide(contest)[0].text


def test_the_head_alone_on_kept_vectors_is_no_time_of_scoring() -> None:
    axis = BY_KEY["score_s"]
    assert axis.read(frozen("r", 8.0)) is None and axis.read(frozen("e", 8.0, kind="evaluation")) == 2.0


def test_a_cpu_is_named_by_its_model_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of(CPU) == "AMD EPYC, 2 cores" and device_of(CPU | {"machine.usable_cores": "1"}).endswith("1 core")
    assert device_of({"device": "cpu"}) == "cpu" and device_of(CPU | {"device": "NVIDIA L4"}) == "NVIDIA L4"
    text = "model,device\na,cpu\na,NVIDIA L4\n"
    monkeypatch.setattr("plmft.page.runs.artifact_text", lambda *_: text)
    info = SimpleNamespace(run_id="r", experiment_id="1", status="FINISHED", start_time=0)
    run = _benchmark(None, SimpleNamespace(info=info, data=SimpleNamespace(tags=CPU)))
    assert run.device == "AMD EPYC, 2 cores"
    assert [row["device"] for row in run.rows] == [run.device, "NVIDIA L4"]
