"""A progress bar on the terminal: sequences, residues a second, and when it will be done.

How much is to come is estimated from how far the reader is in the file; of a pipe it is not known.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from plmft.inference.chunks import WHOLE
from plmft.inference.opening import Position
from plmft.inference.parts import Shard
from plmft.inference.sequences import Given, Rejected


class Watched:
    """Counts what is read and what is done. Args: position: of the reader in its file."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self.read = self.done = self.computed = 0  # residues
        self.begun_s: float | None = None
        self.ended_s = 0.0

    def reading(self, items: Iterator[Given | Rejected], shard: Shard = WHOLE) -> Iterator[Given | Rejected]:
        """The same items, residues of the shard counted."""
        for item in items:
            if isinstance(item, Given) and shard.takes(item.number):
                self.read += len(item.sequence) + len(item.partner)
            yield item

    def begin(self) -> None:
        """The first batch is about to be computed."""
        self.begun_s = self.begun_s or time.monotonic()

    def skipped(self, residues: int) -> None:
        """So many were found done."""
        self.done += residues

    def predicted(self, residues: int) -> None:
        """So many were computed."""
        self.computed += residues
        self.done += residues
        self.ended_s = time.monotonic()

    @property
    def total(self) -> float | None:
        """Residues of the whole input, estimated; None: not known."""
        share = self._position.share
        return None if not share else max(self.read / share, self.done)

    @property
    def residues_per_s(self) -> float | None:
        """Of those computed; None: nothing was."""
        if self.begun_s is None or not self.computed:
            return None
        return self.computed / max(1e-9, self.ended_s - self.begun_s)


@contextmanager
def bar(watched: Watched) -> Iterator["Bar"]:
    """Shown on a terminal alone, on stderr; a file or a pipe gets nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[told]}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        yield Bar(watched, progress, progress.add_task("", total=None, told="reading"))


class Bar:
    """What is drawn of it."""

    def __init__(self, watched: Watched, progress, task) -> None:  # noqa: ANN001 (rich is imported late)
        self._watched, self._progress, self._task = watched, progress, task
        self._sequences = 0

    def batch(self, residues: int) -> None:
        """So many more residues are computed."""
        self._watched.predicted(residues)
        self._draw()

    def chunk(self, given: Sequence[Given], fresh: bool) -> None:
        """A part is there. fresh: it was computed now."""
        self._sequences += len(given)
        if not fresh:
            self._watched.skipped(sum(len(g.sequence) + len(g.partner) for g in given))
        self._draw()

    def _draw(self) -> None:
        speed = self._watched.residues_per_s
        told = f"{self._sequences:,} sequences" + (f", {speed:,.0f} residues/s" if speed else "")
        self._progress.update(self._task, completed=self._watched.done, total=self._watched.total, told=told)
