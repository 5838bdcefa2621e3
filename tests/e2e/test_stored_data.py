"""What a run keeps of its data while it trains, and what it leaves for the next run."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from plmft.data.records import Record
from plmft.training import gradient_steps
from tests.e2e.command import TINY, assert_nothing_half_written


@pytest.mark.slow
def test_no_record_stays_in_memory_and_the_next_run_finds_the_tokens(
    command: Callable, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, train = [], gradient_steps.fine_tune

    def counted(*arguments: object, **options: object) -> object:
        alive.append(sum(type(thing) is Record for thing in gc.get_objects()))
        return train(*arguments, **options)

    gc.collect()  # what other tests left
    before = sum(type(thing) is Record for thing in gc.get_objects())
    monkeypatch.setattr(gradient_steps, "fine_tune", counted)
    command(*TINY).succeeded()
    written = {path: path.stat().st_mtime_ns for path in (store / "cache" / "tokens").iterdir()}
    assert len(written) == 3
    command(*TINY, "seed=1", "optim.lr=1e-3").succeeded()
    assert {path: path.stat().st_mtime_ns for path in (store / "cache" / "tokens").iterdir()} == written
    assert alive == [before, before]
    assert_nothing_half_written(store)
