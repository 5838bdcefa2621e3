"""Every task from its files to its figures: a few steps, real commands, data in the layout that users have."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft.models.tuned import load
from tests.e2e.command import run_folder
from tests.e2e.miniatures import write_all

SHORT = ("model=esm2_tiny", "model.init=random", "optim.max_steps=2", "batch_size=4", "hardware.precision=fp32")
TRAINED = {
    "stability": (),
    "homology": (),
    "secondary_structure": (),
    "gb1": ("task.split=sampled",),
    "binding": ("task.ligand=metal", "loss.class_weights=balanced"),
    "localization": (),
    "localization-membrane": ("task.target=membrane",),
    "thermostability": (),
    "contacts": (),
    "mutation_effects": ("task.split=contiguous",),
}
QUICK = ("secondary_structure", "contacts", "gb1")  # one of each kind of record; the others are slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"), np.random.default_rng(5))


@pytest.fixture(autouse=True)
def _data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLMFT_DATA", str(folder))


def summary(runs: Path) -> dict:
    return json.loads((run_folder(runs) / "summary.json").read_text())


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]
)
def test_a_task_is_trained_tested_and_kept(command: Callable, store: Path, name: str) -> None:
    task = name.partition("-")[0]
    command(*SHORT, f"task={task}", "tuning=full", *TRAINED[name]).succeeded()
    metrics = summary(store)["metrics"]
    assert [key for key in metrics if key.startswith("test/")] and metrics["steps"] == 2
    assert [key for key in metrics if key.startswith("baseline/")]
    predictions = pd.read_parquet(run_folder(store) / "predictions.parquet")
    assert len(predictions) == metrics["data/test"]
    model = load(run_folder(store) / "model")
    found = model.predict(predictions.sequence.tolist())
    assert len(found) == len(predictions)
    if "probabilities" in predictions:
        assert found == predictions.predicted.tolist()
    if name in ("stability", "gb1"):
        assert metrics["test/conformal_width_90"] > 0 and 0 <= metrics["test/conformal_coverage_90"] <= 1
        for (value, low, high), same in zip(model.intervals(predictions.sequence.tolist()), found, strict=True):
            assert value == same and high - low == pytest.approx(metrics["test/conformal_width_90"])
    if name in ("homology", "secondary_structure"):
        assert 0 <= metrics["test/ece_calibrated"] <= 1
        for probabilities in model.calibrated(predictions.sequence.tolist()):
            np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        "masked_marginals",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("wildtype_marginals", "pseudo_log_likelihood")),
    ],
)
def test_a_scan_is_scored_without_training(command: Callable, store: Path, method: str) -> None:
    out = command(*SHORT, "task=mutation_effects", "tuning=none", f"task.scores.method={method}").succeeded()
    assert "mutant position 24 is the first residue of the wild type" in out
    found = summary(store)
    assert {"test/spearman", "test/auroc", "test/ndcg"} <= found["metrics"].keys()
    assert "cost/test/wall_time_s" in found["cost"] and "cost/wall_time_s" not in found["cost"]
    assert not (run_folder(store) / "model").exists()
    assert len(pd.read_parquet(run_folder(store) / "predictions.parquet")) == 60


@pytest.mark.parametrize("method", ["masked", "pseudo"])
def test_a_fasta_has_a_perplexity(command: Callable, store: Path, tmp_path: Path, method: str) -> None:
    file = tmp_path / "some.fasta"
    file.write_text(">a\nMKTAYIAKQR\nQISFVKSHFS\n>b two\nMKV\n")
    command(*SHORT, "task=perplexity", "tuning=none", f"task.file={file}", f"task.head.method={method}").succeeded()
    metrics = summary(store)["metrics"]
    assert 5 < metrics["test/perplexity"] < 500 and metrics["data/test"] == 2


@pytest.mark.slow
def test_contacts_from_attention_are_fitted_not_trained(command: Callable, store: Path) -> None:
    out = command(
        "experiment=contacts_attention", "model=esm2_tiny", "model.init=random", "task.attention.proteins=5"
    ).succeeded()
    assert "Logistic regression on 5 proteins" in out
    assert (run_folder(store) / "attention_regression.safetensors").is_file()
    assert {"test/precision_at_l", "baseline/precision_at_l"} <= summary(store)["metrics"].keys()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("task=mutation_effects", "tuning=full"), ["tuning=full: mutation_effects scores the model as it is"]),
        (("task=stability", "tuning=none"), ["tuning=none: stability needs a head that learns"]),
        (("task=contacts", "tuning=full", "data.length_policy=window"), ["contacts reach across windows"]),
        (("task=stability", "tuning=full", "loss.class_weights=balanced"), ["this task has no classes. Set equal"]),
        (
            ("task=gb1", "tuning=full", "task.split=sampled", "task.head.positions=[3,54,61]"),
            ["has 60 residues, but task.head.positions asks for residue 61"],
        ),
        (("task=gb1", "tuning=full", "task.split=one_vs_rest"), ["no one_vs_rest.csv in it; it holds sampled.csv"]),
        (("task=perplexity", "tuning=none"), ["task.file=null: name a FASTA file"]),
        (("experiment=contacts_attention", "tuning=lora"), ["tuning=lora: nothing of the backbone learns"]),
    ],
)
def test_parts_that_do_not_fit_are_told(
    command: Callable, store: Path, overrides: tuple[str, ...], words: list[str]
) -> None:
    command("model=esm2_tiny", "model.init=random", *overrides).refused(*words)
    assert not list(store.glob("work/*"))


def test_a_model_without_attention_or_token_head_is_told(command: Callable, store: Path) -> None:
    command("experiment=contacts_attention", "model=onehot_cnn", "tuning=frozen").refused("onehot_cnn")
    command("task=mutation_effects", "model=onehot_cnn", "tuning=none").refused("onehot_cnn")
