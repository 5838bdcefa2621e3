"""A search: its space, and a study that goes on after it was interrupted as if it had not been."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from plmft import InputError
from plmft.sweeps.space import check_searchable, corners, space_of

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from plmft.sweeps.search import STUDY, TRIAL, Search, found, own_trial  # noqa: E402

TRAINED = {
    "model": {"_target_": "plmft.models.spec.TransformerSpec"},
    "tuning": {"_target_": "plmft.models.tuning.LoRA"},
    "task": {},
}


def parsed(*lines: str) -> list:
    return OverridesParser.create().parse_overrides(list(lines))


def test_the_space_in_hydras_syntax():
    lines = ("a=interval(0,1)", "b=tag(log,interval(1e-5,1e-2))", "c=int(interval(1,8))", "d=range(1,9,2)")
    assert space_of(parsed(*lines, "e=choice(x,'y z')", "+f=1,2", "g=5")) == {
        "a": FloatDistribution(0, 1),
        "b": FloatDistribution(1e-5, 1e-2, log=True),
        "c": IntDistribution(1, 8),
        "d": IntDistribution(1, 7, step=2),
        "e": CategoricalDistribution(["x", "y\\ z"]),
        "+f": CategoricalDistribution(["1", "2"]),
    }


def test_each_choice_and_each_end_is_checked_once():
    lines = corners(parsed("a=interval(0,2)", "b=x,y,z", "c=5"))
    assert lines == [["a=0.0", "b=x", "c=5"], ["a=2.0", "b=y", "c=5"], ["a=2.0", "b=z", "c=5"]]


@pytest.mark.parametrize(
    ("lines", "changes", "told"),
    [
        (["optim.lr=1e-3"], {}, "nothing varies"),
        (["seed=0,1"], {}, "luckiest"),
        (["task=gb1,stability"], {}, "different tasks"),
        (["optim.lr=1,2"], {"model": {"_target_": "plmft.models.direct_spec.MajoritySpec"}}, "validations"),
        (["optim.lr=1,2"], {"task": {"attention": True}}, "validations"),
    ],
)
def test_what_cannot_be_searched(lines, changes, told):
    with pytest.raises(InputError, match=told):
        check_searchable(TRAINED | changes, parsed(*lines))


def search(folder: Path, *, metric: str = "spearman", space: dict | None = None, **options) -> Search:
    options = {"seed": 0, "startup": 2, "prune": True} | options
    return Search(folder, space or {"lr": FloatDistribution(0, 1)}, metric=metric, **options)


def run(folder: Path, number: int, values: list[float], monkeypatch) -> None:
    """What a job does: report each validation, until it is behind."""
    monkeypatch.setenv(TRIAL, str(number))
    trial = own_trial(folder)
    for epoch, value in enumerate(values, 1):
        trial.report(value, epoch)
        if trial.should_prune():
            trial.set_user_attr("pruned", True)
            return


def searched(folder: Path, count: int, monkeypatch, *, stop_at: int | None = None) -> None:
    """Trials one after the other, whose score is their value; stop_at: one is left half done."""
    ours = search(folder)
    while ours.finished() < count:
        ((number, values),) = ours.next(1, set()).items()
        run(folder, number, [values["lr"] / 2, values["lr"]], monkeypatch)
        if number == stop_at:
            return
        ours.tell(number)


def trials(folder: Path) -> list[tuple]:
    study = optuna.load_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / STUDY))),
    )
    return [(t.number, t.params, t.value, t.state.name) for t in study.trials]


def test_an_interrupted_search_comes_to_the_same_trials(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    searched(whole, 6, monkeypatch)
    searched(cut, 6, monkeypatch, stop_at=3)
    with (cut / STUDY).open("a") as file:
        file.write('{"op_code": 4, "worker')  # a kill in the middle of a line
    searched(cut, 6, monkeypatch)
    assert trials(cut) == trials(whole)
    states = [state for *_, state in trials(whole)]
    assert states[:2] == ["COMPLETE"] * 2 and set(states) == {"COMPLETE", "PRUNED"}
    came_to = found(whole)
    assert came_to.score == max(value for _, _, value, state in trials(whole) if state == "COMPLETE")
    assert came_to.finished + came_to.pruned == 6
    assert str(came_to).startswith(f"Best of 6 trials, {came_to.pruned} of them pruned: lr=")


def test_a_lower_metric_is_searched_for_where_lower_is_better(tmp_path, monkeypatch):
    ours = search(tmp_path, metric="rmse", prune=False)
    for number, values in ours.next(3, set()).items():
        run(tmp_path, number, [values["lr"], 1.0], monkeypatch)
        ours.tell(number)
    values = [value for _, _, value, _ in trials(tmp_path)]
    assert [state for *_, state in trials(tmp_path)] == ["COMPLETE"] * 3, "nothing is pruned"
    assert found(tmp_path).score == min(values)


def test_open_trials_come_first_and_once(tmp_path):
    ours = search(tmp_path)
    first = ours.next(2, set())
    again = search(tmp_path).next(3, set())
    assert dict(list(again.items())[:2]) == first, "the same values again"
    assert not ours.next(1, set(again)).keys() & again.keys()


def test_values_that_were_run_before_have_their_score(tmp_path, monkeypatch):
    ours = search(tmp_path, space={"lr": CategoricalDistribution(["1"])})
    for number in ours.next(2, set()):
        if number == 0:
            run(tmp_path, number, [0.25, 0.5], monkeypatch)
        ours.tell(number)
    assert [value for _, _, value, _ in trials(tmp_path)] == [0.5, 0.5]


def test_a_trial_without_a_defined_validation_does_not_count(tmp_path, monkeypatch):
    ours = search(tmp_path)
    (number,) = ours.next(1, set())
    run(tmp_path, number, [float("nan")], monkeypatch)
    ours.tell(number)
    assert ours.finished() == 0 and found(tmp_path) is None


def test_outside_of_a_search_there_is_no_trial(tmp_path, monkeypatch):
    monkeypatch.delenv(TRIAL, raising=False)
    assert own_trial(tmp_path) is None and found(tmp_path) is None
