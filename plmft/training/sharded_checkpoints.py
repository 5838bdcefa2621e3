"""A state that is sharded over ranks: each writes the fragments that it holds, and any number of ranks can read them.

`step-00000120/` holds `rank-0-of-2.ckpt`, `rank-1-of-2.ckpt` and their digests. In a state a sharded tensor's place is
taken by a `Fragment`: an offset in the flattened tensor and the values from there on. FSDP's shards are such, and so
are those of ZeRO, of weights and of an optimizer's state alike; what is not sharded is in rank 0's file. Reading puts
the tensors together again, so that a run goes on in any number of processes and by any strategy.

Nobody gathers or sends anything to write it: each rank writes 1/ranks of the state. To read it, every rank reads all.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plmft.training.checkpoints import sync_folder, write_with_digest
from plmft.training.distributed import Ranks

RANK_FILE = re.compile(r"rank-(\d+)-of-(\d+)\.ckpt")
Where = tuple[str | int, ...]  # of a tensor in the tree of a state: the keys that lead to it


@dataclass(frozen=True)
class Fragment:
    """A part of a tensor that this rank holds.

    Args:
        values: (n,) those of the flattened tensor from `offset` on; n may be 0. shape: of the whole tensor.
    """

    values: Tensor
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: Tensor, offset: int, shape: Sequence[int]) -> "Fragment":
        """A copy in host memory, without the rest of the buffer that `values` may be a view of."""
        return cls(values.detach().flatten().to("cpu", copy=True), offset, tuple(shape))


def part_of(state: dict[str, Any], *, first: bool) -> dict[str, Any]:
    """What a rank writes: its fragments by their place in the state, and, where it is the first, all the rest."""
    fragments: dict[Where, Fragment] = {}
    rest = _without_fragments(state, (), fragments)
    plain = {where: (f.values, f.offset, f.shape) for where, f in fragments.items()}
    return {"rest": rest if first else {}, "fragments": plain}


def _without_fragments(tree: Any, where: Where, found: dict[Where, Fragment]) -> Any:
    if isinstance(tree, Fragment):
        found[where] = tree
        return None
    if isinstance(tree, dict):
        return {key: _without_fragments(value, (*where, key), found) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_fragments(value, (*where, n), found) for n, value in enumerate(tree)]
    return tree


def assemble(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The state, with whole tensors, from what all ranks wrote, the first rank's part first. Holds one part at a time.

    Raises: ValueError: the fragments of a tensor don't make it whole.
    """
    state: dict[str, Any] = {}
    wholes: dict[Where, Tensor] = {}
    held: dict[Where, list[tuple[int, int]]] = {}  # from and to which number
    for part in parts:
        state = state or part["rest"]
        for where, (values, offset, shape) in part["fragments"].items():
            if where not in wholes:
                wholes[where], held[where] = torch.empty(shape, dtype=values.dtype), []
            wholes[where].view(-1)[offset : offset + len(values)] = values
            held[where].append((offset, offset + len(values)))
    for where, whole in wholes.items():
        _check_complete(where, held[where], whole.numel())
        _put(state, where, whole)
    return state


def _check_complete(where: Where, held: list[tuple[int, int]], size: int) -> None:
    end = 0
    for first, last in sorted((first, last) for first, last in held if last > first):
        if first != end:
            raise ValueError(f"{where}: the fragments hold {end} numbers, and go on at number {first}.")
        end = last
    if end != size:
        raise ValueError(f"{where}: the fragments hold {end} numbers of {size}.")


def _put(tree: Any, where: Where, value: Tensor) -> None:
    *containers, last = where
    for key in containers:
        tree = tree[key]
    tree[last] = value


def write(folder: Path, state: dict[str, Any], ranks: Ranks) -> None:
    """Put a checkpoint in place at once, when every rank has written its file and digest to the disk. On every rank.

    Raises: OSError: a rank had no room, or no right to write; on all ranks alike. What was there before stays.
    """
    part = folder.with_name(f"{folder.name}.part")
    _together(ranks, lambda: _make_empty(part) if ranks.first else None)
    name = f"rank-{ranks.rank}-of-{ranks.world}.ckpt"
    try:
        _together(ranks, lambda: write_with_digest(part / name, part_of(state, first=ranks.first)))
        _together(ranks, lambda: _put_in_place(part, folder) if ranks.first else None)
    except OSError:
        if ranks.first:
            shutil.rmtree(part, ignore_errors=True)
        raise


def _together(ranks: Ranks, act: Callable[[], None]) -> None:
    """Returns when all ranks have done it; where one can't, all raise what it did."""
    try:
        act()
        failed = None
    except OSError as error:
        failed = (error.errno, error.strerror)
    for told in ranks.gather_everywhere(failed):
        if told is not None:
            raise OSError(*told)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _put_in_place(part: Path, folder: Path) -> None:
    sync_folder(part)
    before = folder.with_name(f"{folder.name}.before")
    if folder.exists():  # of the same step: before its validation, or damaged
        os.replace(folder, before)
    os.replace(part, folder)
    sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


def files_of(folder: Path) -> list[Path] | None:
    """What its ranks wrote, in their order; None where a file is missing."""
    found = {tuple(map(int, m.groups())): file for file in folder.iterdir() if (m := RANK_FILE.fullmatch(file.name))}
    worlds = {world for _, world in found}
    if len(worlds) != 1:
        return None
    (world,) = worlds
    return [found[rank, world] for rank in range(world)] if len(found) == world else None


def read(folder: Path) -> dict[str, Any]:
    """The state, with whole tensors."""
    return assemble(torch.load(file, map_location="cpu", weights_only=True) for file in files_of(folder))
