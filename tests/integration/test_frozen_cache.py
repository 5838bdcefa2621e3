"""Frozen tuning from the cache: the same gradients, predictions and results as through the backbone, which rests."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from plmft.data.packing import EncodedSplit, StepBatch
from plmft.data.records import Record
from plmft.efficiency.phase import PhaseMeter
from plmft.models import embedding_cache
from plmft.models.head_spec import Head, PairHead, ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.windows import Windows
from plmft.training.data import PackedData
from plmft.training.embedded import Embedded, EmbeddingPhase, backbone_set_aside
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device
from plmft.training.metering import Metering
from plmft.training.optim import Optim
from plmft.training.result import Result
from tests.unit.networks import TOKENIZERS, backbone, records

ESM = TOKENIZERS["esm2"]
CPU = Device("cpu", "fp32", None)
LENGTHS = [9, 30, 21, 14, 40, 9, 33, 25]
HEADS = {
    "mean": ("sequence_regression", SequenceHead("mean", True, 16, 0.0)),
    "max": ("sequence_multilabel", SequenceHead("max", False, 16, 0.0)),
    "cls": ("sequence_classification", SequenceHead("cls", True, 16, 0.0)),
    "attention": ("sequence_regression", SequenceHead("attention", True, 16, 0.0)),
    "concat": ("sequence_regression", SequenceHead("concat", False, 16, 0.0, (2, 9))),
    "positions": ("sequence_regression", SequenceHead("mean", True, 16, 0.0, (3, 7, 8))),
    "pairs": ("pair_classification", SequenceHead("mean", False, 16, 0.0)),
    "residues": ("residue_classification", ResidueHead(0.0)),
    "contacts": ("contacts", PairHead(4, 8, 0.0)),
}


def made_of(rng: np.random.Generator, kind: str) -> list[Record]:
    if kind != "contacts":
        return records(rng, LENGTHS, kind)
    return [
        replace(record, target=rng.normal(0, 8, (len(record.sequence), 3)).astype(np.float32))
        for record in records(rng, LENGTHS, "residue_classification")
    ]


def predictor_of(head: Head, kind: str, *, seed: int = 0) -> Predictor:
    model = backbone("esm2").requires_grad_(False)
    torch.manual_seed(seed)
    outputs = {"sequence_regression": 1, "contacts": 1}.get(kind, 3)
    return Predictor(model, head.build(32, outputs, kind), kind).train()


def embed(
    predictor: Predictor,
    splits: dict[str, EncodedSplit],
    root: Path,
    *,
    budget: int = 60,
    said: io.StringIO | None = None,
    spent: Path | None = None,
) -> Embedded:
    phase = EmbeddingPhase(
        predictor,
        root=root,
        tokenizer=ESM.digest,
        device=CPU,
        tokens_per_batch=budget,
        meter=PhaseMeter("cpu"),
        flops=lambda lengths: 1e6 * sum(lengths),
        console=Console(file=said or io.StringIO(), width=300),
        spent=spent,
    )
    return phase.run(splits)


def test_a_process_that_goes_on_adds_what_the_one_before_spent(tmp_path: Path, rng: np.random.Generator) -> None:
    """The vectors are there by then, but it was this run that computed them."""
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)
    first = embed(predictor, {"train": split}, tmp_path, spent=tmp_path / "a" / "embed-0.json").cost.values
    again = embed(predictor, {"train": split}, tmp_path, spent=tmp_path / "a" / "embed-0.json").cost.values
    other = embed(predictor, {"train": split}, tmp_path, spent=tmp_path / "b" / "embed-0.json").cost.values
    assert first["sequences_computed"] == again["sequences_computed"] > 0 == other["sequences_computed"]
    assert first["model_flops"] == again["model_flops"] and again["wall_time_s"] > first["wall_time_s"]


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residues, too: then only the order of sums differs."""
    monkeypatch.setattr("plmft.training.embedded.HALF", "float32")


def gradients(predictor: Predictor, step: StepBatch) -> dict[str, torch.Tensor]:
    predictor.zero_grad()
    predictor.backward_step(step, torch.Tensor.backward)
    return {name: p.grad.clone() for name, p in predictor.head.named_parameters()}


@pytest.mark.parametrize("name", HEADS)
def test_gradients_and_predictions_are_those_through_the_backbone(
    name: str, tmp_path: Path, rng: np.random.Generator, in_float32: None
) -> None:
    """Whatever the head pools, and although the backbone's step is cut and the cached one may not be."""
    kind, head = HEADS[name]
    predictor = predictor_of(head, kind)
    split = EncodedSplit(made_of(rng, kind), ESM, kind)
    embedded = embed(predictor, {"train": split}, tmp_path)
    index = rng.permutation(len(LENGTHS))
    wanted = gradients(predictor, split.step(index, 60))
    state = {n: b.clone() for n, b in predictor.head.named_buffers()}
    with backbone_set_aside(predictor):
        found = gradients(predictor, embedded.splits["train"].step(index, 60))
        predictions = predictor.eval().predict(embedded.splits["train"].pack(index))
    assert set(found) == set(wanted)
    for parameter, gradient in wanted.items():
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-4, atol=1e-5, msg=parameter)
    for buffer, value in state.items():
        if value.is_floating_point():
            assert value.isfinite().all(), buffer
    for a, b in zip(predictions, predictor.eval().predict(split.pack(index)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_half_precision_moves_predictions_by_its_rounding_alone(tmp_path: Path, rng: np.random.Generator) -> None:
    """A linear head sums D products: its outputs move by at most 2⁻¹¹ of the sum of their magnitudes."""
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind).eval(), EncodedSplit(made_of(rng, kind), ESM, kind)
    embedded = embed(predictor, {"train": split}, tmp_path)
    index = np.arange(len(LENGTHS))
    with torch.no_grad():
        exact, rounded = predictor(split.pack(index)), predictor(embedded.splits["train"].pack(index))
        vectors, weight = predictor.backbone(split.pack(index)), predictor.head.linear.weight
        bound = 2**-11 * vectors.abs() @ weight.abs().T
    assert ((exact - rounded).abs() <= bound + 1e-5).all() and not torch.equal(exact, rounded)


def test_long_sequences_come_from_their_windows(tmp_path: Path, rng: np.random.Generator, in_float32: None) -> None:
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)
    whole = embed(predictor, {"train": split}, tmp_path)
    predictor.windows = Windows.of(12, ESM)
    embedded = embed(predictor, {"train": split}, tmp_path)
    assert embedded.cost.values["sequences_computed"] == whole.cost.values["sequences_computed"] == 8
    index = np.arange(len(LENGTHS))
    found, wanted = embedded.splits["train"].pack(index).vectors, predictor._vectors(split.pack(index))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


class Passes(nn.Module):
    """A backbone that counts what it reads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.sequences, self.width = inner, 0, inner.width

    def forward(self, batch: object) -> torch.Tensor:
        self.sequences += len(batch.lengths)
        return self.inner(batch)


def train(
    folder: Path,
    splits: dict[str, list[Record]],
    head: Head,
    *,
    seed: int = 0,
    lr: float = 0.01,
    cached: bool = True,
    device: Device = CPU,
) -> tuple[Result, Embedded | None, int]:
    """A run; what it came to, and how many sequences the backbone read."""
    pl.seed_everything(seed, verbose=False)
    predictor = predictor_of(head, "residue_classification", seed=seed)
    predictor.backbone = counting = Passes(predictor.backbone)
    encoded = {split: EncodedSplit(found, ESM, "residue_classification") for split, found in splits.items()}
    embedded = embed(predictor, encoded, folder / "cache") if cached else None
    optim = Optim(lr, 3, None, 0.0, 0.0, "constant", 1.0, None)
    data = embedded.splits if embedded else encoded
    result = fine_tune(
        predictor,
        PackedData(data, batch_size=3, tokens_per_batch=60, seed=seed, optim=optim),
        optim=optim,
        device=device,
        metering=Metering(lambda: PhaseMeter("cpu"), train_flops=None, test_flops=None),
        score=lambda found: {"accuracy": float(np.mean([p.max(1).mean() for p in found]))},
        monitor="accuracy",
        folder=folder / f"{seed}-{lr}-{cached}-{device.precision}",
        log=lambda values, step: None,
        console=Console(quiet=True),
    )
    return result, embedded, counting.sequences


@pytest.fixture
def splits(rng: np.random.Generator) -> dict[str, list[Record]]:
    return {split: records(rng, LENGTHS, "residue_classification") for split in ("train", "valid", "test")}


def test_a_run_with_the_cache_comes_to_the_same(tmp_path: Path, splits: dict, in_float32: None) -> None:
    slow, _, passes = train(tmp_path, splits, ResidueHead(0.2), cached=False)
    fast, embedded, computed = train(tmp_path, splits, ResidueHead(0.2))
    assert passes == 3 * (8 + 8) + 8 and computed == 24  # three epochs with validation, and the test; each once
    assert slow.best_step == fast.best_step
    for (_, a), (_, b) in zip(slow.history.train_loss, fast.history.train_loss, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(slow.predictions["test"], fast.predictions["test"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert embedded.cached and not embedded.notes


def test_the_head_learns_in_fp32_whatever_the_precision(tmp_path: Path, splits: dict) -> None:
    """The same vectors, so the same weights: autocast must not round the head's gradients either."""
    exact, _, _ = train(tmp_path, splits, ResidueHead(0.0))
    mixed, _, computed = train(tmp_path, splits, ResidueHead(0.0), device=Device("cpu", "bf16", None))
    assert computed == 0
    for a, b in zip(mixed.predictions["test"], exact.predictions["test"], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_sweep_computes_the_backbone_once(tmp_path: Path, splits: dict) -> None:
    """Seeds, learning rates and heads share a cache."""
    runs = [{"seed": 0}, {"seed": 1}, {"seed": 2}, {"seed": 0, "lr": 0.1}, {"seed": 5, "cached": True}]
    heads = [ResidueHead(0.0)] * 4 + [ResidueHead(0.3)]
    counts = [train(tmp_path, splits, head, **run)[2] for head, run in zip(heads, runs, strict=True)]
    assert counts == [24, 0, 0, 0, 0]


def test_the_phase_says_what_it_did_and_what_it_cost(tmp_path: Path, rng: np.random.Generator) -> None:
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)
    said = io.StringIO()
    first = embed(predictor, {"train": split, "valid": split}, tmp_path, said=said)
    again = embed(predictor, {"train": split}, tmp_path, said=said)
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("Embeddings: 8 sequences computed, 0 of 8 from the cache (0.0")
    assert lines[1].startswith("Embeddings: 0 sequences computed, 8 of 8 from the cache (0.0") and len(lines) == 2
    values = first.cost.values
    assert (values["sequences"], values["sequences_computed"]) == (8, 8)
    assert values["model_flops"] == 1e6 * (sum(LENGTHS) + 2 * len(LENGTHS)) and values["wall_time_s"] > 0
    assert values["cache_gb"] == again.cost.values["cache_gb"] > 64 * sum(LENGTHS) / 1e9
    assert "model_flops" not in again.cost.values


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(embedding_cache.shutil, "disk_usage", lambda folder: usage)
    yield


def test_a_run_goes_on_without_a_cache_where_there_is_no_room(tmp_path: Path, splits: dict, full_disk: None) -> None:
    result, embedded, passes = train(tmp_path, splits, ResidueHead(0.0))
    assert passes == 3 * (8 + 8) + 8 and len(result.predictions["test"]) == 8
    (note,) = embedded.notes
    assert note.startswith("Embeddings are not cached (") and "GB free in" in note
    assert not embedded.cached and not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_folder_that_is_a_file_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    (tmp_path / "cache").write_text("")
    kind, head = HEADS["residues"]
    split = EncodedSplit(made_of(rng, kind), ESM, kind)
    embedded = embed(predictor_of(head, kind), {"train": split}, tmp_path / "cache")
    assert embedded.splits["train"] is split and "each epoch passes through the backbone" in embedded.notes[0]


def test_a_damaged_file_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)
    embed(predictor, {"train": split}, tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    embedded = embed(predictor, {"train": split}, tmp_path)
    assert embedded.notes == ("Damaged files of the cache of embeddings, removed and computed again: 1.",)
    assert embedded.cost.values["sequences_computed"] == 8


def test_out_of_memory_goes_on_with_fewer_tokens(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)
    inner, said = predictor.backbone.forward, io.StringIO()

    def narrow(batch: object) -> torch.Tensor:
        if sum(batch.lengths) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(batch)

    monkeypatch.setattr(predictor.backbone, "forward", narrow)
    embedded = embed(predictor, {"train": split}, tmp_path, budget=160, said=said)
    assert embedded.cost.values["sequences_computed"] == 8
    assert "Out of memory: embedding goes on with at most 80 tokens at once." in said.getvalue()
    monkeypatch.setattr(predictor.backbone, "forward", lambda batch: narrow(split.pack(np.arange(8))))
    embedded = embed(predictor, {"train": split}, tmp_path / "other", budget=160)
    assert not embedded.cached and "(out of memory at a sequence of 42 tokens)" in embedded.notes[0]


def test_the_backbone_is_back_after_training_whatever_happened() -> None:
    predictor = predictor_of(*reversed(HEADS["residues"]))
    model = predictor.backbone
    with pytest.raises(KeyboardInterrupt), backbone_set_aside(predictor):
        assert predictor.backbone is not model and predictor.frozen
        raise KeyboardInterrupt
    assert predictor.backbone is model


def test_ranks_wait_for_one_another_and_agree(tmp_path: Path, rng: np.random.Generator) -> None:
    """Rank 0 of two: the other's share is there when all have gathered, or the run goes on without a cache."""
    kind, head = HEADS["residues"]
    predictor, split = predictor_of(head, kind), EncodedSplit(made_of(rng, kind), ESM, kind)

    def run(other: bool) -> Embedded:
        def gather(value: object) -> list:
            if isinstance(value, tuple):
                if other:
                    EmbeddingPhase(predictor, rank=1, world=2, **options).run({"train": split})
                return [value, (other, 0)]
            return [value, other]

        options = {
            "root": tmp_path / str(other),
            "tokenizer": ESM.digest,
            "device": CPU,
            "tokens_per_batch": 99,
            "flops": lambda lengths: 0.0,
            "console": Console(quiet=True),
        }
        options["meter"] = PhaseMeter("cpu")
        phase = EmbeddingPhase(predictor, rank=0, world=2, gather=gather, **options)
        options["meter"] = PhaseMeter("cpu")
        return phase.run({"train": split})

    assert run(other=True).cached
    without = run(other=False)
    assert not without.cached and "another process can't" in without.notes[0]
