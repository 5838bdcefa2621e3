"""Claims: which unfinished run a command goes on with, whatever ended the process that held it."""

import json
import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft.tracking.claims import claim, config_key, held, key_of

CONFIG = {
    "seed": 0,
    "optim": {"lr": 1e-3, "epochs": 2},
    "hardware": {"precision": "fp32", "usd_per_hour": None},
    "tracking": {"uri": None},
    "checkpoint": {"every_minutes": 10, "resume": True},
}


def begun(runs: Path, key: str = "k", name: str = "first", **options: bool):
    """A claim whose run has made its folder."""
    found = claim(runs, key, name, **options)
    found.folder.mkdir(parents=True, exist_ok=True)
    return found


def test_a_first_run_is_new_and_an_unfinished_one_goes_on(tmp_path: Path) -> None:
    first = begun(tmp_path)
    assert (first.folder, first.attempt) == (tmp_path / "work" / "first", 1)
    first.release()
    second = begun(tmp_path, name="second")
    assert (second.folder, second.attempt) == (first.folder, 2)
    second.release()
    assert begun(tmp_path, name="third").attempt == 3


def test_a_finished_run_begins_anew_and_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path).finish()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["first"]
    assert begun(tmp_path, name="second").folder.name == "second"


def test_two_at_once_are_two_runs_and_both_can_be_taken_up(tmp_path: Path) -> None:
    one, two = begun(tmp_path, name="one"), begun(tmp_path, name="two")
    assert (one.folder.name, two.folder.name, two.attempt) == ("one", "two", 1)
    assert held(tmp_path, "one") and held(tmp_path, "two") and not held(tmp_path, "three")
    two.release()
    assert not held(tmp_path, "two")
    again = begun(tmp_path, name="new")
    assert (again.folder.name, again.attempt) == ("two", 2)
    one.release()
    assert begun(tmp_path, name="new").folder.name == "one"


def test_other_keys_are_other_runs(tmp_path: Path) -> None:
    begun(tmp_path).release()
    assert begun(tmp_path, key="other", name="second").folder.name == "second"


def test_resume_false_leaves_the_unfinished_run_behind(tmp_path: Path) -> None:
    begun(tmp_path).release()
    anew = begun(tmp_path, name="second", resume=False)
    assert (anew.folder.name, anew.attempt) == ("second", 1)
    anew.release()
    assert begun(tmp_path, name="third").folder.name == "second"


@pytest.mark.parametrize("content", ["", '{"folder": "fir', "null"])
def test_a_torn_claim_begins_anew(tmp_path: Path, content: str) -> None:
    begun(tmp_path).release()
    (file,) = (tmp_path / "work" / ".unfinished").iterdir()
    file.write_text(content)
    assert begun(tmp_path, name="second").folder.name == "second"


@pytest.mark.parametrize("torn", ["\n", '\n{"folder": "other", "att'])
def test_a_kill_half_way_through_a_claim_leaves_the_attempt_before(tmp_path: Path, torn: str) -> None:
    begun(tmp_path).release()
    (file,) = (tmp_path / "work" / ".unfinished").iterdir()
    file.write_text(file.read_text() + torn)
    for attempt in (2, 3):
        found = begun(tmp_path, name="second")
        assert (found.folder.name, found.attempt) == ("first", attempt)
        found.release()


def test_a_folder_that_the_user_removed_is_not_gone_on_with(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.release()
    first.folder.rmdir()
    assert (found := begun(tmp_path, name="second")).folder.name == "second" and found.attempt == 1


def _hold(runs: Path, pipe) -> None:
    taken = begun(runs, name=f"of-{os.getpid()}")
    pipe.send(taken.folder.name)
    signal.pause()
    taken.finish()


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    try:
        folder = ours.recv()
        assert held(tmp_path, folder)
        assert begun(tmp_path, name="beside").folder.name == "beside"
    finally:
        process.kill()
        process.join()
    assert not held(tmp_path, folder)
    assert begun(tmp_path, name="after").folder.name == folder


def test_many_that_finish_and_begin_at_once_never_share_a_folder(tmp_path: Path) -> None:
    """Each thread opens files of its own, and flock tells open files apart as it tells processes."""
    taken, twice, guard = set(), [], threading.Lock()

    def work(number: int) -> None:
        for turn in range(20):
            found = begun(tmp_path, name=f"{number}-{turn}")
            with guard:
                if found.folder in taken:
                    twice.append(found.folder)
                taken.add(found.folder)
            with guard:
                taken.discard(found.folder)
            (found.finish if turn % 2 else found.release)()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not twice


def test_what_shapes_a_run_shapes_its_key() -> None:
    key = config_key(CONFIG)
    assert len(key) == 32 and key == config_key(json.loads(json.dumps(CONFIG)))
    same = ({"tracking": {"uri": "http://x"}}, {"checkpoint": {"resume": False}}, {"hardware": {"precision": "fp32"}})
    assert {config_key(CONFIG | change) for change in same} == {key}
    others = ({"seed": 1}, {"optim": {"lr": 2e-3, "epochs": 2}}, {"hardware": {"precision": "bf16"}})
    assert len({config_key(CONFIG | change) for change in others} | {key}) == 4


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.integers())))
def test_the_order_of_keys_does_not_matter(parts: dict) -> None:
    assert key_of(parts) == key_of(dict(reversed(parts.items())))
