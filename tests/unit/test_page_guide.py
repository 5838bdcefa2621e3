"""What to take: the rule, the front, and that the guide says what it does not know."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.page.blocks import Table
from plmft.page.choice import Limits, choose
from plmft.page.configurations import Contest, contests
from plmft.page.costs import BY_KEY
from plmft.page.evaluations import without_rescores
from plmft.page.guide import guide
from plmft.page.runs import INDIFFERENT, Scored, _scored, read_rows, read_runs
from plmft.page.task_sections import chooser_data, front, fronts, task_sections
from tests.unit.page_runs import predictions, scored

AXES = ("cost/wall_time_s", "cost/peak_host_memory_gb")


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    """Good and slow; as good and fast; bad and fastest."""
    folder = tmp_path_factory.mktemp("predictions")
    runs = [
        scored("slow", 0.9, model="esm2_35m", costs={"cost/wall_time_s": 500.0, "cost/peak_host_memory_gb": 4.0}),
        scored("fast", 0.89, tuning="lora", costs={"cost/wall_time_s": 50.0}),
        scored("bad", 0.5, tuning="frozen", costs={"cost/wall_time_s": 5.0, "cost/peak_host_memory_gb": 1.0}),
    ]
    noise = {"slow": (0.3, 1), "fast": (0.3, 2), "bad": (3.0, 3)}
    files = {
        name: predictions(folder / f"{name}.parquet", size, seed=seed, order=seed)
        for name, (size, seed) in noise.items()
    }
    (found,) = contests(runs, files)
    return found


def name_of(contest: Contest, limits: Limits) -> str | None:
    choice = choose(contest, limits)
    return None if choice is None else contest.configurations[choice.take].first.run_id


def test_of_those_that_cannot_be_told_apart_the_fastest_is_taken(contest: Contest) -> None:
    choice = choose(contest)
    assert [contest.configurations[i].first.run_id for i in (choice.best, choice.take)] == ["slow", "fast"]
    assert [contest.configurations[i].first.run_id for i in choice.as_good] == ["fast"]
    assert not contest.reason, "the test is a paired one"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(memory_gb=1.5), "bad"),
        (Limits(hours=0.001), None),
        (Limits(hours=10 / 3600), "bad"),
        (Limits(records=999), None),
        (Limits(usd=1e9), None),  # no run has a price: that it is within the limit is not known
        (Limits(device="NVIDIA H200"), None),
    ],
)
def test_only_what_is_known_to_be_within_the_limits_is_taken(
    contest: Contest, limits: Limits, expected: str | None
) -> None:
    assert name_of(contest, limits) == expected


def test_seeds_are_one_configuration_and_other_settings_are_not() -> None:
    runs = [scored(f"s{seed}", 0.6 + seed / 10, seed=str(seed)) for seed in range(3)]
    runs += [scored("other", 0.5, settings=(("optim.lr", "1"),)), scored("again", 0.9, seed="0")]
    (found,) = contests(runs, {})
    assert [one.ids for one in found.configurations] == [("again", "s1", "s2"), ("other",)], "the newest of a seed"
    assert found.configurations[0].value == pytest.approx((0.9 + 0.7 + 0.8) / 3)
    assert found.configurations[0].sd == pytest.approx(0.1)


def test_other_test_records_are_another_contest(tmp_path: Path) -> None:
    files = {
        "a": predictions(tmp_path / "a", 1, count=100),
        "b": predictions(tmp_path / "b", 1, count=100, order=5),
        "c": predictions(tmp_path / "c", 1, count=99),
    }
    found = contests([scored(name, 0.5, tuning=name) for name in files], files)
    assert sorted(sorted(one.first.run_id for one in each.configurations) for each in found) == [["a", "b"], ["c"]]


def test_each_sentence_names_runs_that_are_there_and_gaps_are_said(contest: Contest) -> None:
    said = guide(contest)
    known = {run.run_id for one in contest.configurations for run in one.runs}
    assert said[0].tone == "answer" and said[0].text.startswith("Take esm2_8m lora: spearman 0.890")
    assert all(set(one.runs) <= known for one in said)
    assert all(one.runs for one in said if one.tone != "gap")
    gaps = " ".join(one.text for one in said if one.tone == "gap")
    assert all(word in gaps for word in ("seed", "Energy: absent", "no price", "Other hardware"))
    assert "Pretraining" not in gaps and "lora" not in gaps.partition("Tuning")[2]


def test_random_weights_are_told(contest: Contest) -> None:
    runs = [replace(one.first, weights="random") for one in contest.configurations]
    (found,) = contests(runs, {})
    said = guide(found)
    assert said[0].text.startswith("Take esm2_35m full, random weights: ")
    assert any(one.text.startswith("Pretraining: every") for one in said)


def test_random_weights_leave_the_field_to_pretrained_ones_and_to_nothing_else() -> None:
    random, onehot = scored("r", 0.9, weights="random"), scored("o", 0.8, model="onehot_cnn", weights="random")
    (alone,) = contests([random, onehot], {})
    assert name_of(alone, Limits()) == "r" and "Take esm2_8m full, random weights: " in guide(alone)[0].text
    (found,) = contests([random, onehot, scored("p", 0.5)], {})
    assert [one.name for one in found.configurations] == [
        "esm2_8m full, random weights",
        "onehot_cnn full",
        "esm2_8m full",
    ]
    assert name_of(found, Limits()) == "o" and fronts(found, BY_KEY["train_s"]) == [[1]]
    assert chooser_data(found, "t")["order"] == [1, 2], "the form follows the same rule"
    (told,) = [one for one in guide(found) if one.text.startswith("Pretraining")]
    assert "esm2_8m full, random weights began" in told.text and told.runs == ("r",)


def test_what_is_no_better_than_chance_is_told() -> None:
    said = []
    for value in (0.1, 0.4):
        metrics = {"test/spearman": value, "test/spearman_ci_low": value - 0.2, "test/spearman_ci_high": value + 0.2}
        (found,) = contests([replace(scored("a", value), metrics=metrics)], {})
        said.append([one.runs for one in guide(found) if one.text.startswith("Chance gives 0")])
    assert said == [[("a",)], []]


def test_the_guide_goes_down_on_the_device_of_its_choice() -> None:
    spent = (("cpu", 0.9, 100.0, 8.0), ("cpu", 0.7, 50.0, 4.0), ("L4", 0.8, 70.0, 4.0), ("L4", 0.6, 1.0, 5.0))
    runs = [
        scored(f"{i}", value, device=device, settings=(("n", f"{i}"),), costs=dict(zip(AXES, costs, strict=True)))
        for i, (device, value, *costs) in enumerate(spent)
    ]
    (found,) = contests(runs, {})
    steps = [one for one in guide(found) if one.text.startswith("With at most")]
    limits = ["With at most 4 GB of memory on cpu", "With at most 50 s of training on cpu"]
    assert [(one.runs, one.text.partition(":")[0]) for one in steps] == [(("1",), limit) for limit in limits]
    each = [[found.configurations[i].first.run_id for i in one] for one in fronts(found, BY_KEY["train_s"])]
    assert each == [["3", "2"], ["1", "0"]], "a front for each device"


def test_a_count_that_is_not_known_is_not_named() -> None:
    runs = [scored("a", 0.5), replace(scored("b", 0.4), metrics={"test/spearman": 0.4, "data/test": 100.0})]
    (found,) = contests(runs, {})
    assert [one.name for one in found.configurations] == ["esm2_8m full, 1,000 records", "esm2_8m full"]
    (known, *_) = (one for one in task_sections([found], []) if one.blocks)
    assert "0 records" not in " ".join(block.caption for block in known.blocks if isinstance(block, Table))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_front_is_all_that_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    runs = [
        scored(str(i), value / 10, settings=(("n", str(i)),), costs={"cost/wall_time_s": float(cost)})
        for i, (value, cost) in enumerate(pairs)
    ]
    (contest,) = contests(runs, {})
    axis = BY_KEY["train_s"]
    points = [(one.value, one.cost(axis)) for one in contest.configurations]
    expected = {
        point for point in points if not any((v >= point[0] and c <= point[1]) and (v, c) != point for v, c in points)
    }
    found = [points[i] for i in front(contest, axis, "cpu")]
    assert set(found) == expected and len(found) == len(expected), "each point once"


def test_an_evaluation_has_no_training_time_and_a_model_without_training_none_to_pay() -> None:
    axis = BY_KEY["train_s"]
    assert axis.read(scored("e", 0.5, kind="evaluation", metrics={"data/train": 0.0})) is None
    assert axis.read(scored("z", 0.5, tuning="none", metrics={"data/train": 0.0})) == 0
    assert axis.read(scored("f", 0.5, costs={"cost/embed/wall_time_s": 11.0})) == 111
    assert axis.read(scored("n", 0.5, costs={"cost/wall_time_s": None})) is None


def evaluated(run_id: str, value: float, **changes: object) -> Scored:
    """An evaluation of `run`, which cost nothing but its own pass."""
    costs = {"cost/wall_time_s": None, "cost/peak_host_memory_gb": None, "cost/test/wall_time_s": 3.0}
    return scored(run_id, value, costs=costs, **{"kind": "evaluation", "parent": "run"} | changes)


def test_a_run_that_is_scored_again_is_no_second_configuration_and_other_records_are(tmp_path: Path) -> None:
    run, same, part, other = scored("run", 0.5), evaluated("e", 0.5), evaluated("f", 0.4), evaluated("g", 0.3)
    runs = [run, same, part, other, evaluated("h", 0.2, task="stability"), evaluated("i", 0.1, parent="unknown")]
    assert [one.run_id for one in without_rescores(runs, {})] == ["run", "h", "i"], "as many records are the same"
    files = {name: predictions(tmp_path / name, 0.5) for name in ("run", "e", "f", "g")}
    for name, kept, shift in (("f", 50, 0.0), ("g", 50, 1.0)):
        table = pd.read_parquet(files[name]).head(kept)
        table.assign(measured=table["measured"] + shift).to_parquet(files[name], index=False)
    assert [one.run_id for one in without_rescores(runs, files)] == ["run", "g", "h", "i"]


def test_an_evaluation_costs_what_the_training_of_its_model_did(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored(run_id: str, metrics: dict[str, float], params: dict[str, str], **tags: str) -> SimpleNamespace:
        known = {"primary_metric": "spearman", "model": "esm2_8m", "tuning": "full", "device": "cpu"}
        data = SimpleNamespace(tags=known | tags, params=params, metrics={"test/spearman": 0.5} | metrics)
        info = SimpleNamespace(run_id=run_id, experiment_id="1", status="FINISHED", start_time=0)
        return SimpleNamespace(info=info, data=data)

    trained = {"data/train": 700.0, "data/test": 90.0, "cost/wall_time_s": 60.0, "cost/test/wall_time_s": 9.0}
    scores = {"data/train": 21446.0, "data/test": 300.0, "cost/test/wall_time_s": 3.0}
    kinds = {"plmft.kind": "evaluation", "plmft.parent_run": "run", "task": "stability"}
    runs = [
        *(stored(f"run{i or ''}", trained, {"seed": f"{i}"}, task="fluorescence") for i in range(2)),
        stored("same", scores, {"seed": "0", "run.run_id": "run"}, **kinds),
        stored("seed", scores, {"seed": "0", "run.run_id": "run1"}, **kinds | {"plmft.parent_run": "run1"}),
        stored("lost", scores, {"seed": "0"}, **kinds | {"plmft.parent_run": "deleted", "model": "esm2_35m"}),
        stored("gpu", scores, {"seed": "0"}, **kinds | {"device": "H200", "model": "esm2_650m"}),
    ]
    monkeypatch.setattr("plmft.page.runs.experiments", lambda client, uri: {})
    monkeypatch.setattr("plmft.page.runs.all_runs", lambda *_: runs)
    (contest,) = contests(read_runs(None, "", "stability").scored, {})
    found = {one.ids: one for one in contest.configurations}
    both, lost, gpu = found["same", "seed"], found["lost",], found["gpu",]
    assert both.name.startswith("esm2_8m full, tuned on fluorescence")
    figures = [[one.cost(BY_KEY[key]) for key in ("train_s", "train_n", "score_s")] for one in (both, lost, gpu)]
    assert figures == [[60.0, 700.0, 3.0], [None, None, 3.0], [60.0, 700.0, None]]
    assert (both.records, lost.records, gpu.first.device) == (700, None, "cpu")
    assert not [one for one in guide(contest) if "seed" in one.text and "run" in one.text.split()], "nothing to train"


def test_a_price_or_a_data_folder_makes_no_other_configuration_and_a_learning_rate_does() -> None:
    """The store's parameters as they are; hardware that changes a cost does."""
    assert "hardware.usd_per_hour".startswith(INDIFFERENT) and "data.dir".startswith(INDIFFERENT)
    assert not "optim.lr".startswith(INDIFFERENT) and not "hardware.precision".startswith(INDIFFERENT)


def test_what_is_no_number_is_not_measured() -> None:
    """Browsers' JSON knows no NaN; a page with one would not open."""
    rows = list(read_rows("model,step_time_ms_p50\na,nan\n"))
    assert rows == [{"model": "a", "step_time_ms_p50": "nan"}]
    data = SimpleNamespace(
        tags={"primary_metric": "spearman"},
        params={},
        metrics={"test/spearman": float("nan"), "cost/usd": float("inf")},
    )
    info = SimpleNamespace(run_id="r", experiment_id="1", start_time=0)
    run = _scored(SimpleNamespace(data=data, info=info))
    assert run.value is None and not run.costs


def test_training_times_of_two_devices_are_not_compared() -> None:
    ends = {"test/spearman_ci_low": 0.5, "test/spearman_ci_high": 0.7}
    runs = [
        scored("best", 0.61, tuning="full", metrics=ends),
        scored("same", 0.60, tuning="lora", metrics=ends, costs={"cost/wall_time_s": 90.0}),
        scored("elsewhere", 0.60, tuning="frozen", metrics=ends, device="NVIDIA L4", costs={"cost/wall_time_s": 1.0}),
    ]
    (contest,) = contests(runs, {})
    assert name_of(contest, Limits()) == "same", "as good by their intervals"
    assert contest.reason and name_of(contest, Limits(device="NVIDIA L4")) == "elsewhere"
