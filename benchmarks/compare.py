"""Sides in turns, so that a drifting machine slows all of them. Medians over rounds, and what they spread over."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Answers = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Goal:
    """What a ratio, share or time should come to. `least`: larger is better."""

    value: float
    least: bool
    unit: str = "×"

    def reached(self, value: float) -> bool:
        """Whether it is."""
        return value >= self.value if self.least else value <= self.value

    def text(self) -> str:
        """As the issue writes it."""
        value = f"{self.value:.0%}" if self.unit == "%" else f"{self.value:g} {self.unit}".replace(" ×", "×")
        return f"{'≥' if self.least else '≤'} {value}"


@dataclass
class Entry:
    """One line of the table: plmft beside a peer.

    Args:
        value, low, high: what the goal is held against: the median over rounds, the lowest and the highest round.
        plmft, peer: the figures that it was made from, as text with their unit; empty: there is none.
        goal: None: shown for comparison only.
    """

    measure: str
    model: str
    plmft: str
    peer: str
    value: float
    low: float
    high: float
    unit: str = "×"
    goal: str = ""
    reached: bool | None = None


@dataclass
class Row:
    """What one row came to. `error` says why it is missing; `text` what else must be said; `run` when its run began."""

    name: str
    entries: list[Entry] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    finished: str = ""
    run: str = ""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Row":
        """From JSON."""
        return cls(**record | {"entries": [Entry(**entry) for entry in record["entries"]]})


def interleave(sides: dict[str, Callable[[], dict[str, Any]]], rounds: int) -> Answers:
    """The sides' answers by round; every other round runs them in reverse."""
    answers: Answers = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            answers[name].append(sides[name]())
    return answers


def rate(answer: dict[str, Any]) -> float:
    """Residues a second."""
    return answer["residues"] / answer["seconds"]


def faster(answers: Answers, ours: str, theirs: str) -> list[float]:
    """How many times as many residues a second, by round."""
    return [rate(a) / rate(b) for a, b in zip(answers[ours], answers[theirs], strict=True)]


def entry(measure: str, model: str, values: list[float], goal: Goal | None, *, plmft: str, peer: str) -> Entry:
    """A line from its values by round."""
    value = statistics.median(values)
    return Entry(
        measure,
        model,
        plmft,
        peer,
        value,
        min(values),
        max(values),
        goal.unit if goal else "×",
        goal.text() if goal else "",
        goal.reached(value) if goal else None,
    )


def rates(answers: list[dict[str, Any]]) -> str:
    """The median, as text."""
    return f"{statistics.median(map(rate, answers)):,.0f} residues/s"


def peaks(answers: list[dict[str, Any]]) -> list[float]:
    """Peak memory in GB, by round: of the GPU where there is one, else of the host."""
    return [answer.get("peak_gb", answer["peak_host_gb"]) for answer in answers]
