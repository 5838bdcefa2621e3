"""Mean and standard deviation of runs that differ in their seed alone.

The deviation is that of a sample (n - 1); of one run it is not defined, and left out. Costs nothing to speak of.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEED = "seed"
BESIDES = ("_ci_low", "_ci_high", "_ceiling")  # endings of what stands beside a result
Group = tuple[str, ...]


@dataclass(frozen=True)
class Child:
    """A job of a sweep, as it ended.

    Args:
        overrides: what its command line set, key to value. status: MLflow's. metrics: its last values.
        primary: the name of the task's primary metric, None where it isn't known. task: its name, likewise.
        reason: why it did not finish, where that is known.
    """

    overrides: Mapping[str, str]
    status: str
    metrics: Mapping[str, float]
    primary: str | None = None
    task: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Statistic:
    """A metric over the runs of a group.

    Args: group: values of the keys that vary beside the seed. sd: with n - 1; None for one run. n: runs that have it.
    """

    group: Group
    metric: str
    mean: float
    sd: float | None
    n: int


def varying(children: Sequence[Child]) -> tuple[str, ...]:
    """Keys other than the seed that don't have one value in all jobs, in the order of the command line."""
    keys = dict.fromkeys(key for child in children for key in child.overrides)
    return tuple(k for k in keys if k != SEED and len({child.overrides.get(k) for child in children}) > 1)


def statistics(children: Sequence[Child]) -> list[Statistic]:
    """Of each group of jobs that differ in the seed alone and each final metric: those that have FINISHED count.

    Final metrics are of the test splits and of the cost, without ends of intervals and ceilings. Groups come in order
    of the jobs; which keys vary is seen from all jobs, unfinished ones included.
    """
    return [
        _statistic(group, name, [child.metrics[name] for child in members if name in child.metrics])
        for group, members in groups(children).items()
        for name in dict.fromkeys(name for child in members for name in child.metrics if is_final(name))
    ]


def groups(children: Sequence[Child]) -> dict[Group, list[Child]]:
    """Those that have FINISHED, by their values of the varying keys."""
    keys = varying(children)
    found: dict[Group, list[Child]] = {}
    for child in children:
        if child.status == "FINISHED":
            found.setdefault(tuple(child.overrides.get(key, "") for key in keys), []).append(child)
    return found


def is_final(metric: str) -> bool:
    """Whether a metric's last value is a result: of a test split or of the cost."""
    part, _, name = metric.partition("/")
    if name.endswith(BESIDES) or name.startswith("records_"):
        return False
    return part in ("test", "cost") or part.startswith("test_")


def _statistic(group: Group, metric: str, values: Sequence[float]) -> Statistic:
    import numpy as np

    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Statistic(group, metric, float(np.mean(values)), sd, len(values))


def write_csv(file: Path, keys: Sequence[str], found: Iterable[Statistic]) -> None:
    """A row for each statistic: the varying keys, then metric, mean, sd (empty where not defined), n."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow((*keys, "metric", "mean", "sd", "n"))
        for s in found:
            table.writerow((*s.group, s.metric, s.mean, "" if s.sd is None else s.sd, s.n))
