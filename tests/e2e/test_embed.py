"""The embed command as a user runs it: killed and gone on, from a pipe, onto a full disk."""

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from plmft import InputError, embed
from plmft.embeddings.formats import open_embeddings
from plmft.models import kernels
from tests.conftest import random_sequence
from tests.e2e.command import environment, stopped_in_silence

TIMEOUT_S, COUNT = 110, 1500
OPTIONS = ("model=esm2_tiny", "hardware=cpu", "hardware.precision=fp32")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "plmft.embed", *OPTIONS, *words]


def run(tmp_path: Path, *words: str, **options) -> subprocess.CompletedProcess:
    done = {"capture_output": True, "env": environment(tmp_path / "runs"), "timeout": TIMEOUT_S} | options
    return subprocess.run(command(*words), **done)


@pytest.fixture
def fasta(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "in.fasta"
    lengths = rng.integers(20, 200, COUNT)
    path.write_text("".join(f">s{i}\n{random_sequence(rng, int(length))}\n" for i, length in enumerate(lengths)))
    return path


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*")))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_twice_and_gone_on(fasta: Path, tmp_path: Path) -> None:
    words = (f"input={fasta}", "chunk=50")
    whole = run(tmp_path, *words, f"output={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    killed, seen = tmp_path / "killed", 0
    for _ in range(2):
        with subprocess.Popen(command(*words, f"output={killed}"), env=environment(tmp_path / "runs")) as process:
            deadline = time.monotonic() + TIMEOUT_S
            while parts(killed) < seen + 3:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        seen = parts(killed)
        assert seen < COUNT // 50
    last = run(tmp_path, *words, f"output={killed}")
    assert last.returncode == 0 and f"({50 * seen:,} of them from before" in last.stdout.decode()
    files = {file.name: file.read_bytes() for file in (tmp_path / "whole").glob("[!.]*")}
    assert {file.name: file.read_bytes() for file in killed.glob("[!.]*")} == files
    assert open_embeddings(killed).ids == [f"s{i}" for i in range(COUNT)]


@pytest.mark.slow
def test_from_a_pipe(fasta: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "input=-", f"output={tmp_path}/out.parquet", input=gzip.compress(fasta.read_bytes()))
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert open_embeddings(tmp_path / "out.parquet").ids == [f"s{i}" for i in range(COUNT)]


@pytest.mark.slow
def test_a_pipe_that_says_nothing_holds_up_no_end(fasta: Path, tmp_path: Path) -> None:
    words = command("input=-", f"output={tmp_path}/out", "chunk=50")
    ended = stopped_in_silence(
        words, fasta.read_bytes(), lambda: parts(tmp_path / "out") == COUNT // 50 - 1, tmp_path / "runs"
    )
    assert (ended.code, ended.out) == (143, ""), ended
    assert ended.err == "plmft: interrupted; what was written is kept. Give the same command again to go on.\n"


@pytest.mark.slow
def test_a_disk_that_fills_up(fasta: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: the write fails in the same place, with another errno."""
    words = (f"input={fasta}", f"output={tmp_path}/out", "chunk=100", "per=residue", "format=h5")
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 512; exec "$0" "$@"', *command(*words)]
    full = subprocess.run(limited, capture_output=True, env=environment(tmp_path / "runs"), timeout=TIMEOUT_S)
    assert full.returncode == 2 and b"can't write" in full.stderr and b"Traceback" not in full.stderr, full.stderr
    assert parts(tmp_path / "out") == 0 and not list((tmp_path / "out").glob(".draft*"))


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The command in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["embed", *OPTIONS, *words])
        embed.main()

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], main) -> None:
    (tmp_path / "in.fasta").write_text(">a\nACD\n")
    for words, told in (
        ([f"input={tmp_path}/no.fasta", f"output={tmp_path}/out"], "no.fasta: there is no such file"),
        ([f"input={tmp_path}/in.fasta", f"output={tmp_path}/out", "layers=[9]"], "no layer 9"),
        ([f"input={tmp_path}/in.fasta", f"output={tmp_path}/out", "run=ab12"], "run=ab12 brings its own model"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(*words)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("plmft: ") and told in line


def test_what_is_told_in_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], main) -> None:
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nACD\n>b\nAC1\n>c\nACD\n")
    main(f"input={fasta}", f"output={tmp_path}/out", "layers=[0,-1]")
    first, model, *_, rejected = capsys.readouterr().out.splitlines()
    assert first == f"2 sequences in {tmp_path}/out (0 of them from before; 1 computed now), 1 rejected"
    assert model == "esm2_tiny (random, seed 0), layers 0, 2, mean over residues, 64 numbers a layer"
    assert rejected.endswith("out.rejected.csv")


def test_a_kernel_that_could_be_built_is_told(tmp_path: Path, capsys, main, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "notes", lambda device: (f"a kernel for {device}",))
    (tmp_path / "in.fasta").write_text(">a\nACD\n")
    main(f"input={tmp_path}/in.fasta", f"output={tmp_path}/out")
    assert "a kernel for cpu" in capsys.readouterr().out.splitlines()


def test_a_misspelt_word_is_told() -> None:
    with pytest.raises(InputError, match=r"serch: there is no such word\. Did you mean 'search'"):
        embed.embed(["serch", "index=x"])


def test_what_may_be_dna_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], main) -> None:
    for name, sequences, told in (("dna", ("ACGT", "ACGTN"), 1), ("peptides", ("ACGT", "ACD"), 0)):
        fasta = tmp_path / f"{name}.fasta"
        fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        main(f"input={fasta}", f"output={tmp_path}/{name}")
        assert capsys.readouterr().out.count("Every sequence (2) holds the letters ACGTUN alone.") == told
