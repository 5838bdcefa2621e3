"""Output in parts: whole or not at all, resumed after any end, never mixed; and what the disk refuses."""

import errno
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from plmft import InputError
from plmft.inference import parts
from plmft.inference.chunks import Counts, run_chunks
from plmft.inference.opening import damaged
from plmft.inference.parts import ChunkedOutput, Shard, incomplete_shards, list_parts, read_identity
from plmft.inference.sequences import Given, Rejected

IDENTITY = {"model": "abc", "layers": (1, 2)}


def items(count, *, wrong=(), letter="M"):
    for number in range(count):
        rejected = Rejected(number, f"s{number}", f"line {number}", "wrong")
        yield rejected if number in wrong else Given(number, f"s{number}", letter * (number + 1))


def write(chunk, given, path):
    path.write_text("".join(f"{chunk} {g.id} {g.sequence}\n" for g in given))


def run(folder, given, *, identity=IDENTITY, size=3, shard="1/1", compute=write, progress=None):
    output, part = ChunkedOutput(folder, identity, suffix=".txt"), Shard.parse(shard)
    with output.alone(size, part) as done:
        how = {"size": size, "shard": part, "done": done, "progress": progress}
        return run_chunks(given, output, compute_and_write=compute, **how)


def content(folder):
    return {p.name: p.read_bytes() for p in folder.parent.rglob("*") if p.is_file()}


def failing(after, error):
    calls = itertools.count()

    def compute(chunk, given, path):
        write(chunk, given, path)
        if next(calls) == after:
            raise error

    return compute


def test_parts_and_rejected_ones(tmp_path):
    seen = []
    counts = run(
        tmp_path / "o", items(10, wrong=(1, 9)), progress=lambda given, fresh: seen.append((len(given), fresh))
    )
    assert counts == Counts(8, 0, 2)
    assert seen == [(3, True), (3, True), (2, True)]
    text = "".join(file.read_text() for *_, file in list_parts(tmp_path / "o"))
    assert [line.split()[1] for line in text.splitlines()] == ["s0", "s2", "s3", "s4", "s5", "s6", "s7", "s8"]
    assert (tmp_path / "o.rejected.csv").read_text() == "number,id,place,reason\n1,s1,line 1,wrong\n9,s9,line 9,wrong\n"
    assert incomplete_shards(tmp_path / "o") == []
    assert read_identity(tmp_path / "o") == {"model": "abc", "layers": [1, 2], "chunk": 3, "shards": 1}


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), RuntimeError("a bug")], ids=repr)
def test_an_end_at_any_chunk_and_the_same_command_give_the_same_bytes(tmp_path, after, error):
    run(tmp_path / "whole" / "o", items(11, wrong=(4,)))
    with pytest.raises((KeyboardInterrupt, InputError, RuntimeError)):
        run(tmp_path / "ended" / "o", items(11, wrong=(4,)), compute=failing(after, error))
    assert len(list_parts(tmp_path / "ended" / "o")) == after
    assert incomplete_shards(tmp_path / "ended" / "o") == [1]
    assert not list((tmp_path / "ended").rglob(".draft*"))
    counts = run(tmp_path / "ended" / "o", items(11, wrong=(4,)))
    assert counts == Counts(10 - 3 * after, 3 * after, 1)
    assert content(tmp_path / "ended" / "o") == content(tmp_path / "whole" / "o")


def test_a_full_disk_is_told_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"can't write .No space left on device; .* is kept: make room"):
        run(tmp_path / "o", items(3), compute=failing(0, OSError(errno.ENOSPC, "")))


def test_results_of_another_model_input_or_cut_are_not_mixed(tmp_path):
    run(tmp_path / "o", items(11, wrong=(1,)))
    before = content(tmp_path / "o")
    for message, again in {
        "model: abc there, xyz now": lambda: run(tmp_path / "o", items(10), identity=IDENTITY | {"model": "xyz"}),
        "precision: None there, bf16 now": lambda: run(
            tmp_path / "o", items(10), identity=IDENTITY | {"precision": "bf16"}
        ),
        "chunk: 3 there, 4 now": lambda: run(tmp_path / "o", items(10), size=4),
        "shards: 1 there, 2 now": lambda: run(tmp_path / "o", items(10), shard="1/2"),
        "from another input": lambda: run(tmp_path / "o", items(10, letter="C")),
        "another input": lambda: run(tmp_path / "o", items(6, wrong=(1,))),
        "input, and": lambda: run(tmp_path / "o", items(12, wrong=(1,))),
    }.items():
        with pytest.raises(InputError, match=message):
            again()
        left = {name: data for name, data in content(tmp_path / "o").items() if not name.startswith(".rejected")}
        assert left == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="something else"):
        run(tmp_path, items(3))
    with pytest.raises(InputError, match="something else"):
        run(tmp_path / "mine.txt", items(3))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_shards_share_a_folder_and_cover_the_input_once(tmp_path):
    for index in (2, 1, 3):
        assert incomplete_shards(tmp_path / "o") or index == 2
        run(tmp_path / "o", items(20, wrong=(2, 4)), shard=f"{index}/3")
    assert incomplete_shards(tmp_path / "o") == []
    text = "".join(file.read_text() for *_, file in list_parts(tmp_path / "o"))
    assert sorted(int(line.split()[1][1:]) for line in text.splitlines()) == [n for n in range(20) if n not in (2, 4)]
    listed = [(tmp_path / f"o.rejected.{i}of3.csv") for i in (1, 2, 3)]
    assert [file.exists() for file in listed] == [False, True, True]


def test_a_long_list_of_rejected_ones_is_not_held(tmp_path):
    output, text = ChunkedOutput(tmp_path / "o", IDENTITY), b"1,s1,line 1,wrong\n" * 500_000
    with output.alone(3, Shard()):
        output.rejected_draft(Shard()).write_bytes(text)
        tracemalloc.start()
        try:
            output.keep_rejected(Shard(), 500_000)
            assert tracemalloc.get_traced_memory()[1] < len(text) / 4
        finally:
            tracemalloc.stop()
    assert output.rejected(Shard()).read_bytes() == text
    assert not output.rejected_draft(Shard()).exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0", ""])
def test_shards_that_cannot_be(text):
    with pytest.raises(InputError, match="shard="):
        Shard.parse(text)


def test_two_processes_do_not_write_one_shard(tmp_path):
    def compute(chunk, given, path):
        with pytest.raises(InputError, match="another process is writing shard 1/1"):
            run(tmp_path / "o", items(3))
        write(chunk, given, path)

    assert run(tmp_path / "o", items(3), compute=compute).done == 3


@pytest.fixture
def meanwhile(monkeypatch):
    """`meanwhile(where, name, what)`: another process does so just before this one's first call."""

    def before(where, name, what):
        real = getattr(where, name)

        def first(*given):
            monkeypatch.setattr(where, name, real)
            what()
            return real(*given)

        monkeypatch.setattr(where, name, first)

    return before


def test_what_another_process_did_before_the_lock_is_found_done(tmp_path, meanwhile):
    meanwhile(fcntl, "flock", lambda: run(tmp_path / "o", items(5)))
    assert run(tmp_path / "o", items(5)) == Counts(0, 5, 0)


def test_a_folder_that_its_writer_took_away_is_not_written(tmp_path, meanwhile):
    def ends():
        ChunkedOutput(tmp_path / "o", IDENTITY).discard()

    meanwhile(fcntl, "flock", ends)
    with pytest.raises(InputError, match="another process is writing shard 1/1"):
        run(tmp_path / "o", items(3))
    assert list(tmp_path.iterdir()) == []


def test_shards_that_begin_at_once_have_one_manifest(tmp_path, meanwhile):
    meanwhile(Path, "write_bytes", lambda: run(tmp_path / "o", items(9), shard="2/2", size=4))
    with pytest.raises(InputError, match="chunk: 4 there, 3 now"):
        run(tmp_path / "o", items(9), shard="1/2")
    assert read_identity(tmp_path / "o")["chunk"] == 4
    meanwhile(Path, "write_bytes", lambda: run(tmp_path / "same", items(9), shard="2/2"))
    assert run(tmp_path / "same", items(9), shard="1/2").done == 5
    assert not list(tmp_path.rglob("*.part"))


def test_a_shard_that_begins_while_another_looks_is_nothing_else(tmp_path, meanwhile):
    meanwhile(parts, "read_identity", lambda: run(tmp_path / "o", items(9), shard="2/2"))
    assert run(tmp_path / "o", items(9), shard="1/2").done == 5
    (tmp_path / "p").mkdir()
    meanwhile(os, "listdir", lambda: run(tmp_path / "p", items(9), shard="2/2"))
    assert run(tmp_path / "p", items(9), shard="1/2").done == 5


def test_without_hard_links(tmp_path, monkeypatch):
    def none(*given):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    assert run(tmp_path / "o", items(3)).done == 3
    assert read_identity(tmp_path / "o")["chunk"] == 3 and not list(tmp_path.rglob("*.part"))


def test_a_damaged_manifest_is_told(tmp_path):
    run(tmp_path / "o", items(3))
    (tmp_path / "o" / "_manifest.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        run(tmp_path / "o", items(3))


def test_an_input_that_breaks_off_keeps_its_parts(tmp_path):
    def broken():
        yield from items(8)
        raise damaged("x.gz", 9, EOFError("cut short"))

    with pytest.raises(InputError, match=r"cut short.* What was computed before that line is kept\.$"):
        run(tmp_path / "o", broken())
    assert len(list_parts(tmp_path / "o")) == 2
    assert run(tmp_path / "o", items(9)) == Counts(3, 6, 0)


def test_an_input_that_breaks_off_at_once_keeps_nothing_and_says_so(tmp_path):
    def broken():
        yield from items(2)
        raise damaged("x.gz", 3, EOFError("cut short"))

    with pytest.raises(InputError, match=r"Get the file again\.$"):
        run(tmp_path / "o", broken())
    assert list_parts(tmp_path / "o") == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_inference_chunks import items, run, write

def compute(chunk, given, path):
    write(chunk, given, path)
    if chunk == 2:
        os.kill(os.getpid(), signal.SIGKILL)

run(Path(sys.argv[1]), items(11), compute=compute)
"""


def test_a_killed_process_leaves_whole_parts(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "ended" / "o")], check=False, cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert len(list_parts(tmp_path / "ended" / "o")) == 2
    assert list((tmp_path / "ended" / "o").glob(".draft*"))
    assert run(tmp_path / "ended" / "o", items(11)) == Counts(5, 6, 0)
    run(tmp_path / "whole" / "o", items(11))
    assert content(tmp_path / "ended" / "o") == content(tmp_path / "whole" / "o")
    assert json.loads((tmp_path / "whole" / "o" / "_end-1of1.json").read_text())["sequences"] == 11


WAITS = """
import sys
from pathlib import Path
from plmft import InputError
from plmft.ending import ending
from plmft.inference.sequences import read_sequences
from plmft.training.interrupts import terminate_as_interrupt
from tests.unit.test_inference_chunks import run, write

def compute(chunk, given, path):
    if sys.argv[2] == "fails":
        raise InputError("it can't")
    write(chunk, given, path)

with ending("kept"):
    terminate_as_interrupt()
    run(Path(sys.argv[1]), read_sequences("-"), compute=compute)
"""


@pytest.mark.parametrize(("how", "code", "told"), [("fails", 2, "it can't"), ("is ended", 143, "interrupted; kept")])
def test_a_pipe_that_says_nothing_holds_up_no_end(tmp_path, how, code, told):
    command = [sys.executable, "-c", WAITS, str(tmp_path / "o"), how]
    given = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": os.getcwd()}
    with subprocess.Popen(command, **given) as process:
        try:
            process.stdin.write(b">a\nM\n>b\nM\n>c\nM\n>d\nM\n")
            process.stdin.flush()
            deadline = time.monotonic() + 60
            while how == "is ended" and not list(tmp_path.glob("o/part-*")):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            if how == "is ended":
                process.terminate()
            assert process.wait(30) == code
            assert process.stderr.read().decode() == f"plmft: {told}\n"
        finally:
            process.kill()
