"""P-TRAIN and P-SCALE around the training command: what it is given, and what follows from its figures."""

from dataclasses import replace

import pytest
from hydra.utils import instantiate

from plmft import InputError
from plmft.bench import scaling, training
from plmft.bench.scaling import Scaling
from plmft.bench.train_command import Cell, Trained, _failed, _yaml, config_of
from plmft.bench.training import Training, state_and_activations
from plmft.bench.training_plan import Planned, plan_step
from plmft.config.check import check
from plmft.config.compose import parts_of
from plmft.training.launching import RankFailed
from tests.unit.bench_parts import small_bench

FIT = {"step_time_ms_p50": 90.0, "step_time_ms_mean": 100.0, "sequences_per_s": 80.0, "residues_per_s": 8000.0}


def protocol(bench, **changes):
    return replace(bench.parts["protocol"], **changes)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"), "protocol=training")


@pytest.fixture
def trained(monkeypatch):
    """Takes the place of the training command; a list of what it was asked, and the answers by tuning."""
    asked, answers = [], {}

    def train(bench, cell):
        asked.append(cell)
        answer = answers.get(cell.tuning, Trained(cost=FIT, energy_source="absent: no RAPL"))
        return answer.pop(0) if isinstance(answer, list) else answer

    monkeypatch.setattr(training, "train_apart", train)
    monkeypatch.setattr(scaling, "train_apart", train)
    return asked, answers


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen", "bias", "last_layers"])
def test_the_training_command_gets_a_config_that_it_takes(bench, tmp_path, tuning):
    config = config_of(bench, Cell(["MKV"] * 8, 4, 20, tuning, "fp32", True), tmp_path / "table.csv")
    check(config)
    parts = parts_of(config)
    assert parts["tuning"].name == tuning
    assert parts["optim"].total_steps(2) == 2
    assert (parts["batch_size"], parts["hardware"].tokens_per_batch) == (4, 20)
    assert parts["hardware"].gradient_checkpointing
    assert not parts["task"].head.normalize


def test_a_tuning_that_the_user_set_keeps_its_options(bench, tmp_path):
    bench.config["tuning"] |= {"rank": 3}
    parts = parts_of(config_of(bench, Cell(["MKV"], 1, 20, "lora", "fp32"), tmp_path / "table.csv"))
    assert parts["tuning"].rank == 3


def test_days_hours_and_usd_follow_from_the_step(bench, trained):
    bench = replace(bench, usd_per_hour=2.0)
    row = next(protocol(bench, tunings=["full"], sequences=1000, epochs=3).measure(bench))
    assert row["steps_per_day_projected"] == pytest.approx(864_000)
    assert row["epoch_h_projected"] == pytest.approx(1000 / 80 / 3600)
    assert row["hours_projected"] == pytest.approx(3000 / 80 / 3600)
    assert row["usd_projected"] == pytest.approx(2 * 3000 / 80 / 3600)
    assert "energy: no RAPL" in row["note"]


def test_a_frozen_backbone_reads_each_sequence_once(bench, trained):
    trained[1]["frozen"] = Trained(cost=FIT, embed={"sequences_per_s": 10.0})
    row = next(protocol(bench, tunings=["frozen"], sequences=1000, epochs=3).measure(bench))
    assert row["hours_projected"] == pytest.approx((3000 / 80 + 1000 / 10) / 3600)
    assert "usd_projected" not in row
    assert "no price per hour" in row["note"]


def test_runs_out_of_memory_are_counted_and_the_others_told(bench, trained):
    gone = Trained(reason="out of memory: killed", out_of_memory=True)
    slow = Trained(cost=FIT | {"step_time_ms_p50": 200.0})
    trained[1]["full"] = [gone, slow, Trained(cost=FIT), Trained(cost=FIT | {"step_time_ms_p50": 95.0})]
    row = next(protocol(bench, tunings=["full"], repeats=4).measure(bench))
    assert row["out_of_memory_count"] == 1.0
    assert row["step_time_ms_p50"] == 95.0
    assert "out of memory: killed" in row["note"]


def test_activations_are_told_apart_where_the_rest_is_known():
    run = Trained(cost={"peak_memory_gb": 10.0}, total=1e9, trainable=1e8)
    assert state_and_activations(run, "lora", "bf16") == {"state_gb": 5.2, "activations_gb": pytest.approx(4.8)}
    assert state_and_activations(run, "frozen", "bf16") == {}
    assert state_and_activations(run, "lora", "bf16_weights") == {}
    assert state_and_activations(Trained(cost=FIT, total=1e9), "lora", "bf16") == {}


def test_what_is_planned_not_to_fit_is_not_tried(bench, trained, monkeypatch):
    monkeypatch.setattr(training, "plan_step", lambda *_: Planned(80.0, 60.0, 4.0, 3))
    row = next(protocol(bench, tunings=["full"]).measure(bench))
    assert not trained[0]
    assert "planned to take 80.00 GB of 4.00 GB" in row["note"]
    assert "step_time_ms_p50" not in row


def test_checkpointing_and_smaller_batches_are_planned_to_take_less(bench):
    whole = plan_step(bench, "full", (128,) * 8, "fp32", False)
    again = plan_step(bench, "full", (128,) * 8, "fp32", True)
    assert again.activations_gb < whole.activations_gb
    assert plan_step(bench, "full", (128,) * 2, "fp32", False).peak_gb < whole.peak_gb
    assert whole.largest_batch > 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"tunings": ["lorra"]}, "no tuning 'lorra'"), ({"tunings": ["none"]}, "'none'"), ({"lengths": [5000]}, "1022")],
)
def test_mistakes_are_found_before_anything_runs(bench, trained, changes, told):
    with pytest.raises(InputError, match=told):
        next(protocol(bench, **changes).measure(bench))
    assert not trained[0]


def test_a_killed_process_is_out_of_memory_and_a_mistake_is_raised():
    assert _failed(RankFailed("Rank 0 was killed by SIGKILL; the run is marked FAILED.")).out_of_memory
    assert not _failed(RankFailed("Rank 0 failed.\nValueError: no")).out_of_memory
    with pytest.raises(InputError, match="a mistake"):
        _failed(InputError("a mistake"))


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(scaling, "device_count", lambda bench: 2)


def test_efficiency_is_against_one_device_of_this_machine(bench, trained, two_cores, monkeypatch):
    speeds = {(1, 8): 1000.0, (2, 8): 1500.0, (2, 16): 1900.0}

    def train(bench, cell):
        trained[0].append(cell)
        return Trained(cost={"residues_per_s": speeds[cell.devices, cell.batch]})

    monkeypatch.setattr(scaling, "train_apart", train)
    rows = list(Scaling([1, 2, 4], ["strong", "weak"], "ddp", "full", 8, 16, 6, 1).measure(bench))
    found = {(row["mode"], row["devices"]): row.get("efficiency") for row in rows}
    assert found["strong", 1] == found["weak", 1] == 1.0
    assert found["strong", 2] == pytest.approx(0.75)
    assert found["weak", 2] == pytest.approx(0.95)
    assert found["weak", 4] is None
    assert all("this machine has 2 cores" in row["note"] for row in rows if row["devices"] == 4)
    assert len(trained[0]) == 3  # one device is measured once for both modes
    assert {(cell.devices, cell.strategy, cell.threads) for cell in trained[0]} == {(1, "single", 1), (2, "ddp", 1)}


def test_a_step_must_have_a_sequence_for_each_device(bench, trained):
    with pytest.raises(InputError, match="fewer than 16 devices"):
        next(Scaling([16], ["strong"], "ddp", "full", 8, 16, 6, 1).measure(bench))


def test_training_is_a_protocol_of_the_config(bench):
    assert isinstance(bench.parts["protocol"], Training)


@pytest.mark.parametrize("name", ["cloud", "energy", "identity", "kernels", "loading", "scaling", "training"])
def test_the_protocols_of_costs_are_made_from_their_files(name):
    made = instantiate(_yaml("protocol", name), _convert_="all")
    assert made.fixes()
    assert set(getattr(made, "uses", ())) <= {"tuning", "optim", "data"}
