"""A run written to a real SQLite store (and once to a real server) and read back by a fresh client."""

import io
import json
import secrets
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from plmft import InputError
from plmft.tracking.lineage import flatten, scrub
from plmft.tracking.options import Tracking
from plmft.tracking.run import Run
from plmft.tracking.sync import sync

SECRET = "s3cr3t-V4lue"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all tests here: a new one takes seconds. Its folder's name holds what paths may hold."""
    return tmp_path_factory.mktemp("some runs é#")


@pytest.fixture
def uri(runs, monkeypatch):
    address = Tracking().address(runs)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return address


@pytest.fixture
def client(uri):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def start(uri, runs, request, tmp_path):
    def start(experiment=request.node.name, tags=None, params=None, folder=None):
        given = {
            "tags": tags or {},
            "params": params or {},
            "folder": folder or tmp_path / f"run-{secrets.token_hex(4)}",
        }
        return Run.start(uri, experiment=experiment, name="a run", runs=runs, **given)

    return start


def test_params_tags_and_status_are_read_back(start, client):
    params = flatten({"optim": {"lr": 0.001, "targets": ["a", "b"]}, "seed": 1})
    run = start(tags={"git_commit": "abc", "absent": None, "count": 3}, params=params)
    assert client.get_run(run.id).info.status == "RUNNING"
    run.tags({"energy_source": "none", "absent": None})
    run.end("FINISHED")
    found = client.get_run(run.id)
    assert found.info.run_name == "a run"
    assert found.data.params == {"optim.lr": "0.001", "optim.targets": '["a", "b"]', "seed": "1"}
    assert {"git_commit": "abc", "count": "3", "energy_source": "none"}.items() <= found.data.tags.items()
    assert "absent" not in found.data.tags
    assert found.info.status == "FINISHED" and found.info.end_time >= found.info.start_time


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_a_run_ends_once(start, client, status):
    run = start("ending")
    run.end(status)
    run.end("FINISHED")
    assert client.get_run(run.id).info.status == status


def test_metrics_are_read_back_in_order(start, client):
    run = start()
    for step in range(2500):
        run.metrics({"train/loss": 1 / (step + 1)}, step)
        if step % 500 == 0:
            run.metrics({"valid/spearman": step / 2500}, step)
    run.end("FINISHED")
    loss = client.get_metric_history(run.id, "train/loss")
    assert [m.step for m in loss] == list(range(2500))
    assert [m.value for m in loss] == [1 / (step + 1) for step in range(2500)]
    assert [m.step for m in client.get_metric_history(run.id, "valid/spearman")] == [0, 500, 1000, 1500, 2000]


def test_diverged_metrics_are_seen(start, client):
    run = start()
    run.metrics({"loss": float("nan"), "scale": float("inf")}, 0)
    run.end("FAILED")
    metrics = client.get_run(run.id).data.metrics
    assert np.isnan(metrics["loss"])
    assert metrics["scale"] > 1e308


def test_what_is_sent_again_counts_once(start, client, tuned, tmp_path):
    """As after a kill between sending and noting it as sent, and between making a run or model and noting its id."""
    folder = tmp_path / "run"

    def tell(run):
        run.metrics({"loss": 1.0, "diverged": float("nan")}, 0)
        run.tags({"a": "b"})
        run.dataset("data", "d" * 64, "/data", {"train": 1})
        run.model(tuned, {"sequence": ["MKT"]}, "sequence_regression")

    first = start(folder=folder, params={"lr": 1})
    tell(first)
    first.end("KILLED")
    for file, lost in (("sent.json", {}), ("run.json", {"run_id": None})):
        path = folder / "tracking" / file
        path.write_text(json.dumps(json.loads(path.read_text()) | lost if lost else {}))
    run = start(folder=folder, params={"lr": 2}, tags={"attempts": 2})
    assert client.get_run(run.id).info.status in ("RUNNING", "KILLED")  # the thread has begun to tell of it
    tell(run)
    run.end("FINISHED")
    experiment = client.get_run(run.id).info.experiment_id
    (found,) = client.search_runs([experiment])
    assert (found.info.run_id, found.info.status, run.note) == (first.id, "FINISHED", None)
    assert found.data.params == {"lr": "1"} and {"a": "b", "attempts": "2"}.items() <= found.data.tags.items()
    assert [len(client.get_metric_history(run.id, name)) for name in ("loss", "diverged")] == [1, 1]
    assert len(found.inputs.dataset_inputs) == len(client.get_run(run.id).outputs.model_outputs) == 1
    assert [model.status for model in client.search_logged_models([experiment])] == ["READY"]


def test_runs_and_models_that_a_repeated_request_made_are_deleted(start, client, tuned, monkeypatch):
    from mlflow.tracking import MlflowClient

    def twice(name):
        once = getattr(MlflowClient, name)
        monkeypatch.setattr(MlflowClient, name, lambda *a, **o: (once(*a, **o), once(*a, **o))[1])

    for name in ("create_run", "create_logged_model", "log_batch", "log_inputs", "log_artifact", "set_terminated"):
        twice(name)
    run = start(params={"a": 1})
    run.metrics({"loss": 1.0}, 0)
    run.dataset("data", "d" * 64, "/data", {"train": 1})
    run.model(tuned, {"sequence": ["MKT"]}, "sequence_regression")
    run.end("FINISHED")
    experiment = client.get_run(run.id).info.experiment_id
    assert [found.info.run_id for found in client.search_runs([experiment])] == [run.id]
    assert [model.status for model in client.search_logged_models([experiment])] == ["READY"]
    assert len(client.get_metric_history(run.id, "loss")) == 1
    assert run.note is None


def test_a_run_that_was_deleted_waits_until_it_is_restored(start, client, tmp_path):
    run = start(folder=tmp_path / "run")
    client.delete_run(run.id)
    run.metrics({"loss": 1.0}, 0)
    run.end("FINISHED", wait_s=1)
    assert run.unsent == 2 and f"mlflow runs restore --run-id {run.id}" in run.note
    client.restore_run(run.id)
    said = io.StringIO()
    (tmp_path / "work").mkdir()
    (tmp_path / "run").rename(tmp_path / "work" / "moved")
    assert sync(tmp_path, Console(file=said)) == 0
    assert f"work/moved (run {run.id}): sent 2 entries" in said.getvalue()
    assert client.get_run(run.id).info.status == "FINISHED"
    assert sync(tmp_path, Console(file=said)) == 0
    assert said.getvalue().count("sent") == 1


def test_many_and_long_params(start, client):
    params = {f"key.{i}": i for i in range(250)} | {"long": "x" * 7000}
    run = start(tags={"long": "y" * 9000}, params=params)
    run.end("FINISHED")
    found = client.get_run(run.id).data
    assert len(found.params) == 251
    assert len(found.params["long"]) == 6000 and found.params["long"].endswith("x … (cut)")
    assert found.tags["long"].endswith("y … (cut)")


def test_a_run_that_cannot_be_started_is_not_left_running(start, client):
    with pytest.raises(Exception, match="Invalid value"):
        start(params={"a//b": 1})
    experiment = client.get_experiment_by_name("test_a_run_that_cannot_be_started_is_not_left_running")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_dataset(start, client):
    run = start()
    digest = "0123456789abcdef" * 4
    run.dataset("fluorescence", digest, "https://user:pw@example.org/data.tar.gz", {"train": 21446, "test": 27217})
    run.end("FINISHED")
    found = client.get_run(run.id)
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("fluorescence", digest[:36])
    assert json.loads(data.dataset.source) == {"url": "https://***@example.org/data.tar.gz"}
    assert json.loads(data.dataset.profile) == {"num_train": 21446, "num_test": 27217}
    assert found.data.tags["data_digest"] == digest


def test_artifacts_lie_under_the_runs_folder(start, client, runs, tmp_path):
    run = start()
    (tmp_path / "predictions.parquet").write_bytes(b"rows")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside.txt").write_text("text")
    run.artifact(tmp_path / "predictions.parquet", "predictions")
    run.artifact(tmp_path / "folder")
    figure = Figure()
    figure.subplots().plot([1, 2])
    run.figure(figure, "learning_curve")
    run.end("FINISHED")
    (folder,) = (runs / "artifacts").glob(f"*/{run.id}/artifacts")
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["figures/learning_curve.png", "folder/inside.txt", "predictions/predictions.parquet"]
    assert [info.path for info in client.list_artifacts(run.id)] == ["figures", "folder", "predictions"]


def test_two_experiments_that_differ_in_odd_letters(start):
    for name in ("a/b", "a_b"):
        start(name).end("FINISHED")


def test_a_deleted_experiment_is_told(start, client):
    run = start("deleted")
    run.end("FINISHED")
    client.delete_experiment(client.get_run(run.id).info.experiment_id)
    with pytest.raises(InputError, match=r"experiment deleted was deleted in sqlite.*mlflow experiments restore"):
        start("deleted")


def test_a_runs_folder_that_was_moved_is_told(start, client, tmp_path):
    client.create_experiment("moved", artifact_location=(tmp_path / "gone").as_uri())
    with pytest.raises(InputError, match=r"experiment moved keeps its artifacts in .*gone, which is gone"):
        start("moved")
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def tuned(monkeypatch, tmp_path):
    """A folder of a tuned model whose "prediction" is read from it, so that the right folder must arrive."""

    def load(folder: Path):
        offset = float((folder / "head.txt").read_text())
        return types.SimpleNamespace(predict=lambda sequences: [len(s) + offset for s in sequences])

    module = types.ModuleType("plmft.models.tuned")
    module.load = load
    monkeypatch.setitem(sys.modules, "plmft.models.tuned", module)
    folder = tmp_path / "tuned"
    (folder / "adapter").mkdir(parents=True)
    (folder / "head.txt").write_text("0.5")
    (folder / "adapter" / "weights").write_bytes(bytes(1000))
    return folder


def test_the_tuned_model_is_logged_and_loads(start, client, runs, tuned):
    import mlflow.pyfunc

    run = start()
    run.model(tuned, {"sequence": ["MKT", "GAVL"]}, "sequence_regression")
    run.end("FINISHED")
    (output,) = client.get_run(run.id).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.status, logged.source_run_id) == ("READY", run.id)
    model = mlflow.pyfunc.load_model(f"runs:/{run.id}/model")
    found = model.predict(pd.DataFrame({"sequence": ["MKT", "GAVLI"]}))
    assert found.to_dict("list") == {"prediction": [3.5, 5.5]}
    assert model.input_example.to_dict("list") == {"sequence": ["MKT", "GAVL"]}
    assert json.loads(model.metadata.signature.inputs.to_json()) == [
        {"type": "string", "name": "sequence", "required": True}
    ]
    with pytest.raises(Exception, match="sequence"):
        model.predict(pd.DataFrame({"seq": ["MKT"]}))


def test_a_logged_model_holds_no_pickle_and_no_path_of_this_checkout(start, client, runs, tuned):
    run = start()
    run.model(tuned, {"sequence": ["MKT"]}, "sequence_regression")
    run.end("FINISHED")
    (model_id,) = [output.model_id for output in client.get_run(run.id).outputs.model_outputs]
    (folder,) = (runs / "artifacts").glob(f"*/models/{model_id}/artifacts")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "serving.py", "requirements.txt", "artifacts/tuned/adapter/weights"} <= files
    assert not [file for file in files if file.endswith((".pkl", ".pickle", ".bin"))]
    texts = [(folder / file).read_text() for file in files - {"artifacts/tuned/adapter/weights"}]
    assert not [text for text in texts if str(Path(__file__).parents[2]) in text]
    pins = (folder / "requirements.txt").read_text().split()
    assert all("==" in pin and "+" not in pin for pin in pins)


@pytest.mark.parametrize(
    ("kind", "type"),
    [("sequence_regression", "double"), ("sequence_classification", "string"), ("residue_classification", "string")],
)
def test_the_signature_follows_the_kind(start, client, tuned, kind, type):
    import mlflow.models

    run = start("kinds")
    run.model(tuned, {"sequence": ["MKT"]}, kind)
    run.end("FINISHED")
    info = mlflow.models.get_model_info(f"runs:/{run.id}/model")
    assert json.loads(info.signature.outputs.to_json()) == [{"type": type, "name": "prediction", "required": True}]


def test_a_model_that_cannot_be_served_is_not_begun(start, client, tuned):
    run = start()
    with pytest.raises(ValueError, match="masked_lm: such a model cannot be served"):
        run.model(tuned, {"sequence": ["MKT"]}, "masked_lm")
    run.end("FAILED")
    experiment = client.get_run(run.id).info.experiment_id
    assert client.search_logged_models([experiment]) == []


def test_a_real_tuned_model_predicts_the_same_from_the_store(start, tmp_path):
    import mlflow.pyfunc
    import torch

    from plmft.models.build import build_predictor
    from plmft.models.head_spec import ResidueHead
    from plmft.models.spec import OneHotCnnSpec
    from plmft.models.tuned import Description, Tuned, save
    from plmft.models.tuning import Full
    from plmft.models.weights import Located

    torch.manual_seed(0)
    spec = OneHotCnnSpec("onehot_cnn", channels=8, kernel=3, layers=1, parameters=512, citation="", licence="")
    description = Description(spec, Full(), ResidueHead(0.0), "planted", "residue_classification", ("H", "E", "C"), "")
    base = Located("random", None, None)
    predictor = build_predictor(
        spec, base, tuning=Full(), head=description.head, kind="residue_classification", outputs=3
    )
    save(predictor, description, base, tmp_path / "tuned")
    run = start()
    run.model(tmp_path / "tuned", {"sequence": ["MKTAYIAK"]}, "residue_classification")
    run.end("FINISHED")
    sequences = ["MKTAYIAK", "GAVLIMFWPSTCYNQDEKRH"]
    served = mlflow.pyfunc.load_model(f"runs:/{run.id}/model").predict(pd.DataFrame({"sequence": sequences}))
    assert served["prediction"].tolist() == Tuned(predictor, description).predict(sequences)
    assert [len(classes) for classes in served["prediction"]] == [8, 20]


def test_a_planted_secret_is_nowhere(start, runs, tmp_path):
    config = {
        "tracking": {"uri": f"http://user:{SECRET}@host", "api_key": SECRET},
        "hub": {"hf_token": SECRET},
        "seed": 1,
    }
    (tmp_path / "config.yaml").write_text(json.dumps(scrub(config)))
    run = start(tags={"command": f"plmft.train hub.hf_token={SECRET}", "db_password": SECRET}, params=flatten(config))
    run.tags({"later": f"https://{SECRET}@host"})
    run.dataset("data", "d" * 64, f"https://user:{SECRET}@host/data", {"train": 1})
    run.artifact(tmp_path / "config.yaml")
    run.end("FINISHED")
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert any(path.name == "config.yaml" for path in files) and any(path.name == "mlflow.db" for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


START_ALONE = """
import sys
def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        print(event, arguments)
sys.addaudithook(watch)
from pathlib import Path
from plmft.tracking.run import Run
sys.stdin.read()
uri, runs, folder = sys.argv[1], *map(Path, sys.argv[2:])
run = Run.start(uri, experiment="one", name="n", runs=runs, tags={}, params={}, folder=folder)
run.end("FINISHED")
"""


@pytest.mark.slow
def test_two_processes_start_at_once_on_a_new_store_in_silence_and_without_network(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    for name in ("PYTEST_CURRENT_TEST", "CI", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)  # MLflow is silent towards its makers under them anyhow
    uri = Tracking().address(tmp_path / "mlruns")
    command = [sys.executable, "-c", START_ALONE, uri, str(tmp_path / "mlruns")]
    folders = [str(tmp_path / "mlruns" / "work" / name) for name in "ab"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen([*command, folder], text=True, **pipes) for folder in folders]
    for process in both:
        process.stdin.close()
        process.stdin = None
    for process in both:
        out, err = process.communicate(timeout=100)
        assert (process.returncode, out, err) == (0, "", "")
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("one")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FINISHED"] * 2
