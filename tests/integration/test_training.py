"""Truths of training: one seed gives one result, the token budget changes nothing, the best checkpoint is tested."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.data.task import DataPlace
from plmft.efficiency.phase import PhaseMeter
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead
from plmft.models.predictor import Predictor
from plmft.models.spec import TransformerSpec
from plmft.models.tokenizer import ESM
from plmft.models.tuning import Frozen, Full, LoRA, Tuning
from plmft.models.weights import Located
from plmft.tasks.planted_structure import planted_structure
from plmft.training.data import PackedData
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device
from plmft.training.metering import Metering
from plmft.training.optim import Optim
from plmft.training.result import Result
from plmft.training.scoring import score

TASK = planted_structure(ResidueHead(0.0), train=48, valid=12, test=20, seed=0)
SPEC = TransformerSpec("tiny", "esm2", 1, 16, 2, 32, 33, 200, 1026, 3824, None, None, "", "", init="random")
LORA = LoRA(rank=2, alpha=4, dropout=0.0, targets=("attention", "feedforward"))


def optim(**changes: object) -> Optim:
    usual = {"lr": 0.01, "epochs": 2, "max_steps": None, "weight_decay": 0.0, "warmup_fraction": 0.0}
    return Optim(**{**usual, "decay": "constant", "clip_norm": 1.0, "patience": None, **changes})


def by_split() -> dict[str, list[Record]]:
    records = TASK.read(DataPlace(None, Path("/nowhere"))).records
    return {split: [r for r in records if r.split == split] for split in ("train", "valid", "test")}


def train(
    folder: Path,
    *,
    seed: int = 0,
    budget: int = 4000,
    precision: str = "fp32",
    tuning: Tuning | None = None,
    options: Optim | None = None,
    valid_score: Callable | None = None,
    monitor: str = "accuracy",
    log: Callable = lambda values, step: None,
) -> tuple[Predictor, Result]:
    pl.seed_everything(seed, verbose=False)
    options, splits = options or optim(), by_split()
    predictor = build_predictor(
        SPEC, Located("random"), tuning=tuning or Full(), head=TASK.head, kind=TASK.kind, outputs=3
    )
    encoded = {split: EncodedSplit(records, ESM, TASK.kind) for split, records in splits.items()}
    data = PackedData(encoded, batch_size=8, tokens_per_batch=budget, seed=seed, optim=options)
    result = fine_tune(
        predictor,
        data,
        optim=options,
        device=Device("cpu", precision, None),
        metering=Metering(lambda: PhaseMeter("cpu"), train_flops=None, test_flops=None),
        score=valid_score or (lambda found: score(TASK, splits["valid"], found, seed=seed, intervals=False)),
        monitor=monitor,
        folder=folder,
        log=log,
        console=Console(quiet=True),
    )
    return predictor, result


def weights(predictor: Predictor) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in predictor.parameters()])


def test_one_seed_gives_one_result(tmp_path: Path) -> None:
    first, result = train(tmp_path / "a")
    second, again = train(tmp_path / "b")
    other, _ = train(tmp_path / "c", seed=1)
    assert torch.equal(weights(first), weights(second))
    assert [p.tolist() for p in result.predictions["test"]] == [p.tolist() for p in again.predictions["test"]]
    assert result.history.train_loss == again.history.train_loss
    assert not torch.equal(weights(first), weights(other))


def test_the_token_budget_changes_speed_alone(tmp_path: Path) -> None:
    """Gradients summed over 8 micro-steps differ from those of 1 by rounding, which Adam's first steps enlarge."""
    whole, _ = train(tmp_path / "a", budget=10_000, options=optim(max_steps=3, lr=1e-3))
    single, _ = train(tmp_path / "b", budget=1, options=optim(max_steps=3, lr=1e-3))
    torch.testing.assert_close(weights(whole), weights(single), rtol=1e-4, atol=1e-5)


def test_steps_end_where_they_should(tmp_path: Path) -> None:
    """48 records in steps of 8: 6 an epoch. A budget that ends inside the second epoch is validated there."""
    _, result = train(tmp_path / "a", options=optim(epochs=5, max_steps=8))
    assert result.steps == 8 and not result.stopped_early
    assert [step for step, _ in result.history.valid] == [6, 8]
    _, result = train(tmp_path / "b", options=optim(epochs=3, max_steps=100))
    assert result.steps == 18 and [step for step, _ in result.history.valid] == [6, 12, 18]


def test_the_best_checkpoint_is_tested_not_the_last(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.5, 0.4])

    def scored(found: list[np.ndarray]) -> dict[str, float]:
        return {"accuracy": next(scores)}

    model, result = train(tmp_path, options=optim(epochs=4), valid_score=scored)
    assert result.best_step == 12 and result.steps == 24
    best = torch.load(tmp_path / "best-00000012.ckpt", weights_only=True)["state_dict"]
    for name, value in best.items():
        assert torch.equal(value, model.state_dict()[name.removeprefix("predictor.")]), name
    last = torch.load(tmp_path / "step-00000024.ckpt", weights_only=True)["state_dict"]
    assert any(not torch.equal(value, last[name]) for name, value in best.items())


def test_validation_predictions_are_those_of_the_weights_that_were_chosen(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.9, 0.4])
    seen: list[list[np.ndarray]] = []

    def scored(found: list[np.ndarray]) -> dict[str, float]:
        seen.append(found)
        return {"accuracy": next(scores)}

    _, result = train(tmp_path, options=optim(epochs=4), valid_score=scored)
    assert result.best_step == 12
    assert [p.tolist() for p in result.valid] == [p.tolist() for p in seen[1]]
    assert [p.tolist() for p in result.valid] != [p.tolist() for p in seen[2]]


def test_an_error_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    scores = iter([0.9, 0.2, 0.5, 0.4])
    _, result = train(
        tmp_path, options=optim(epochs=4, patience=2), monitor="mae", valid_score=lambda found: {"mae": next(scores)}
    )
    assert result.best_step == 12 and result.steps == 24


def test_training_stops_when_validation_no_longer_improves(tmp_path: Path) -> None:
    scores = iter([0.5, 0.9, 0.8, 0.7, 0.6, 0.5])
    _, result = train(
        tmp_path, options=optim(epochs=6, patience=2), valid_score=lambda found: {"accuracy": next(scores)}
    )
    assert result.stopped_early and result.steps == 24 and result.best_step == 12


def test_an_undefined_metric_counts_as_the_worst(tmp_path: Path) -> None:
    """Spearman of constant predictions is not defined: the run goes on and keeps the checkpoint that has a score."""
    scores = iter([{}, {"accuracy": 0.3}, {}])
    _, result = train(tmp_path, options=optim(epochs=3, patience=3), valid_score=lambda found: next(scores))
    assert result.best_step == 12 and result.steps == 18


@pytest.mark.parametrize("tuning", [Frozen(), LORA, Full()], ids=lambda t: t.name)
def test_checkpoints_hold_what_learns(tmp_path: Path, tuning: Tuning) -> None:
    model, _ = train(tmp_path, tuning=tuning, options=optim(epochs=1))
    held = set(torch.load(tmp_path / "best-00000006.ckpt", weights_only=True)["state_dict"])
    learning = {f"predictor.{name}" for name, p in model.named_parameters() if p.requires_grad}
    fixed = {f"predictor.{name}" for name, p in model.named_parameters() if not p.requires_grad}
    assert learning <= held and not fixed & held


def test_a_diverging_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Lower optim\.lr"):
        train(tmp_path, options=optim(lr=1e30, epochs=3, clip_norm=1e30))


def test_what_is_logged_is_what_happened(tmp_path: Path) -> None:
    logged: list[tuple[int, str, float]] = []

    def log(values: dict[str, float], step: int) -> None:
        logged.extend((step, name, value) for name, value in values.items())

    _, result = train(tmp_path, log=log, options=optim(epochs=4))
    losses = [(step, value) for step, name, value in logged if name == "train/loss"]
    assert [step for step, _ in losses] == [1, 10, 20] and losses == result.history.train_loss
    valid = [(step, value) for step, name, value in logged if name == "valid/accuracy"]
    assert valid == [(step, metrics["accuracy"]) for step, metrics in result.history.valid]
    assert [value for _, name, value in logged if name == "epoch"] == [1, 2, 3, 4]


def test_costs_count_real_residues_once(tmp_path: Path) -> None:
    _, result = train(tmp_path, options=optim(epochs=3))
    splits = by_split()
    assert set(result.costs) == {"fit", "test"}
    fit = result.costs["fit"].values
    assert fit["padding_fraction"] == 0.0 and fit["residues_per_s"] > 0 and 0 <= fit["data_wait_fraction"] < 1
    ratio = fit["residues_per_s"] / fit["sequences_per_s"]
    lengths = [len(r.sequence) for r in splits["train"]]
    assert min(lengths) < ratio < max(lengths)
    assert "energy_j" not in fit or fit["energy_j"] > 0
    assert set(result.predictions) == {"test"} and len(result.predictions["test"]) == 20
    assert [len(p) for p in result.predictions["test"]] == [len(r.sequence) for r in splits["test"]]


def test_bf16_learns_as_fp32_does(tmp_path: Path) -> None:
    _, exact = train(tmp_path / "a", options=optim(epochs=3))
    _, rough = train(tmp_path / "b", options=optim(epochs=3), precision="bf16")
    for (_, a), (_, b) in zip(exact.history.train_loss, rough.history.train_loss, strict=True):
        assert b == pytest.approx(a, rel=0.05)
