"""Ranks share a step: together they see what one process sees, each record once, from the same plan."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.data.packing import EncodedSplit
from plmft.data.sampler import EvaluationBatches, Filler, TrainingSteps, shares, step_index
from plmft.models.tokenizer import ESM
from tests.unit.networks import records

LENGTHS = [3, 40, 7, 7, 12, 25, 1, 18, 9, 30, 5]


def split(kind: str = "residue_classification") -> EncodedSplit:
    return EncodedSplit(records(np.random.default_rng(0), LENGTHS, kind), ESM, kind)


def steps(world: int, *, budget: int, even: bool = False, batch_size: int = 4) -> list[TrainingSteps]:
    options = {"batch_size": batch_size, "tokens_per_batch": budget, "seed": 3, "world": world, "even": even}
    return [TrainingSteps(split(), rank=rank, **options) for rank in range(world)]


def counted(micro: tuple) -> list[int]:
    return [int(i) for batch in micro if not isinstance(batch, Filler) for i in batch.index]


@given(lengths=st.lists(st.integers(1, 1000), max_size=40), world=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_shares_hold_each_sequence_once_and_are_balanced(lengths: list[int], world: int) -> None:
    found = shares(np.array(lengths, dtype=np.int64), world)
    assert len(found) == world and sorted(i for share in found for i in share) == list(range(len(lengths)))
    held = [sum(lengths[i] for i in share) for share in found]
    assert max(held) - min(held) <= max(lengths, default=0)
    assert all(list(share) == sorted(share) for share in found)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 50, 10_000])
def test_ranks_together_see_the_step_of_one_process(world: int, budget: int) -> None:
    ranks, whole = steps(world, budget=budget), steps(1, budget=budget)[0]
    for step in range(len(whole)):
        parts = [rank[(2, step)] for rank in ranks]
        wanted = step_index(len(LENGTHS), 4, 3, 2, step)
        assert sorted(i for part in parts for i in counted(part.micro)) == sorted(wanted)
        assert {part.targets for part in parts} == {whole[(2, step)].targets}
        assert not any(isinstance(batch, Filler) for part in parts for batch in part.micro)


def test_a_rank_may_have_nothing_to_do() -> None:
    """11 records in steps of 5: the last holds one."""
    last = [rank[(0, 2)] for rank in steps(3, budget=100, batch_size=5)]
    assert sorted(len(part.micro) for part in last) == [0, 0, 1]
    assert len({part.targets for part in last}) == 1


@pytest.mark.parametrize("budget", [1, 50])
def test_an_even_step_has_as_many_micro_steps_on_every_rank(budget: int) -> None:
    ranks, uneven = steps(3, budget=budget, even=True), steps(3, budget=budget)
    for step in range(3):
        parts, plain = [rank[(0, step)] for rank in ranks], [rank[(0, step)] for rank in uneven]
        assert len({len(part.micro) for part in parts}) == 1
        assert len(parts[0].micro) == max(len(part.micro) for part in plain)
        assert [counted(part.micro) for part in parts] == [counted(part.micro) for part in plain]
    moved = ranks[0][(0, 2)].to("cpu")
    assert [type(batch) for batch in moved.micro] == [type(batch) for batch in ranks[0][(0, 2)].micro]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_evaluation_sees_each_record_once_in_as_many_batches_on_every_rank(world: int, budget: int) -> None:
    ranks = [EvaluationBatches(split(), budget, rank, world) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    seen = [i for rank in ranks for i in counted(tuple(rank[at] for at in range(len(rank))))]
    assert sorted(seen) == list(range(len(LENGTHS)))
    if world <= 4:  # a small split has work for every rank
        assert all(counted(tuple(rank[at] for at in range(len(rank)))) for rank in ranks)
