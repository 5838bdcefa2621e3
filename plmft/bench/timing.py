"""Time calls so that a difference is a difference: warmed up until stable, in blocks, rivals taking turns.

A block repeats a call for a quarter of a second or more, so that what a clock or a scheduler adds is small; blocks of
rivals alternate, so that a machine that slows down slows all of them. Every single call is kept, for percentiles.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

Call = Callable[[], object]
PERCENTILES = {"p50": 1, "p25": 4, "p75": 4, "p95": 20, "p99": 100}  # and how many calls each needs
GROUP = 3  # calls whose median is compared while warming up


@dataclass(frozen=True)
class Timing:
    """How long to measure.

    Args:
        blocks: of each call; rivals alternate by block. block_s: seconds of a block, at least.
        least_calls: of all blocks together, at least.
        warmup_s: seconds after which warming up ends also where it has not become stable.
        most_s: seconds of calls of one rival, after which no further round begins.
        tolerance: by which the medians of two groups of calls may differ once it is stable.
    """

    blocks: int
    block_s: float
    least_calls: int
    warmup_s: float
    most_s: float = math.inf
    tolerance: float = 0.05


@dataclass
class Timed:
    """The calls of one rival, in seconds, by block; and whether it was stable before the first."""

    stable: bool
    warmup_calls: int
    blocks: list[list[float]] = field(default_factory=list)

    @property
    def calls(self) -> np.ndarray:
        """(C,) float64 seconds, in order."""
        return np.array([seconds for block in self.blocks for seconds in block])

    @property
    def medians(self) -> np.ndarray:
        """(B,) float64: of each block."""
        return np.array([float(np.median(block)) for block in self.blocks])

    def values(self, prefix: str = "step_time_ms") -> dict[str, float]:
        """`<prefix>_p50`, ..., `_mean` in ms; percentiles that so few calls can't tell are left out."""
        calls = self.calls
        found = {f"{prefix}_{n}": 1e3 * float(np.percentile(calls, int(n[1:]))) for n in self._told}
        return found | {f"{prefix}_mean": 1e3 * float(calls.mean())}

    @property
    def _told(self) -> list[str]:
        return [name for name, needed in PERCENTILES.items() if len(self.calls) >= needed]

    @property
    def notes(self) -> list[str]:
        """What to know about the figures."""
        left_out = [name for name in PERCENTILES if name not in self._told]
        notes = [f"too few calls for {', '.join(left_out)}"] if left_out else []
        return notes if self.stable else [*notes, "not stable when warm-up ended"]


def time_call(call: Call, timing: Timing, clock: Callable[[], float] = time.perf_counter) -> Timed:
    """One call by itself. It must wait for the device before it returns."""
    return interleave({"": call}, timing, clock)[""]


def interleave(
    calls: Mapping[str, Call], timing: Timing, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timed]:
    """Rivals in turn, the order reversed from round to round. Each call must wait for the device before it returns."""
    found = {name: warm_up(call, timing, clock) for name, call in calls.items()}
    rounds = 0
    while not rounds or _goes_on(found.values(), rounds, timing):
        for name in list(calls) if rounds % 2 == 0 else reversed(list(calls)):
            found[name].blocks.append(_block(calls[name], timing, clock))
        rounds += 1
    return found


def _goes_on(found: Collection[Timed], rounds: int, timing: Timing) -> bool:
    wanted = rounds < timing.blocks or any(len(timed.calls) < timing.least_calls for timed in found)
    return wanted and all(timed.calls.sum() < timing.most_s for timed in found)


def warm_up(call: Call, timing: Timing, clock: Callable[[], float] = time.perf_counter) -> Timed:
    """Call until the medians of two groups agree, or the time is over; nothing of it is kept."""
    start, before, count = clock(), math.inf, 0
    while True:
        group = [_timed(call, clock) for _ in range(GROUP)]
        count += GROUP
        median = float(np.median(group))
        if abs(median - before) <= timing.tolerance * median:
            return Timed(True, count)
        if clock() - start >= timing.warmup_s:
            return Timed(False, count)
        before = median


def _block(call: Call, timing: Timing, clock: Callable[[], float]) -> list[float]:
    start, times = clock(), []
    while not times or clock() - start < timing.block_s:
        times.append(_timed(call, clock))
    return times


def _timed(call: Call, clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


def ratio(slower: Timed, faster: Timed) -> tuple[float, float, float] | None:
    """How many times as long the first takes, and its 95 % interval: Student's t over the logarithms by round.

    None: fewer than three rounds.
    """
    from scipy.stats import t

    rounds = min(len(slower.blocks), len(faster.blocks))
    if rounds < 3:
        return None
    logs = np.log(slower.medians[:rounds] / faster.medians[:rounds])
    half = float(t.ppf(0.975, rounds - 1)) * float(logs.std(ddof=1)) / math.sqrt(rounds)
    mean = float(logs.mean())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
