"""Search, plot and probe after embedding, as a user gives the commands."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import random_sequence

pytestmark = pytest.mark.slow


def embed(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "plmft.embed", *arguments]
    return subprocess.run(command, cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 proteins of two compositions, embedded, with a table of labels."""
    place, rng = tmp_path_factory.mktemp("uses"), np.random.default_rng(3)
    kinds = ["rich in A" if n % 2 else "random" for n in range(40)]
    proteins = [random_sequence(rng, 30) + ("A" * 30 if n % 2 else random_sequence(rng, 30)) for n in range(40)]
    rows = [f"p{n},{kind},{('train', 'train', 'valid', 'test')[n // 2 % 4]}" for n, kind in enumerate(kinds)]
    (place / "labels.csv").write_text("\n".join(["id,kind,split", *rows]))
    (place / "all.fasta").write_text("".join(f">p{n}\n{protein}\n" for n, protein in enumerate(proteins)))
    (place / "new.fasta").write_text(f">new\n{proteins[7][:-1]}\n>bad\nAC1D\n")
    done = embed("model=esm2_tiny", "input=all.fasta", "output=vectors", "layers=[1,2]", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


def test_new_sequences_are_embedded_as_the_index_was(folder: Path) -> None:
    done = embed("search", "index=vectors", "layer=1", "query=new.fasta", "k=3", "hardware=cpu", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines(), delimiter="\t"))
    assert [(row["query"], row["rank"]) for row in rows] == [("new", "1"), ("new", "2"), ("new", "3")]
    assert rows[0]["hit"] == "p7" and float(rows[0]["cosine"]) > 0.99
    assert "esm2_tiny (random weights, seed 0), layer 1, mean" in done.stderr
    assert "1 sequences of new.fasta are rejected and have no hits; the first, new.fasta, line 3: bad" in done.stderr
    assert "Recall@3 against brute force: 1.000" in done.stderr


def test_other_weights_are_refused(folder: Path) -> None:
    done = embed("model=esm2_tiny", "seed=1", "input=new.fasta", "output=other.h5", "layers=[1,2]", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = embed("search", "index=vectors", "layer=1", "query=other.h5", cwd=folder)
    assert done.returncode == 2 and "do not compare" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_probe_and_picture(folder: Path) -> None:
    done = embed("probe", "embeddings=vectors", "layer=2", "labels=labels.csv", "target=kind", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "train 20, valid 10, test 10" in done.stdout and "test accuracy                1.000" in done.stdout
    done = embed(
        *("plot", "embeddings=vectors", "layer=2", "labels=labels.csv", "column=kind", "method=tsne"),
        *("perplexity=5", "output=map.svg"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    drawn = (folder / "map.svg").read_text()
    assert "rich in A (20)" in drawn or drawn.count("<use") >= 40
