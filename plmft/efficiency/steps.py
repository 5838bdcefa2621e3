"""Count steps: how long one takes, how much of it waits for data, and how many residues pass.

Nothing is sampled: every step leaves three time marks and its counts. Costs a few microseconds a step; on a GPU three
event records, and the host never waits for the device while training runs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

MIN_STEPS = 10  # below that, a 95th percentile is little more than the maximum, and is flagged
RECENT_STEPS = 20  # the window of the progress bar's rate
MAX_PENDING = 64  # steps whose device marks may be unread; then the oldest is waited for


class Clock(Protocol):
    """Takes marks in the order of the work they bracket, and tells the time between two of them."""

    def mark(self) -> Any: ...

    def done(self, mark: Any) -> bool:
        """True when the mark can be read without waiting."""

    def elapsed_s(self, start: Any, end: Any) -> float: ...


class WallClock:
    """Host time in seconds, monotonic."""

    def __init__(self, read: Callable[[], float] = time.perf_counter) -> None:
        self.mark = read

    def done(self, mark: float) -> bool:
        return True

    def elapsed_s(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """Device time: events in the current stream of one GPU, read once the device has passed them.

    An event is recorded in stream order, so a mark says when the device reached that point, not when the host did.
    """

    def __init__(self, device_index: int = 0) -> None:
        self.device_index = device_index

    def mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device_index))
        return event

    def done(self, mark: Any) -> bool:
        return mark.query()

    def elapsed_s(self, start: Any, end: Any) -> float:
        end.synchronize()
        return start.elapsed_time(end) / 1e3


@dataclass
class Counts:
    """What passed through some steps. `tokens` are all that were computed, special and padding tokens included."""

    steps: int = 0
    residues: int = 0
    sequences: int = 0
    tokens: int = 0
    padding: int = 0
    flops: float | None = 0.0  # None as soon as one step's is unknown

    def add(self, other: Counts) -> None:
        self.steps += other.steps
        self.residues += other.residues
        self.sequences += other.sequences
        self.tokens += other.tokens
        self.padding += other.padding
        self.flops = None if self.flops is None or other.flops is None else self.flops + other.flops


@dataclass
class _Step:
    """A step under way: where it began, its waits, and, once it ended, its counts. Marks are the clock's."""

    start: Any
    waits: list[tuple[Any, Any]] = field(default_factory=list)
    end: Any = None
    counts: Counts | None = None


class StepMeter:
    """Times steps and counts what they process.

    A step lasts from its first `fetch_begin` to `step_end`; its wait is the time from `fetch_begin` to `step_begin`.
    A step made of several micro-batches calls the pair of them for each, and `step_end` once: its waits add up.
    One clock takes all three marks. On a GPU (`CudaClock`) that makes the wait the time in which the *device* had run
    dry: a fetch that hides behind kernels still queued costs nothing and counts nothing. On a host it is plain waiting.

    The first `warmup_steps` steps of this process are counted in the totals but not timed. Throughput, percentiles
    and the wait's share are over the steps after them (the measured ones).
    """

    def __init__(self, clock: Clock, warmup_steps: int = 5) -> None:
        self._clock, self._warmup_steps = clock, warmup_steps
        self._fetch: Any = None
        self._step: _Step | None = None
        self._paused_inside = False
        self._timed = 0  # steps timed in this process: a resumed run warms up again
        self._pending: deque[_Step] = deque()
        self._recent: deque[tuple[int, float]] = deque(maxlen=RECENT_STEPS)
        self._total, self._measured = Counts(), Counts()
        self._step_s: list[float] = []
        self._wait_s = 0.0

    def fetch_begin(self) -> None:
        """The loop starts to ask for the next batch. A second call before `step_begin` replaces the first."""
        self._fetch = self._clock.mark()

    def step_begin(self) -> None:
        """The batch is here; work on it begins. Without a `fetch_begin` before it, there was no wait."""
        now = self._clock.mark()
        fetched = now if self._fetch is None else self._fetch
        if self._step is None:
            self._step = _Step(start=fetched)
        self._step.waits.append((fetched, now))
        self._fetch = None

    def step_end(
        self, *, residues: int, sequences: int, tokens: int, padding: int = 0, flops: float | None = None
    ) -> None:
        """The optimizer step (or the forward pass of a test batch) is issued.

        Args:
            residues: real residues, no special tokens, no padding.
            tokens: every token computed, with special tokens and padding.
            padding: those of `tokens` that are padding.
            flops: the step's model FLOPs (see `flops.step_flops`); None where unknown.
        """
        counts = Counts(1, residues, sequences, tokens, padding, flops)
        self._total.add(counts)
        step, self._step = self._step, None
        untimed, self._paused_inside = self._paused_inside, False
        if step is None or untimed:
            return
        step.end, step.counts = self._clock.mark(), counts
        self._pending.append(step)
        self._drain(limit=MAX_PENDING)

    def pause(self) -> None:
        """Between epochs: the time until the next `fetch_begin` belongs to no step.

        Drops a fetch that brought no batch. A step that is cut in two by a pause is counted, but not timed.
        """
        self._fetch = None
        self._paused_inside = self._step is not None

    def _drain(self, limit: int) -> None:
        """Read the steps whose marks the device has passed; wait for the oldest while more than `limit` are unread."""
        while self._pending and (len(self._pending) > limit or self._clock.done(self._pending[0].end)):
            step = self._pending.popleft()
            self._timed += 1
            seconds = self._clock.elapsed_s(step.start, step.end)
            self._recent.append((step.counts.residues, seconds))
            if self._timed > self._warmup_steps:
                self._measured.add(step.counts)
                self._step_s.append(seconds)
                self._wait_s += sum(self._clock.elapsed_s(start, end) for start, end in step.waits)

    @property
    def total_steps(self) -> int:
        return self._total.steps

    @property
    def total_residues(self) -> int:
        return self._total.residues

    @property
    def total_sequences(self) -> int:
        return self._total.sequences

    @property
    def total_flops(self) -> float | None:
        """FLOPs of all steps, warm-up included; None before any, and when one step's are unknown."""
        return self._total.flops if self._total.steps else None

    @property
    def recent_residues_per_s(self) -> float | None:
        """Over the last steps, warm-up included; None before the first has been timed."""
        seconds = sum(seconds for _, seconds in self._recent)
        return sum(residues for residues, _ in self._recent) / seconds if seconds > 0 else None

    def summary(self) -> dict[str, float]:
        """Every figure that is known, by design's names without `cost/`; waits for the device.

        `step_time_ms_p50`, `_p95`, `_mean` (ms), `data_wait_fraction` (1), `residues_per_s`, `sequences_per_s` (1/s)
        and `flops_per_s` are over the measured steps and absent without any. `padding_fraction` (1) and `model_flops`
        (FLOP) are over all steps. `steps_measured` is always there.
        """
        self._drain(limit=0)
        values: dict[str, float] = {"steps_measured": self._measured.steps}
        if self._total.tokens:
            values["padding_fraction"] = self._total.padding / self._total.tokens
        if self.total_flops is not None:
            values["model_flops"] = self.total_flops
        seconds = sum(self._step_s)
        if seconds <= 0:
            return values
        p50, p95 = np.percentile(self._step_s, [50, 95])
        values |= {
            "step_time_ms_p50": 1e3 * float(p50),
            "step_time_ms_p95": 1e3 * float(p95),
            "step_time_ms_mean": 1e3 * seconds / len(self._step_s),
            "data_wait_fraction": self._wait_s / seconds,
            "residues_per_s": self._measured.residues / seconds,
            "sequences_per_s": self._measured.sequences / seconds,
        }
        if self._measured.flops is not None:
            values["flops_per_s"] = self._measured.flops / seconds
        return values

    def notes(self) -> dict[str, str]:
        """Why a figure is absent, or how far to trust it; waits for the device."""
        self._drain(limit=0)
        after = f"after {self._warmup_steps} of warm-up"
        if not self._step_s:
            return {"step_time": f"no step measured: {self._total.steps} steps in all, none {after}"}
        if len(self._step_s) < MIN_STEPS:
            return {"step_time": f"only {len(self._step_s)} steps {after}: p95 is little more than the longest"}
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, to go on counting in another process; waits for the device."""
        self._drain(limit=0)
        return {
            "total": asdict(self._total),
            "measured": asdict(self._measured),
            "step_s": list(self._step_s),
            "wait_s": self._wait_s,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._total, self._measured = Counts(**state["total"]), Counts(**state["measured"])
        self._step_s, self._wait_s = list(state["step_s"]), state["wait_s"]
