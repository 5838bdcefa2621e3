"""Phases of a run that Lightning does not drive: the same meters around a plain loop over records."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from plmft.data.records import Record
from plmft.efficiency.phase import PhaseCost, PhaseMeter

SAY_EVERY_S = 30.0


class Phases:
    """Meters phases one after the other, and says how far each has come.

    Args:
        make_meter: gives a new meter for a phase.
        costs: by phase, when it has ended.
    """

    def __init__(self, make_meter: Callable[[], PhaseMeter], console: Console) -> None:
        self._make_meter, self._console = make_meter, console
        self.costs: dict[str, PhaseCost] = {}
        self._meter: PhaseMeter | None = None
        self._passes, self._said = 0, time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """All within it belongs to the phase."""
        self._meter = self._make_meter()
        self._meter.begin()
        self._meter.steps.fetch_begin()
        self._meter.steps.step_begin()
        yield
        self.costs[name] = self._meter.end()

    def each(self, name: str, records: Sequence[Record]) -> Iterator[Record]:
        """The records, each one a step of the phase that is open."""
        steps = self._meter.steps
        for record in self.saying(name, records):
            steps.fetch_begin()
            steps.step_begin()
            yield record
            residues = sum(map(len, record.sequences))
            steps.step_end(residues=residues, sequences=len(record.sequences), tokens=residues)
        steps.pause()

    def saying(self, name: str, records: Sequence[Record]) -> Iterator[Record]:
        """The records; now and then a line says how many are done."""
        said = time.monotonic()
        for number, record in enumerate(records, 1):
            yield record
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                self._console.print(f"{name} {number:,}/{len(records):,}", highlight=False)

    def passed(self, residues: int, sequences: int) -> None:
        """A pass of the model has ended, and the next begins: one step of the phase that is open."""
        steps = self._meter.steps
        steps.step_end(residues=residues, sequences=sequences, tokens=residues)
        self._passes += 1
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            rate = f", {steps.recent_residues_per_s:,.0f} residues/s" if steps.recent_residues_per_s else ""
            self._console.print(f"{self._passes:,} passes{rate}", highlight=False)
        steps.fetch_begin()
        steps.step_begin()
