"""A tenth of train becomes the validation split: always the same, nothing else moves."""

import pytest

from plmft.data.hold_out import hold_out
from plmft.data.records import Record


def made(count: int, split: str) -> list[Record]:
    return [Record(f"{split}{i}", "MKV", float(i), split) for i in range(count)]


@pytest.mark.parametrize(("count", "held"), [(0, 0), (9, 0), (10, 1), (109, 10), (1000, 100)])
def test_a_tenth_is_held_out_and_the_rest_is_as_it_was(count: int, held: int) -> None:
    records = [*made(7, "test"), *made(count, "train"), *made(3, "test_more")]
    found, note = hold_out(records)
    assert [(r.id, r.target) for r in found] == [(r.id, r.target) for r in records]
    moved = [old.split for old, new in zip(records, found, strict=True) if new.split != old.split]
    assert moved == ["train"] * held and sum(r.split == "valid" for r in found) == held
    assert note.startswith(f"No validation split in the data: {held} of {count:,} training records, drawn with seed 0")
    assert hold_out(records)[0] == found


def test_the_draw_is_spread_and_does_not_depend_on_the_other_splits() -> None:
    train = made(1000, "train")
    held = [r.target for r in hold_out(train)[0] if r.split == "valid"]
    assert held == [r.target for r in hold_out([*made(5, "test"), *train])[0] if r.split == "valid"]
    assert 350 < sum(held) / len(held) < 650  # a mean of 100 draws: 500 give or take 5 times 27
