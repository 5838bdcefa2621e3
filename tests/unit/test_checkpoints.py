"""A checkpoint is whole or not there; what is not whole is never read; no more are kept than a run can go on from."""

import multiprocessing
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.training.checkpoints import Checkpoints, WholeCheckpoints, is_whole, read
from plmft.training.resuming import packed, random_state, set_random_state, unpacked


def write(folder: Path, kind: str, step: int, size: int = 100) -> None:
    WholeCheckpoints().save_checkpoint(
        {"global_step": step, "w": torch.arange(size)}, Checkpoints(folder).at(kind, step)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> tuple[int | None, list[str]]:
    """Its step, and what was said about others."""
    said: list[str] = []
    path = Checkpoints(folder).newest(said.append)
    return None if path is None else read(path)["global_step"], said


def test_a_checkpoint_comes_with_its_digest(tmp_path: Path) -> None:
    write(tmp_path, "step", 120)
    assert names(tmp_path) == ["step-00000120.ckpt", "step-00000120.sha256"]
    assert is_whole(tmp_path / "step-00000120.ckpt")
    assert newest(tmp_path) == (120, [])
    write(tmp_path, "step", 120, size=5)  # once more: the later one counts
    assert len(read(tmp_path / "step-00000120.ckpt")["w"]) == 5 and newest(tmp_path) == (120, [])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": flip,
    "no digest": lambda path: path.with_suffix(".sha256").unlink(),
    "another's digest": lambda path: path.with_suffix(".sha256").write_text("0" * 64),
    "a digest that is not text": lambda path: path.with_suffix(".sha256").write_bytes(b"\xff\x00"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_not_whole_is_not_read(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    for step in (100, 110, 120):
        write(tmp_path, "step", step)
    damage(tmp_path / "step-00000120.ckpt")
    step, (line,) = newest(tmp_path)
    assert step == 110 and "step-00000120.ckpt is damaged" in line
    damage(tmp_path / "step-00000110.ckpt")
    damage(tmp_path / "step-00000100.ckpt")
    step, lines = newest(tmp_path)
    assert step is None and len(lines) == 3


def test_a_state_needs_what_was_best_by_then(tmp_path: Path) -> None:
    for kind, step in (("best", 100), ("step", 110), ("best", 115), ("step", 120)):
        write(tmp_path, kind, step)
    flip(tmp_path / "best-00000115.ckpt")
    step, (line,) = newest(tmp_path)
    assert step == 110 and "best-00000115.ckpt is damaged" in line
    kept = Checkpoints(tmp_path)
    assert kept.best(100)["global_step"] == 100
    for step, word in ((115, "damaged"), (7, "gone")):
        with pytest.raises(InputError, match=rf"best-{step:08d}.*{word}.*checkpoint\.resume=false"):
            kept.best(step)


def test_two_states_and_what_was_best_by_then_are_kept(tmp_path: Path) -> None:
    """And nothing that a kill, or a full disk, left behind; what is not ours stays."""
    for kind, step in (("best", 3), ("step", 3), ("best", 6), ("step", 6), ("step", 9), ("best", 11), ("step", 12)):
        write(tmp_path, kind, step)
    for left in ("step-00000015.ckpt.part", "step-00000015.sha256", "best-00000011.sha256.part", "mine.txt"):
        (tmp_path / left).write_bytes(b"")
    (tmp_path / "step-00000015.part").mkdir()
    Checkpoints(tmp_path).tidy()
    kept = ["best-00000006", "best-00000011", "step-00000009", "step-00000012"]
    assert names(tmp_path) == sorted(["mine.txt", *(f"{k}{end}" for k in kept for end in (".ckpt", ".sha256"))])


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 40, 4096], ids=["none", "less than a digest", "less than the state"])
def test_where_there_is_no_room_the_one_before_stays(tmp_path: Path, room: int) -> None:
    write(tmp_path, "step", 100)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for step in (100, 110):
        with largest_file(room), pytest.raises(OSError):
            write(tmp_path, "step", step, size=10_000)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert newest(tmp_path) == (100, [])


def keep_writing(folder: Path, begin: int, told: Connection) -> None:
    for step in range(begin, begin + 10_000):
        write(folder, "step", step, size=20_000)
        told.send(step)
        Checkpoints(folder).tidy()


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_state_that_was_written(tmp_path: Path) -> None:
    """A process that writes state after state is killed 25 times, and goes on each time where it was."""
    moments, fork, step = np.random.default_rng(0), multiprocessing.get_context("fork"), 0
    for _ in range(25):
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=keep_writing, args=(tmp_path, step + 1, theirs))
        process.start()
        theirs.close()
        assert ours.poll(60)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        written = step
        try:
            while True:
                written = ours.recv()
        except EOFError:
            pass
        found, said = newest(tmp_path)
        assert found in (written, written + 1) and said == []
        step = found
        Checkpoints(tmp_path).tidy()
        assert not list(tmp_path.glob("*.part"))


def test_random_numbers_go_on(tmp_path: Path) -> None:
    """Through a file that holds no code."""

    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.normal()), random.gauss(0, 1)

    draw()  # numpy and random have each kept a second number
    write_to = Checkpoints(tmp_path).at("step", 1)
    WholeCheckpoints().save_checkpoint(random_state(), write_to)
    expected = [draw() for _ in range(3)]
    set_random_state(read(write_to.with_suffix(".ckpt")))
    assert [draw() for _ in range(3)] == expected


@pytest.mark.parametrize("shapes", [[], [()], [(), ()], [(3,)], [(2, 3), (0, 3), (5, 3)]], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_are_unpacked_as_they_were(shapes: list[tuple[int, ...]], dtype: type) -> None:
    given = [np.random.default_rng(0).random(shape).astype(dtype) for shape in shapes]
    found = unpacked(packed(given))
    assert [(p.shape, p.tolist()) for p in found] == [(p.shape, p.tolist()) for p in given]
    assert all(p.dtype == dtype for p in found)
