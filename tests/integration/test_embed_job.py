"""Embedding jobs: killed and gone on = uninterrupted, shards together = the whole, each sequence computed once."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.embeddings import job
from plmft.embeddings.choices import Choices, Request
from plmft.embeddings.computing import Parts
from plmft.embeddings.formats import open_embeddings
from plmft.embeddings.job import Outcome, run_job
from plmft.embeddings.repeats import Remembered, find_repeated
from plmft.embeddings.vectors import Reader
from plmft.inference.sequences import Columns
from plmft.inference.showing import Watched
from plmft.models.embedding import embed_sequences
from plmft.models.tuned import load
from plmft.models.tuning import Frozen
from plmft.tracking.options import Tracking
from plmft.training.hardware import Hardware
from tests.conftest import random_sequence
from tests.unit import tuned_models

CONTEXT = tuned_models.spec().context
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def sequences(rng: np.random.Generator) -> dict[str, str]:
    """Twenty; some come again in the same part and in others, one is longer than the context."""
    found = {f"s{i}": random_sequence(rng, int(rng.integers(3, 50))) for i in range(20)}
    found |= {"s3": found["s1"], "s9": found["s1"], "s15": found["s6"]}
    return found | {"s11": random_sequence(rng, 2 * CONTEXT + 7)}


@pytest.fixture
def fasta(tmp_path: Path, sequences: dict[str, str]) -> Path:
    return write_fasta(tmp_path / "in.fasta", sequences)


def write_fasta(path: Path, sequences: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return path


def ask(fasta: Path, output: Path, *, seed: int = 0, run: str | None = None, **changes) -> Outcome:
    choices = Choices(Columns(), **({"chunk": 4} | changes))
    hardware = Hardware("cpu", "fp32", 4096, None)
    request = Request(str(fasta), str(output), choices, tuned_models.spec(), hardware, Tracking(), seed, run)
    return run_job(request, output.parent / "runs")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not file.name.startswith(".")
    }


class Killed(BaseException):
    pass


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch):
    """`kill(after)`: so many parts are computed, and the one after is only half done."""
    written = Parts.write

    def after(parts: int | None) -> None:
        count = 0

        def write(self: Parts, given, path: Path) -> None:
            nonlocal count
            written(self, given, path)
            if parts is not None and count == parts:
                raise Killed
            count += 1

        monkeypatch.setattr(Parts, "write", write)

    return after


@pytest.mark.parametrize("kind", ["h5", "npy", "parquet", "safetensors"])
def test_killed_and_gone_on_is_uninterrupted(kind: str, fasta: Path, tmp_path: Path, kill) -> None:
    per = "residue" if kind in ("npy", "h5") else "sequence"
    ask(fasta, tmp_path / "whole", format=kind, per=per, layers=(0, 2))
    kill(3)
    with pytest.raises(Killed):
        ask(fasta, tmp_path / "killed", format=kind, per=per, layers=(0, 2))
    with pytest.raises(InputError, match="not ended"):
        open_embeddings(tmp_path / "killed", 2)
    assert len(open_embeddings(tmp_path / "killed", 2, incomplete=True).ids) == 12
    kill(None)
    outcome = ask(fasta, tmp_path / "killed", format=kind, per=per, layers=(0, 2))
    assert outcome.counts.skipped == 12 and outcome.counts.done == 8
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["x.h5", "x.parquet"])
def test_a_file_is_the_folder(name: str, fasta: Path, sequences, tmp_path: Path, kill) -> None:
    ask(fasta, tmp_path / "folder", per="residue")
    kill(3)
    with pytest.raises(Killed):
        ask(fasta, tmp_path / name, per="residue")
    assert not (tmp_path / name).exists()
    kill(None)
    ask(fasta, tmp_path / name, per="residue")
    folder, file = open_embeddings(tmp_path / "folder"), open_embeddings(tmp_path / name)
    assert file.ids == folder.ids == list(sequences)
    for mine, theirs in zip(file.vectors, folder.vectors, strict=True):
        assert np.array_equal(mine, theirs)
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*draft*"))


def test_a_file_that_is_there_is_kept(fasta: Path, sequences, tmp_path: Path) -> None:
    first = ask(fasta, tmp_path / "x.h5")
    before = (tmp_path / "x.h5").read_bytes()
    again = ask(fasta, tmp_path / "x.h5")
    assert again.computed == 0 and again.counts.skipped == first.counts.done == 20
    for changes, told in (({"seed": 1}, "seed 0 there"), ({"layers": (1,)}, "layers"), ({"pooling": "max"}, "pooling")):
        with pytest.raises(InputError, match=told):
            ask(fasta, tmp_path / "x.h5", **changes)
    write_fasta(fasta, sequences | {"s5": "ACD"})
    with pytest.raises(InputError, match="another input"):
        ask(fasta, tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_bytes() == before


def test_a_file_that_is_there_was_made_of_its_input_whatever_the_chunk(fasta: Path, tmp_path: Path) -> None:
    ask(fasta, tmp_path / "x.h5", chunk=4)
    assert ask(fasta, tmp_path / "x.h5", chunk=3).counts.skipped == 20


def test_the_same_command_at_once_is_refused_until_the_file_is_there(fasta: Path, tmp_path: Path, monkeypatch) -> None:
    joined = job.join

    def meanwhile(*given) -> None:
        with pytest.raises(InputError, match=r"x\.h5\.parts: another process is writing shard 1/1 there"):
            ask(fasta, tmp_path / "x.h5")
        joined(*given)

    monkeypatch.setattr(job, "join", meanwhile)
    assert ask(fasta, tmp_path / "x.h5").counts.done == 20
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.fasta", "x.h5"]


def test_the_bar_of_a_shard_counts_its_own_residues(fasta: Path, sequences, tmp_path: Path, monkeypatch) -> None:
    made: list[Watched] = []
    monkeypatch.setattr(job, "Watched", lambda position: made.append(Watched(position)) or made[-1])
    ask(fasta, tmp_path / "out", shard="2/2")
    assert made[0].read == made[0].done == sum(map(len, list(sequences.values())[1::2]))


@pytest.mark.parametrize("per", ["sequence", "residue"])
def test_shards_together_are_the_whole(per: str, fasta: Path, tmp_path: Path) -> None:
    ask(fasta, tmp_path / "whole", per=per)
    ask(fasta, tmp_path / "shards", per=per, shard="2/2")
    with pytest.raises(InputError, match="1/2"):
        open_embeddings(tmp_path / "shards")
    ask(fasta, tmp_path / "shards", per=per, shard="1/2")
    whole, shards = open_embeddings(tmp_path / "whole"), open_embeddings(tmp_path / "shards")
    assert shards.ids == whole.ids
    for mine, theirs in zip(shards.vectors, whole.vectors, strict=True):
        np.testing.assert_allclose(mine, theirs, **CLOSE)


def test_vectors_are_those_of_embed_sequences(fasta: Path, sequences, tmp_path: Path) -> None:
    outcome = ask(fasta, tmp_path / "out")
    found = open_embeddings(tmp_path / "out")
    backbone = outcome.embedding.read.backbone.backbone
    wanted = embed_sequences(tuned_models.spec(), list(sequences.values()), backbone=backbone, windows=True)
    np.testing.assert_allclose(found.vectors, wanted, **CLOSE)


@pytest.mark.parametrize("per", ["sequence", "residue"])
def test_each_sequence_is_computed_once(per: str, fasta: Path, tmp_path: Path, monkeypatch, kill) -> None:
    seen: list[str] = []
    read = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", lambda self, texts: seen.extend(texts) or read(self, texts))
    kill(2)  # also where a job goes on: what comes again is taken from the parts that are done
    with pytest.raises(Killed):
        ask(fasta, tmp_path / "out", per=per)
    del seen[8 - len(["s3"]) :]  # the third part was computed and lost
    kill(None)
    outcome = ask(fasta, tmp_path / "out", per=per)
    assert len(seen) == len(set(seen)) == 17
    found = dict(zip(open_embeddings(tmp_path / "out").ids, open_embeddings(tmp_path / "out").vectors, strict=True))
    assert np.array_equal(found["s1"], found["s3"]) and np.array_equal(found["s1"], found["s9"])
    assert np.array_equal(found["s6"], found["s15"]) and not np.array_equal(
        found["s1"], found["s6"][: len(found["s1"])]
    )
    assert outcome.counts.done == 12


def test_what_does_not_fit_the_budget_is_computed_again() -> None:
    vectors = {name: np.ones((1, 1, 4), np.float32) for name in "ABCD"}
    remembered = Remembered(find_repeated(["ABC", "DABC"]), budget=40)
    remembered.keep(vectors)
    assert [name for name in "ABCD" if remembered.get(name) is not None] == ["A", "B"]
    assert not remembered.wants("C")


@given(st.lists(st.lists(st.sampled_from(["A", "C", "DE", "F"]), max_size=4), max_size=4))
@settings(max_examples=25, deadline=None)
def test_repeated_are_those_of_several_parts(parts: list[list[str]]) -> None:
    from plmft.embeddings.repeats import digest

    wanted = {t for part in parts for t in part if sum(t in other for other in parts) > 1}
    assert set(find_repeated(parts).tolist()) == {digest(t) for t in wanted}


def test_long_sequences(fasta: Path, sequences, tmp_path: Path) -> None:
    window = ask(fasta, tmp_path / "window", per="residue")
    crop = ask(fasta, tmp_path / "crop", per="residue", length_policy="crop")
    refuse = ask(fasta, tmp_path / "refuse", per="residue", length_policy="refuse")
    assert (window.counts.done, crop.counts.done, refuse.counts.done) == (20, 20, 19)
    assert "s11" in refuse.rejected.read_text() and window.rejected is None
    lengths = {
        name: [len(v) for v in open_embeddings(tmp_path / name).vectors] for name in ("window", "crop", "refuse")
    }
    assert lengths["window"] == [len(s) for s in sequences.values()]
    assert lengths["crop"] == [min(CONTEXT, len(s)) for s in sequences.values()]
    assert "s11" not in open_embeddings(tmp_path / "refuse").ids and len(lengths["refuse"]) == 19


def test_another_model_is_not_mixed_in(fasta: Path, tmp_path: Path, kill) -> None:
    kill(2)
    with pytest.raises(Killed):
        ask(fasta, tmp_path / "out")
    kill(None)
    before = contents(tmp_path / "out")
    for changes, told in (({"seed": 1}, "weights_sha256"), ({"per": "residue"}, "per"), ({"chunk": 5}, "chunk")):
        with pytest.raises(InputError, match=told):
            ask(fasta, tmp_path / "out", **changes)
    assert contents(tmp_path / "out") == before


def test_half_precision_is_refused_where_it_would_be_infinite(fasta: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Reader, "__call__", lambda self, texts: [np.full((1, 1, 32), 7e4, np.float32) for _ in texts])
    with pytest.raises(InputError, match=r"70,000\. Set dtype=float32"):
        ask(fasta, tmp_path / "out", dtype="float16")


def test_a_disk_that_is_full_is_told(fasta: Path, tmp_path: Path, monkeypatch) -> None:
    def full(self: Parts, given, path: Path) -> None:
        path.write_bytes(b"half of a part")
        raise OSError(28, os.strerror(28))

    ask(fasta, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(Parts, "write", full)
        with pytest.raises(InputError, match="No space left"):
            ask(fasta, tmp_path / "out")
    ask(fasta, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_tuned_models_backbone(fasta: Path, sequences, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "tuned"
    tuned_models.saved(folder, "esm2", tuned_models.LORA, "sequence_regression", rng)
    outcome = ask(fasta, tmp_path / "out", run=str(folder))
    assert outcome.embedding.identity["weights"] == "tuned from random weights"
    backbone = load(folder).predictor.backbone
    wanted = embed_sequences(tuned_models.spec(), list(sequences.values()), backbone=backbone, windows=True)
    np.testing.assert_allclose(open_embeddings(tmp_path / "out").vectors, wanted, rtol=1e-3, atol=1e-4)
    plain = ask(fasta, tmp_path / "plain")
    assert plain.embedding.identity["weights_sha256"] != outcome.embedding.identity["weights_sha256"]


def test_a_tuned_models_backbone_that_is_held_in_bfloat16(fasta: Path, sequences, tmp_path: Path, rng) -> None:
    folder = tmp_path / "tuned"
    tuned_models.saved(folder, "esm2", Frozen(), "sequence_regression", rng, precision="bf16_weights")
    ask(fasta, tmp_path / "out", run=str(folder))  # in float32
    backbone = load(folder).predictor.backbone.float()
    wanted = embed_sequences(tuned_models.spec(), list(sequences.values()), backbone=backbone, windows=True)
    np.testing.assert_allclose(open_embeddings(tmp_path / "out").vectors, wanted, **CLOSE)


def test_the_folder_that_one_is_in(fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"output=/: there is something else"):
        ask(fasta, Path("/"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="there is something else"):
        ask(fasta, Path())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ask(fasta, Path())
    assert len(open_embeddings(tmp_path / "here").ids) == 20


def test_a_missing_package_is_told_first(fasta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[embed\]"'):
        ask(fasta, tmp_path / "x.h5")
    assert [file.name for file in tmp_path.iterdir()] == ["in.fasta"]


def test_a_place_that_can_not_be_written(fasta: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        ask(fasta, tmp_path / "file")
    with pytest.raises(InputError, match="can't write"):
        ask(fasta, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_that_can_be_embedded(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "in.fasta", {"a": "AC1", "b": "acd"})
    for name in ("x.h5", "folder"):
        with pytest.raises(InputError, match="none of 2 sequences"):
            ask(fasta, tmp_path / name)
        assert (tmp_path / f"{name}.rejected.csv").read_text().count("\n") == 3
        assert not (tmp_path / name).exists()
    for shard in ("1/2", "2/2"):
        ask(fasta, tmp_path / "shards", shard=shard)
    with pytest.raises(InputError, match="no sequence"):
        open_embeddings(tmp_path / "shards")


def test_a_model_that_learned_nothing_is_refused(fasta: Path, tmp_path: Path) -> None:
    cnn, hardware = tuned_models.spec("onehot_cnn"), Hardware("cpu", "fp32", 4096, None)
    request = Request(str(fasta), str(tmp_path / "out"), Choices(Columns()), cnn, hardware, Tracking(), 0)
    with pytest.raises(InputError, match="no pretrained weights"):
        run_job(request, tmp_path)
    assert not (tmp_path / "out").exists()
