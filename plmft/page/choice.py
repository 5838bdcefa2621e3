"""The guide's rule: which configuration of a contest to take within limits. The page's form follows the same rule.

1. Those whose known cost is within the limits are allowed; random weights only where nothing is pretrained. 2. Of these
the best on the test set is found. 3. Those that the test set cannot tell from it (two-sided p of at least 0.05 after
Holm's correction) are as good. 4. The one of these that trains fastest is taken. Training times of another device than
the best one's are not compared.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from plmft.page.configurations import Configuration, Contest
from plmft.page.costs import BY_KEY
from plmft.page.significance import LEVEL, holm


@dataclass(frozen=True)
class Limits:
    """What there is; None: not limited.

    Args: records: to train on. memory_gb: peak of the accelerator, or of the host where the run used none.
        hours, usd: of training. device: as plmft.page.runs names it.
    """

    records: int | None = None
    memory_gb: float | None = None
    hours: float | None = None
    usd: float | None = None
    device: str | None = None


@dataclass(frozen=True)
class Choice:
    """Numbers of configurations of a contest: the one to take, the best, those that are as good; p against the best."""

    take: int
    best: int
    as_good: tuple[int, ...]
    p: dict[int, float]


def allowed(contest: Contest, limits: Limits) -> Iterator[int]:
    """Those within all limits, best first; one whose cost was not measured is not."""
    for number in contest.contenders():
        one = contest.configurations[number]
        train_s, usd = one.cost(BY_KEY["train_s"]), one.cost(BY_KEY["usd"])
        pairs = (
            (limits.records, one.records),
            (limits.memory_gb, memory_of(one)),
            (limits.hours, None if train_s is None else train_s / 3600),
            (limits.usd, usd),
        )
        fits = all(limit is None or (value is not None and value <= limit) for limit, value in pairs)
        if fits and limits.device in (None, one.first.device):
            yield number


def memory_of(one: Configuration) -> float | None:
    """Peak in GB: of the accelerator, or of the host where none was used."""
    return one.cost(BY_KEY["gpu_gb" if on_accelerator(one) else "host_gb"])


def on_accelerator(one: Configuration) -> bool:
    """Whether its memory is an accelerator's, measured in all phases or not."""
    return any("cost/peak_memory_gb" in run.costs for run in one.runs)


def choose(contest: Contest, limits: Limits = Limits()) -> Choice | None:
    """By the rule above; None: nothing is within the limits."""
    within = list(allowed(contest, limits))
    if not within:
        return None
    best, *others = within
    adjusted = holm([contest.p.get((best, number)) for number in others])
    p = {number: value for number, value in zip(others, adjusted, strict=True) if value is not None}
    as_good = tuple(number for number in others if p.get(number, 0.0) >= LEVEL)
    device = contest.configurations[best].first.device
    cheapest = [number for number in (best, *as_good) if contest.configurations[number].first.device == device]
    take = min(cheapest, key=lambda number: _time(contest.configurations[number]))
    return Choice(take, best, as_good, p)


def _time(one: Configuration) -> float:
    seconds = one.cost(BY_KEY["train_s"])
    return float("inf") if seconds is None else seconds
