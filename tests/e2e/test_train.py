"""Every way of training on a small set of measurements: tunings, sources of weights, limits and lengths."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from tests.conftest import random_sequence
from tests.e2e import checkpoints
from tests.e2e.command import BRIGHTNESS, TINY, brightness_rows, run_folder, stored_runs, write_brightness

BRIGHT = 2.5  # where the two modes of the task meet
TASK = ("task=fluorescence", "batch_size=8", "optim.epochs=2", "task.head.hidden=32", "hardware.precision=fp32")


def summary(store: Path) -> dict:
    """What the newest run says of itself."""
    return json.loads((run_folder(store) / "summary.json").read_text())


def predictions(store: Path) -> pd.DataFrame:
    """Of the newest run."""
    return pd.read_parquet(run_folder(store) / "predictions.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "frozen", "lora"])
def test_every_tuning_is_scored_on_both_modes(command: Callable, store: Path, data: Path, tuning: str) -> None:
    out = command("model=esm2_tiny", f"tuning={tuning}", *TASK).succeeded()
    metrics, table = summary(store)["metrics"], predictions(store)
    parts = {"": table, "_bright": table[table.measured >= BRIGHT], "_dark": table[table.measured < BRIGHT]}
    assert [len(part) for part in parts.values()] == [12, 6, 6]
    for suffix, part in parts.items():
        assert metrics[f"test/spearman{suffix}"] == pytest.approx(spearmanr(part.measured, part.predicted)[0], abs=1e-9)
        assert metrics[f"test/mae{suffix}"] == pytest.approx((part.measured - part.predicted).abs().mean(), rel=1e-9)
        assert {f"test/{name}{suffix}" for name in ("pearson", "mse", "r2")} <= set(metrics)
        low, high = metrics[f"test/spearman{suffix}_ci_low"], metrics[f"test/spearman{suffix}_ci_high"]
        assert -1 <= low <= metrics[f"test/spearman{suffix}"] <= high <= 1
        assert f"{metrics[f'test/spearman{suffix}']:.3f}  (95 % {low:.3f} to {high:.3f})" in out
    assert metrics["test/records_bright"] == metrics["test/records_dark"] == 6
    assert metrics["baseline/mae"] == pytest.approx((table.measured - train_mean(data)).abs().mean(), rel=1e-9)
    assert "24 / 8 / 12" in out and str(data / BRIGHTNESS) in out
    total, learning = metrics["model/parameters_total"], metrics["model/parameters_trainable"]
    assert (total == learning) if tuning == "full" else (0 < learning < total)
    assert (run_folder(store) / "model" / "adapter").is_dir() == (tuning == "lora")


def train_mean(data: Path) -> float:
    return pd.read_csv(data / BRIGHTNESS / "train.csv").log_fluorescence.mean()


@pytest.mark.parametrize(
    "chosen",
    [
        ("tuning=frozen",),
        ("tuning=lora",),
        pytest.param(("tuning=dora", "hardware.gradient_checkpointing=true"), marks=pytest.mark.slow),
        pytest.param(("tuning=last_layers", "tuning.layers=1", "optim.layer_decay=0.8"), marks=pytest.mark.slow),
        pytest.param(("tuning=lora", "tuning.layers=1", "hardware.precision=bf16_weights"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_reloaded_model_predicts_what_the_run_did(
    command: Callable, store: Path, data: Path, chosen: tuple[str, ...]
) -> None:
    from plmft.models.tuned import load

    command("model=esm2_tiny", *TASK, *chosen).succeeded()
    table = predictions(store)
    found = load(run_folder(store) / "model").predict(table.sequence.tolist())
    np.testing.assert_allclose(found, table.predicted, rtol=1e-5, atol=1e-6)
    (figure,) = run_artifacts(store).glob("figures/predicted_against_measured.png")
    assert figure.read_bytes().startswith(b"\x89PNG")


def run_artifacts(store: Path) -> Path:
    (run,) = stored_runs(store)
    return Path(run.info.artifact_uri.removeprefix("file://"))


@pytest.mark.slow
def test_a_limit_makes_a_subset_and_shared_sequences_are_told(command: Callable, store: Path, data: Path, rng) -> None:
    rows = brightness_rows(rng, 12)
    write_brightness(data, {"train": [*rows, (rows[0][0], 1.0)], "test": [*rows[:2], *brightness_rows(rng, 6)]})
    out = command("model=esm2_tiny", "tuning=frozen", *TASK, "limit.train=10", "limit.valid=8", "seed=3").succeeded()
    found = summary(store)
    assert "10 / 8 / 8 records (train / valid / test) (a subset: limit is set)" in out
    assert "Equal sequences in two splits: train/test 2 of 8 (25.0%)." in out
    assert found["subset"] is True and found["metrics"]["data/train"] == 10
    (run,) = stored_runs(store)
    assert run.data.tags["subset"] == "true" and run.data.params["limit.train"] == "10"
    assert run.data.metrics["data/exact_train_test"] == 2


@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_a_local_folder_is_what_is_tuned(
    command: Callable, store: Path, data: Path, tmp_path: Path, family: str
) -> None:
    choose = checkpoints.folder(tmp_path / "model", family)
    out = command(*choose, "tuning=frozen", *TASK).succeeded()
    given = load_file(tmp_path / "model" / "model.safetensors")
    kept = load_file(run_folder(store) / "model" / "backbone" / "model.safetensors")
    assert set(kept) == set(given) and all(torch.equal(kept[name], given[name]) for name in given)
    assert "weights: folder" in out
    assert stored_runs(store)[0].data.tags["weights"] == "folder"


@pytest.mark.slow
def test_a_fair_esm_file_is_what_is_tuned(command: Callable, store: Path, data: Path, tmp_path: Path) -> None:
    choose = checkpoints.fair_esm(tmp_path / "model.pt", "esm2")
    out = command(*choose, "tuning=frozen", *TASK).succeeded()
    given = torch.load(tmp_path / "model.pt", weights_only=False)["model"]
    kept = load_file(run_folder(store) / "model" / "backbone" / "model.safetensors")
    for layer in range(3):
        query = given[f"encoder.sentence_encoder.layers.{layer}.self_attn.q_proj.weight"]
        assert torch.equal(kept[f"encoder.layer.{layer}.attention.self.query.weight"], query)
    assert "weights: fair_esm" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "choose",
    [
        checkpoints.of_size("protbert", layers=1, width=32, heads=2, feedforward=64, positions=400, context=398),
        checkpoints.of_size("esm1b", layers=1, width=32, heads=2, feedforward=64),
        ["model=onehot_cnn", "model.channels=8", "model.parameters=1160", "tuning=full"],
    ],
    ids=["protbert", "esm1b", "onehot_cnn"],
)
def test_every_family_trains_from_random_weights(command: Callable, store: Path, choose: list[str]) -> None:
    from plmft.models.tuned import load

    command(*choose, *TINY[1:], "hardware.precision=fp32").succeeded()
    table = predictions(store)
    assert load(run_folder(store) / "model").predict(table.sequence.tolist()) == table.predicted.tolist()


@pytest.mark.slow
def test_max_steps_within_an_epoch_ends_with_a_validated_checkpoint(command: Callable, store: Path, data: Path) -> None:
    command("model=esm2_tiny", "tuning=full", *TASK, "batch_size=5", "optim.epochs=9", "optim.max_steps=7").succeeded()
    from mlflow.tracking import MlflowClient

    found = summary(store)
    assert found["metrics"]["steps"] == 7 and found["stopped_early"] is False
    client = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    history = client.get_metric_history(found["run_id"], "valid/spearman")
    assert [point.step for point in history] == [5, 7]
    kept = {path.stem: path for path in (run_folder(store) / "checkpoints").glob("*.ckpt")}
    best = max(history, key=lambda point: point.value).step
    assert set(kept) == {f"best-0000000{best}", "step-00000005", "step-00000007"}
    assert all(torch.load(path, weights_only=True)["global_step"] == int(name[-8:]) for name, path in kept.items())
    assert found["metrics"]["best_step"] == best


@pytest.mark.slow
def test_training_stops_where_nothing_improves(command: Callable, store: Path, data: Path) -> None:
    ended = command("model=esm2_tiny", "tuning=frozen", *TASK, "optim.epochs=9", "optim.patience=2", "optim.lr=1e-30")
    ended.succeeded()
    found = summary(store)
    assert (found["stopped_early"], found["metrics"]["steps"], found["metrics"]["best_step"]) == (True, 9, 3)


@pytest.mark.slow
def test_what_was_cropped_is_told(command: Callable, store: Path, data: Path, rng) -> None:
    long = [(random_sequence(rng, 1023), 3.0), (random_sequence(rng, 1200), 1.0)]
    write_brightness(data, {"test": [*brightness_rows(rng, 4), *long], "valid": [*brightness_rows(rng, 4), long[0]]})
    out = command("model=esm2_tiny", "tuning=frozen", *TASK, "data.length_policy=crop").succeeded()
    (run,) = stored_runs(store)
    assert (run.data.metrics["data/cropped_valid"], run.data.metrics["data/cropped_test"]) == (1, 2)
    assert "data/cropped_train" not in run.data.metrics
    assert "Cropped to 1022 residues: valid 1, test 2" in out
    assert sorted(predictions(store).sequence.str.len())[-2:] == [1022, 1022]
