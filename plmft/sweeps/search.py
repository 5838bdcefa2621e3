"""A search by Optuna over the jobs of a sweep: its study on disk, and what it came to.

The study is <sweep>/study.log, a journal of Optuna's: it takes several writers, also on a network's file system. Trials
are chosen by TPE with a seed of their own each, so a search that was interrupted goes on to the same trials. A trial
whose job failed or was killed stays open, and the same command runs it again with the same values. Scores are the
validation's, the best of a trial's validations; the test split chooses nothing. A choice takes some 10 ms.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plmft.metrics.evaluate import LOWER_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

TRIAL = "PLMFT_TRIAL"  # the number of this process's trial in the study of its sweep
STUDY, NAME = "study.log", "sweep"
METRIC, LOWER, UNPRUNED, PRUNED = "metric", "lower_is_better", "unpruned", "pruned"  # attributes in the study


class Search:
    """The study of a sweep's folder, made if it is missing.

    Args:
        space: by key. metric: of the validation, which is searched for. seed: of all choices.
        startup: trials that are drawn at random and not pruned. prune: end trials that are behind the median early.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, "BaseDistribution"],
        *,
        metric: str,
        seed: int,
        startup: int,
        prune: bool,
    ) -> None:
        import optuna

        lower = metric in LOWER_IS_BETTER
        _mend(folder / STUDY)
        self._space, self._seed, self._startup = dict(space), seed, startup
        with _quiet():
            self._study = optuna.create_study(
                storage=_storage(folder),
                study_name=NAME,
                direction="minimize" if lower else "maximize",
                load_if_exists=True,
            )
        about = {METRIC: metric, LOWER: lower, UNPRUNED: startup if prune else None}
        for name, value in about.items():
            self._study.set_user_attr(name, value)

    def finished(self) -> int:
        """Trials that went to their end, or were pruned."""
        return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self._study.trials)

    def next(self, count: int, tried: set[int]) -> dict[int, dict[str, object]]:
        """Values by trial to run: those that are open and not in `tried`, then new ones."""
        for trial in self._open():
            if trial.params.keys() != self._space.keys():  # its choice was interrupted
                self._study.tell(trial.number, state=_state("FAIL"))
        trials = [trial for trial in self._open() if trial.number not in tried][:count]
        while len(trials) < count:
            trials.append(self._new(many=count > 1))
        return {trial.number: trial.params for trial in trials}

    def _open(self) -> list["FrozenTrial"]:
        return [trial for trial in self._study.trials if trial.state.name == "RUNNING"]

    def _new(self, many: bool) -> "FrozenTrial":
        from optuna.samplers import TPESampler

        number = len(self._study.trials)
        with _quiet():
            self._study.sampler = TPESampler(
                seed=self._seed + number, n_startup_trials=self._startup, constant_liar=many
            )
            asked = self._study.ask(fixed_distributions=self._space)
        return self._study.trials[asked.number]

    def tell(self, number: int) -> None:
        """The trial's job has finished: close the trial with the best of its validations."""
        trial = self._study.trials[number]
        reported = trial if trial.intermediate_values else self._twin(trial)  # the same values were run before
        best = best_of(reported, lower=self._study.user_attrs[LOWER]) if reported else None
        if best is None:
            self._study.tell(number, state=_state("FAIL"))
        elif reported.user_attrs.get(PRUNED):
            self._study.tell(number, state=_state("PRUNED"))
        else:
            self._study.tell(number, best)

    def _twin(self, trial: "FrozenTrial") -> "FrozenTrial | None":
        twins = [other for other in self._study.trials if other.params == trial.params and other.intermediate_values]
        return twins[0] if twins else None


@dataclass(frozen=True)
class Found:
    """What a search came to. Args: params: of the best trial, by key. score: its validation metric."""

    metric: str
    number: int
    params: dict[str, object]
    score: float
    finished: int
    pruned: int
    figure: "Figure"

    def __str__(self) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.params.items())
        told = f"Best of {self.finished + self.pruned} trials, {self.pruned} of them pruned: {values}"
        return f"{told}  (validation {self.metric} {self.score:.3f}, trial {self.number})"


def found(folder: Path) -> Found | None:
    """None where the sweep is no search, or no trial of it has gone to its end."""
    from plmft.sweeps.plots import search_history

    if not (folder / STUDY).exists():
        return None
    study = _load(folder)
    ended = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if not ended:
        return None
    metric, lower, best = study.user_attrs[METRIC], study.user_attrs[LOWER], study.best_trial
    scores = {trial.number: trial.value for trial in ended}
    cut = {t.number: best_of(t, lower=lower) for t in study.trials if t.state.name == "PRUNED"}
    reached = {number: value for number, value in cut.items() if value is not None}
    figure = search_history(scores, reached, metric=metric, lower=lower)
    return Found(metric, best.number, best.params, best.value, len(ended), len(cut), figure)


def best_of(trial: "FrozenTrial", *, lower: bool) -> float | None:
    """The best of a trial's validations; None where none was defined."""
    values = [value for value in trial.intermediate_values.values() if value == value]  # NaN isn't
    return (min if lower else max)(values, default=None)


def own_trial(folder: Path) -> "Trial | None":
    """The trial that this process's job is; None outside of a search."""
    from optuna import Trial

    if TRIAL not in os.environ:
        return None
    study = _load(folder)
    return Trial(study, study.trials[int(os.environ[TRIAL])]._trial_id)


def _load(folder: Path) -> "Study":
    import optuna

    with _quiet():
        study = optuna.load_study(study_name=NAME, storage=_storage(folder))
    study.pruner = _pruner(study.user_attrs[UNPRUNED])
    return study


def _pruner(unpruned: int | None) -> "BasePruner":
    from optuna.pruners import MedianPruner, NopPruner

    return NopPruner() if unpruned is None else MedianPruner(n_startup_trials=unpruned)


def _storage(folder: Path) -> "BaseStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / STUDY)))


def _state(name: str) -> object:
    from optuna.trial import TrialState

    return TrialState[name]


def _mend(file: Path) -> None:
    """Drop a line that its writer was killed in: Optuna would refuse all that follows it."""
    whole = file.read_bytes() if file.exists() else b""
    if whole and not whole.endswith(b"\n"):
        os.truncate(file, whole.rfind(b"\n") + 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's lines on each trial, and its remarks on what it calls experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
