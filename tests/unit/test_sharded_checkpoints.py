"""Fragments of any number of ranks make the whole again, and a folder of them is put in place at once or not at all."""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plmft.training import sharded_checkpoints
from plmft.training.distributed import Ranks
from plmft.training.sharded_checkpoints import Fragment, assemble, files_of, part_of, read, write

Cut = Callable[[Tensor, int, int], Fragment]  # what rank r of n holds
SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=5)


def chunks(whole: Tensor, rank: int, world: int) -> Fragment:
    """FSDP: rows, as torch.chunk deals them out."""
    rows = -(-len(whole) // world)
    first = min(rank * rows, len(whole))
    return Fragment.of(whole[first : first + rows], first * whole[0].numel(), whole.shape)


def filled_up(whole: Tensor, rank: int, world: int) -> Fragment:
    """ZeRO-3: equal parts of the flattened tensor, the last ones shorter or empty."""
    size = -(-whole.numel() // world)
    offset = min(rank * size, whole.numel())
    return Fragment.of(whole.flatten()[offset : offset + size], offset, whole.shape)


def states(wholes: list[Tensor], world: int, cut: Cut) -> list[dict[str, Any]]:
    """What each rank of `world` holds."""

    def state(rank: int) -> dict[str, Any]:
        weights = {str(n): cut(whole, rank, world) for n, whole in enumerate(wholes)}
        moments = {
            n: {"step": torch.tensor(7.0), "exp_avg": cut(-whole, rank, world)} for n, whole in enumerate(wholes)
        }
        buffers = {"buffer": torch.arange(3)}
        return {"step": 7, "state_dict": {**buffers, **weights}, "optimizer_states": [{"state": moments}]}

    return [state(rank) for rank in range(world)]


def assert_whole(found: dict[str, Any], wholes: list[Tensor]) -> None:
    assert found["step"] == 7 and found["state_dict"]["buffer"].tolist() == [0, 1, 2]
    for n, whole in enumerate(wholes):
        moments = found["optimizer_states"][0]["state"][n]
        assert torch.equal(found["state_dict"][str(n)], whole) and torch.equal(moments["exp_avg"], -whole)
        assert float(moments["step"]) == 7.0


def reloaded(part: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(part, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)


@settings(max_examples=50, deadline=None)
@given(shapes=SHAPES, world=st.integers(1, 7), cut=st.sampled_from([chunks, filled_up]))
def test_any_number_of_ranks_makes_the_whole(shapes: list[list[int]], world: int, cut: Cut) -> None:
    wholes = [torch.randn(shape) for shape in shapes]
    parts = [part_of(state, first=rank == 0) for rank, state in enumerate(states(wholes, world, cut))]
    assert_whole(assemble([reloaded(part) for part in parts]), wholes)
    assert all(not part["rest"] for part in parts[1:])


@settings(max_examples=50, deadline=None)
@given(shapes=SHAPES, cuts=st.lists(st.floats(0, 1), max_size=5))
def test_one_flat_buffer_cut_anywhere_makes_the_whole(shapes: list[list[int]], cuts: list[float]) -> None:
    """ZeRO-1 and 2: all weights end to end, in parts; most ranks hold nothing of most weights."""
    wholes = [torch.randn(shape) for shape in shapes]
    total = sum(whole.numel() for whole in wholes)
    ends = [0, *sorted(round(cut * total) for cut in cuts), total]

    def cut(n: int, begin: int, end: int) -> Fragment:
        before = sum(w.numel() for w in wholes[:n])
        first, last = (min(max(edge - before, 0), wholes[n].numel()) for edge in (begin, end))
        return Fragment.of(wholes[n].flatten()[first:last], first if last > first else 0, wholes[n].shape)

    held = [{str(n): cut(n, *edges) for n in range(len(wholes))} for edges in pairwise(ends)]
    found = assemble([part_of(state, first=rank == 0) for rank, state in enumerate(held)])
    assert all(torch.equal(found[str(n)], whole) for n, whole in enumerate(wholes))


@pytest.mark.parametrize("held", [[(0, 2), (3, 6)], [(0, 3), (2, 6)], [(0, 3), (3, 5)], [(0, 0), (0, 0)]])
def test_what_is_missing_or_held_twice_is_an_error(held: list[tuple[int, int]]) -> None:
    whole = torch.arange(6.0)
    parts = [part_of({"w": Fragment.of(whole[a:b], a, whole.shape)}, first=a == 0) for a, b in held]
    with pytest.raises(ValueError, match="the fragments hold"):
        assemble(parts)


def test_a_fragment_is_not_the_buffer_that_it_lies_in() -> None:
    buffer = torch.zeros(10_000)
    fragment = Fragment.of(buffer[3:5], 3, (7,))
    buffer.fill_(1.0)
    assert fragment.values.tolist() == [0.0, 0.0] and fragment.values.untyped_storage().nbytes() == 8


@dataclass(frozen=True)
class Threads(Ranks):
    """Ranks that are threads of this process."""

    told: list = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))

    def gather_everywhere(self, value: Any) -> list[Any]:
        self.told[self.rank] = value
        self.barrier.wait()
        found = list(self.told)
        self.barrier.wait()
        return found


def write_by_all(folder: Path, held: list[dict[str, Any]]) -> list[OSError]:
    """As all ranks write their states; returns what they raised."""
    told, barrier, raised = [None] * len(held), threading.Barrier(len(held)), []

    def one(rank: int) -> None:
        try:
            write(folder, held[rank], Threads(rank, len(held), rank, told, barrier))
        except OSError as error:
            raised.append(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(held))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_a_folder_is_put_in_place_when_all_ranks_have_written(tmp_path: Path) -> None:
    wholes, folder = [torch.randn(5, 3), torch.randn(1)], tmp_path / "step-00000007"
    left = tmp_path / "step-00000007.part"  # of a write that was killed
    left.mkdir()
    (left / "rank-5-of-9.ckpt").write_bytes(b"half")
    assert write_by_all(folder, states(wholes, 3, chunks)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"rank-{rank}-of-3.{kind}" for rank in range(3) for kind in ("ckpt", "sha256")
    )
    assert_whole(read(folder), wholes)
    (folder / "rank-1-of-3.ckpt").unlink()
    assert files_of(folder) is None
    assert write_by_all(folder, states(wholes, 2, chunks)) == []  # again, in another number of processes
    assert_whole(read(folder), wholes)


def test_a_full_disk_of_one_rank_is_told_by_all_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wholes, folder = [torch.randn(5, 3)], tmp_path / "step-00000007"
    assert write_by_all(folder, states(wholes, 2, chunks)) == []
    writes = sharded_checkpoints.write_with_digest

    def full(path: Path, part: dict[str, Any]) -> None:
        if path.name.startswith("rank-1"):
            raise OSError(28, "No space left on device")
        writes(path, part)

    monkeypatch.setattr(sharded_checkpoints, "write_with_digest", full)
    raised = write_by_all(folder, states([torch.randn(5, 3)], 2, chunks))
    assert [error.errno for error in raised] == [28, 28]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert_whole(read(folder), wholes)
