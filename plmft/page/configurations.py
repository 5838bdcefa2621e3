"""Runs that differ in their seed alone are one configuration; configurations scored on the same records compare.

A contest is all configurations of a task whose test records are the same: by their ids and measured values where
predictions are kept, else by their number. Within it each is compared with each on paired resamples.
"""

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.page.costs import Cost
from plmft.page.evaluations import as_trained
from plmft.page.runs import Scored
from plmft.page.significance import (
    difference,
    of_configuration,
    predictions_of,
    resampled,
    statistic_of,
    unpaired,
)

SETTINGS = 3  # that a name tells at most


@dataclass(frozen=True)
class Configuration:
    """Repeats of one setting, the seeds in their order. name: tells it from the others of its contest."""

    name: str
    runs: tuple[Scored, ...]

    @property
    def first(self) -> Scored:
        """The one that stands for what they share."""
        return self.runs[0]

    @property
    def value(self) -> float:
        """Mean of the primary metric over seeds."""
        return statistics.fmean(run.value for run in self.runs if run.value is not None)

    @property
    def sd(self) -> float | None:
        """Over seeds; None for one."""
        values = [run.value for run in self.runs if run.value is not None]
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the only run, or the mean of the ends over seeds."""
        ends = [run.interval for run in self.runs if run.interval is not None]
        if not ends:
            return None
        return statistics.fmean(low for low, _ in ends), statistics.fmean(high for _, high in ends)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of its runs."""
        return tuple(run.run_id for run in self.runs)

    @property
    def records(self) -> int | None:
        """That it was trained on."""
        count = self.first.metrics.get("data/train")
        return None if count is None else int(count)

    def cost(self, axis: Cost) -> float | None:
        """Mean over the runs that measured it; None where none did."""
        found = [value for run in self.runs if (value := axis.read(run)) is not None]
        return statistics.fmean(found) if found else None


@dataclass
class Contest:
    """Configurations of a task on the same test records, best first.

    Args:
        p: (i, j) to the two-sided p of their difference; missing where it was not tested. gaps: (i, j) to the 95 %
            interval of i less j. reason: why there is no paired test, where there is none.
    """

    task: str
    primary: str
    test_records: int | None
    synthetic: bool
    configurations: list[Configuration]
    p: dict[tuple[int, int], float] = field(default_factory=dict)
    gaps: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    reason: str = ""
    key: str = ""

    @property
    def lower_is_better(self) -> bool:
        """Of its primary metric."""
        return self.primary in LOWER_IS_BETTER

    @property
    def devices(self) -> list[str]:
        """That its runs ran on."""
        return sorted({run.device for one in self.configurations for run in one.runs})

    def ordered(self) -> list[int]:
        """Numbers of configurations, best first."""
        sign = 1 if self.lower_is_better else -1
        return sorted(range(len(self.configurations)), key=lambda i: sign * self.configurations[i].value)

    def contenders(self) -> list[int]:
        """Those that fronts and choices are made of, best first: no random weights where pretrained ones are there."""
        firsts = [one.first for one in self.configurations]
        pretrained = any(run.is_backbone and not run.is_random for run in firsts)
        return [number for number in self.ordered() if not (pretrained and firsts[number].is_random_backbone)]


def contests(runs: Sequence[Scored], predictions: Mapping[str, Path]) -> list[Contest]:
    """All contests, by task, the largest test set first. Args: predictions: run id to its predictions.parquet."""
    tables = {run_id: predictions_of(file) for run_id, file in predictions.items()}
    groups: dict[tuple, list[Scored]] = {}
    for run in map(as_trained, runs):
        if run.value is not None:
            groups.setdefault((run.task, run.primary, _test_of(run, tables)), []).append(run)
    found = [_contest(task, primary, members, tables) for (task, primary, _), members in groups.items()]
    found.sort(key=lambda contest: (contest.task, -(contest.test_records or 0)))
    for number, contest in enumerate(found):
        contest.key = f"contest-{number}"
    return found


def _test_of(run: Scored, tables: Mapping[str, object]) -> str:
    count = f"{run.metrics.get('data/test', 0):.0f}"
    table = tables.get(run.run_id)
    if table is None or "measured" not in table:
        return count
    text = "\n".join(f"{i}\t{m}" for i, m in zip(table["id"], table["measured"], strict=True))
    return f"{count} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _contest(task: str, primary: str, runs: Sequence[Scored], tables: Mapping[str, object]) -> Contest:
    records = runs[0].metrics.get("data/test")
    count = None if records is None else int(records)
    synthetic = any(run.synthetic for run in runs)
    contest = Contest(task, primary, count, synthetic, _configurations(runs))
    contest.configurations = [contest.configurations[i] for i in contest.ordered()]
    _compare(contest, tables)
    return contest


def _configurations(runs: Sequence[Scored]) -> list[Configuration]:
    groups: dict[tuple, list[Scored]] = {}
    for run in runs:
        same = (run.kind, run.model, run.tuning, run.weights, run.device, run.metrics.get("data/train"), run.settings)
        groups.setdefault(same, []).append(run)
    newest = [_newest_of_each_seed(members) for members in groups.values()]
    return [Configuration(name, members) for name, members in zip(_names(newest), newest, strict=True)]


def _newest_of_each_seed(runs: Sequence[Scored]) -> tuple[Scored, ...]:
    """The same run twice is no second seed."""
    return tuple(sorted({run.seed: run for run in runs}.values(), key=lambda run: run.seed))


def _names(groups: Sequence[Sequence[Scored]]) -> list[str]:
    """Model and tuning, and of what else differs between those of one name, as little as tells them apart."""
    plain = [_plain_name(runs[0]) for runs in groups]
    names = []
    for name, runs in zip(plain, groups, strict=True):
        alike = [other[0] for other, shared in zip(groups, plain, strict=True) if shared == name]
        names.append(", ".join([name, *_differing(runs[0], alike)]))
    return names


def _plain_name(run: Scored) -> str:
    """Random weights are said wherever a model's name stands for its quality."""
    other = run.trained is not None and run.trained.task != run.task
    parts = (
        f"{run.model} {run.tuning}".strip(),
        "random weights" if run.is_random_backbone else "",
        f"tuned on {run.trained.task}" if other else "",
    )
    return ", ".join(filter(None, parts))


def _differing(run: Scored, alike: Sequence[Scored]) -> list[str]:
    """Texts of what tells a run from those of the same model and tuning."""
    records = run.metrics.get("data/train")
    words = {
        "records": "" if records is None else f"{records:,.0f} records",
        "kind": run.kind,
        "device": run.device,
        "precision": run.precision,
    }
    found = {name: {_word(other, name) for other in alike} for name in words}
    own, known = dict(run.settings), [dict(other.settings) for other in alike]
    keys = [key for key in own if len({settings.get(key) for settings in known}) > 1 and not key.startswith("limit.")]
    shown = [text for name, text in words.items() if text and len(found[name]) > 1]
    return [*shown, *(f"{key}={own[key]}" for key in keys[:SETTINGS])]


def _word(run: Scored, name: str) -> object:
    return run.metrics.get("data/train") if name == "records" else getattr(run, name)


def _compare(contest: Contest, tables: Mapping[str, object]) -> None:
    """Fill in p and gaps, paired where every run has its predictions, else from the intervals."""
    values = _resampled(contest, tables)
    sets = contest.configurations
    for i, first in enumerate(sets):
        for j in range(i + 1, len(sets)):
            if values is not None:
                found = difference(values[i], values[j])
                if found:
                    low, high, p = found
                    contest.gaps[i, j], contest.gaps[j, i] = (low, high), (-high, -low)
                    contest.p[i, j] = contest.p[j, i] = p
            elif first.interval and sets[j].interval:
                p = unpaired(first.interval, sets[j].interval, first.value - sets[j].value)
                contest.p[i, j] = contest.p[j, i] = p


def _resampled(contest: Contest, tables: Mapping[str, object]) -> list[np.ndarray] | None:
    runs = [run for one in contest.configurations for run in one.runs]
    if any(run.run_id not in tables for run in runs):
        contest.reason = "not all of these runs keep their predictions: p comes from the intervals, unpaired"
        return None
    statistics_ = [statistic_of(tables[run.run_id], contest.primary) for run in runs]
    reasons = [one for one in statistics_ if isinstance(one, str)]
    if reasons:
        contest.reason = f"{reasons[0]}: p comes from the intervals, unpaired"
        return None
    table = resampled(statistics_, len(tables[runs[0].run_id]))
    ends = np.cumsum([len(one.runs) for one in contest.configurations])
    return [of_configuration(part) for part in np.split(table, ends[:-1])]
