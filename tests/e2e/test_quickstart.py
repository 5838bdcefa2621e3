"""The README's first command, made small: what it prints, writes and remembers, and that a seed fixes all of it."""

import json
import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.e2e.command import SMALL, Ended, assert_nothing_half_written, run_apart, run_folder, stored_runs

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Quickstart:
    """The run, and what it left."""

    ended: Ended
    runs: Path
    folder: Path
    summary: dict
    predictions: pd.DataFrame

    @staticmethod
    def of(ended: Ended, runs: Path) -> "Quickstart":
        folder = run_folder(runs)
        summary = json.loads((folder / "summary.json").read_text())
        return Quickstart(ended, runs, folder, summary, pd.read_parquet(folder / "predictions.parquet"))


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """Run once, in a process of its own and in an empty folder."""
    runs = tmp_path_factory.mktemp("quickstart") / "runs"
    return Quickstart.of(run_apart(runs, *SMALL, cwd=tmp_path_factory.mktemp("empty")), runs)


def test_it_ends_with_a_table_and_the_command_that_shows_it(quickstart: Quickstart) -> None:
    out = quickstart.ended.succeeded()
    metrics, cost = quickstart.summary["metrics"], quickstart.summary["cost"]
    rows = {}
    for line in out.splitlines():
        if line.startswith("│"):
            _, name, value, _ = (cell.strip() for cell in line.split("│"))
            rows[name] = value
    low, high = metrics["test/accuracy_ci_low"], metrics["test/accuracy_ci_high"]
    assert rows["records train / valid / test"] == "60 / 10 / 20"
    assert rows["test accuracy"] == f"{metrics['test/accuracy']:.3f}  (95 % {low:.3f} to {high:.3f})"
    assert rows["accuracy ceiling"] == f"{metrics['test/accuracy_ceiling']:.3f}"
    assert rows["accuracy of the likeliest class by amino acid"] == f"{metrics['baseline/accuracy']:.3f}"
    assert set(rows).issuperset({"step time p50 / p95", "residues", "sequences", "peak memory, host", "training time"})
    assert rows["energy"].endswith(" J") or rows["energy"] == "absent: " + quickstart.summary["notes"]["cost/energy_j"]
    assert f"{cost['cost/peak_host_memory_gb']:.3g} GB" in rows["peak memory, host"]
    assert f"Files: {quickstart.folder}" in out
    assert f"mlflow ui --backend-store-uri sqlite:///{quickstart.runs}/mlflow.db" in out


def test_the_summary_has_accuracy_and_cost_under_their_names(quickstart: Quickstart) -> None:
    summary, metrics, cost = quickstart.summary, quickstart.summary["metrics"], quickstart.summary["cost"]
    names = ("test/accuracy", "test/accuracy_ci_low", "test/accuracy_ci_high", "test/f1_macro", "baseline/accuracy")
    assert set(metrics).issuperset({*names, "model/parameters_total", "model/parameters_trainable", "data/train"})
    assert 0 < metrics["test/accuracy_ci_low"] < metrics["test/accuracy"] < metrics["test/accuracy_ci_high"] < 1
    assert (metrics["steps"], metrics["data/train"], metrics["data/valid"], metrics["data/test"]) == (8, 60, 10, 20)
    for name in ("step_time_ms_p50", "step_time_ms_p95", "data_wait_fraction", "residues_per_s", "sequences_per_s"):
        assert math.isfinite(cost[f"cost/{name}"])
    assert 0.05 < cost["cost/peak_host_memory_gb"] < 100
    assert cost["cost/residues_per_s"] > 40 * cost["cost/sequences_per_s"], "no sequence is shorter than 40"
    assert cost["cost/test/wall_time_s"] > 0
    # absent is left out and explained, never 0
    for name in ("cost/energy_j", "cost/usd"):
        assert (name in cost) != (name in summary["notes"])
    assert all(value > 0 for name, value in cost.items() if "energy" in name)
    assert summary["energy_source"]
    assert (summary["model"], summary["weights"], summary["seed"]) == ("esm2_tiny", "random", 0)


def test_the_predictions_give_the_accuracy_again(quickstart: Quickstart) -> None:
    table = quickstart.predictions
    assert list(table) == ["id", "sequence", "measured", "predicted", "probabilities"] and len(table) == 20
    assert set(table.id) == {f"test-{i}" for i in range(20)}
    assert (table.sequence.str.len() == table.measured.str.len()).all()
    assert (table.sequence.str.len() == table.predicted.str.len()).all()
    measured, predicted = (np.array(list("".join(table[name]))) for name in ("measured", "predicted"))
    assert set(measured) == {"H", "E", "C"}
    likeliest = np.concatenate(table.probabilities.to_list()).reshape(-1, 3).argmax(1)
    assert (np.array(list("HEC"))[likeliest] == predicted).all()
    assert (measured == predicted).mean() == quickstart.summary["metrics"]["test/accuracy"]


def test_nothing_lies_outside_the_runs_folder(quickstart: Quickstart) -> None:
    assert_nothing_half_written(quickstart.runs)
    assert {path.name for path in quickstart.runs.iterdir()} == {"mlflow.db", "artifacts", "work", "cache"}
    cached = [path for path in (quickstart.runs / "cache").rglob("*") if path.is_file()]
    assert sorted(path.suffix for path in cached if path.parent.name == "tokens") == [".safetensors"] * 3
    kept = {"config.yaml", "summary.json", "predictions.parquet", "leaks.csv", "requirements.txt"}
    kept |= {"model", "checkpoints", "figures", "tracking"}
    assert {path.name for path in quickstart.folder.iterdir()} - {"code.diff"} == kept
    steps = {path.stem for path in quickstart.folder.glob("checkpoints/*.ckpt")}
    assert steps == {path.stem for path in quickstart.folder.glob("checkpoints/*.sha256")}
    assert sorted(name.partition("-")[0] for name in steps) == ["best", "step", "step"]


def test_mlflow_remembers_the_run(quickstart: Quickstart) -> None:
    (run,) = stored_runs(quickstart.runs)
    started = quickstart.folder.name[:15]
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"esm2_tiny-full-s0-{started}")
    assert run.data.tags["folder"] == quickstart.folder.name
    assert run.info.run_id == quickstart.summary["run_id"]
    params = {"model.layers": "2", "optim.epochs": "2", "optim.lr": "0.003", "batch_size": "16", "seed": "0"}
    assert run.data.params.items() >= params.items()
    tags = {"model": "esm2_tiny", "task": "planted_structure", "tuning": "full", "weights": "random"}
    tags |= {"subset": "false", "synthetic_data": "true", "energy_source": quickstart.summary["energy_source"]}
    assert run.data.tags.items() >= tags.items()
    assert {"version.torch", "version.plmft", "version.transformers", "machine.platform"} <= set(run.data.tags)
    git = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert run.data.tags.get("git_commit") == (git.stdout.strip() if git.returncode == 0 else None)
    final = quickstart.summary["metrics"] | quickstart.summary["cost"]
    assert {name: run.data.metrics[name] for name in final} == final


def test_mlflow_remembers_data_and_history(quickstart: Quickstart) -> None:
    from mlflow.tracking import MlflowClient

    (run,) = stored_runs(quickstart.runs)
    (data,) = run.inputs.dataset_inputs
    digest = quickstart.summary["data_digest"]
    assert (data.dataset.name, data.dataset.digest) == ("planted_structure", digest[:36])
    assert run.data.tags["data_digest"] == digest and len(digest) == 64
    assert json.loads(data.dataset.profile) == {"num_train": 60, "num_valid": 10, "num_test": 20}
    client = MlflowClient(tracking_uri=f"sqlite:///{quickstart.runs}/mlflow.db")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "valid/accuracy")] == [4, 8]
    assert client.get_metric_history(run.info.run_id, "train/loss")
    files = {info.path for info in client.list_artifacts(run.info.run_id)}
    assert files >= {"config.yaml", "summary.json", "predictions.parquet", "figures"}
    figures = [info.path for info in client.list_artifacts(run.info.run_id, "figures")]
    assert figures == [
        f"figures/{name}.png"
        for name in ("confusion_matrix", "learning_curve", "reliability", "roc_and_precision_recall")
    ]
    for figure in figures:
        content = Path(client.download_artifacts(run.info.run_id, figure)).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 5_000


def test_the_tuned_model_loads_from_both_places(quickstart: Quickstart, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.pyfunc

    from plmft.models.tuned import load

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{quickstart.runs}/mlflow.db")
    served = mlflow.pyfunc.load_model(f"runs:/{quickstart.summary['run_id']}/model")
    sequences = quickstart.predictions.sequence.tolist()
    found = load(quickstart.folder / "model").predict(sequences)
    assert [len(classes) for classes in found] == [len(sequence) for sequence in sequences]
    assert set("".join(found)) <= {"H", "E", "C"}
    assert served.predict(pd.DataFrame({"sequence": sequences})).prediction.tolist() == found
    assert served.metadata.signature is not None


@pytest.mark.slow
def test_one_seed_gives_one_result(quickstart: Quickstart, command: Callable, store: Path) -> None:
    again = Quickstart.of(command(*SMALL), store)
    assert again.summary["metrics"] == quickstart.summary["metrics"]
    pd.testing.assert_frame_equal(again.predictions, quickstart.predictions)
    other = Quickstart.of(command(*SMALL, "seed=1"), store)
    assert other.summary["data_digest"] == quickstart.summary["data_digest"]
    assert other.summary["metrics"]["baseline/accuracy"] == quickstart.summary["metrics"]["baseline/accuracy"]
    assert other.summary["metrics"]["test/accuracy"] != quickstart.summary["metrics"]["test/accuracy"]
    assert not other.predictions.equals(quickstart.predictions)
    assert [run.data.params["seed"] for run in stored_runs(store)] == ["0", "1"]
