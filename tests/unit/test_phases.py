"""Phases of a plain loop: how far they have come is said, and each pass is a step."""

import io

import pytest
from rich.console import Console

from plmft.efficiency.phase import PhaseMeter
from plmft.training import phases
from plmft.training.phases import Phases


def test_passes_are_counted_and_now_and_then_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "SAY_EVERY_S", 0.0)
    text = io.StringIO()
    phase = Phases(lambda: PhaseMeter("cpu"), Console(file=text))
    with phase.phase("test"):
        for _ in range(12):
            phase.passed(100, 4)
    lines = text.getvalue().splitlines()
    assert len(lines) == 12 and lines[11].startswith("12 passes, ") and lines[11].endswith(" residues/s")
    cost = phase.costs["test"].values
    assert cost["residues_per_s"] == pytest.approx(25 * cost["sequences_per_s"])
