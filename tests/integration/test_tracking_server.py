"""A run on a real MLflow server, and its model served by `mlflow models serve`; both on loopback."""

import contextlib
import sys

import pytest
import requests

from plmft.tracking.run import Run
from tests.integration.servers import answers, free_port, quiet_environment, running

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(*arguments, health, folder):
    """An mlflow command in the background, until the block ends."""
    command = [sys.executable, "-m", "mlflow", *arguments]
    with running(command, folder / "log.txt", ready=lambda: answers(health), environment=quiet_environment()):
        yield


@pytest.fixture
def server(tmp_path, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *store]
    with serving(*command, health=f"{uri}/health", folder=tmp_path):
        yield uri


@pytest.fixture
def tuned(tmp_path):
    """A small untrained model as it is saved, and the folder that holds it."""
    from plmft.models.build import build_predictor
    from plmft.models.head_spec import ResidueHead
    from plmft.models.spec import OneHotCnnSpec
    from plmft.models.tuned import Description, Tuned, save
    from plmft.models.tuning import Full
    from plmft.models.weights import Located

    spec = OneHotCnnSpec("onehot_cnn", channels=8, kernel=3, layers=1, parameters=512, citation="", licence="")
    head, base, kind = ResidueHead(0.0), Located("random", None, None), "residue_classification"
    description = Description(spec, Full(), head, "planted", kind, ("H", "E", "C"), "")
    predictor = build_predictor(spec, base, tuning=Full(), head=head, kind=kind, outputs=3)
    save(predictor, description, base, tmp_path / "tuned")
    return Tuned(predictor, description), tmp_path / "tuned"


def test_a_run_on_a_server_and_its_model_served(server, tuned, tmp_path, capfd):
    from mlflow.tracking import MlflowClient

    model, folder = tuned
    told = {"tags": {"a": "b"}, "params": {"x": "y" * 7000}, "folder": tmp_path / "run"}
    run = Run.start(server, experiment="planted", name="n", runs=tmp_path / "mlruns", **told)
    for step in range(1500):
        run.metrics({"train/loss": 1.0 / (step + 1)}, step)
    run.dataset("planted", "d" * 64, "generated", {"train": 10})
    (tmp_path / "predictions.csv").write_text("id\n1\n")
    run.artifact(tmp_path / "predictions.csv")
    run.model(folder, {"sequence": ["MKTAYIAK"]}, "residue_classification")
    run.end("FINISHED")
    assert capfd.readouterr() == ("", "")

    client = MlflowClient(tracking_uri=server)
    found = client.get_run(run.id)
    assert (found.info.status, found.data.tags["data_digest"]) == ("FINISHED", "d" * 64)
    assert [m.step for m in client.get_metric_history(run.id, "train/loss")] == list(range(1500))
    assert [info.path for info in client.list_artifacts(run.id)] == ["predictions.csv"]
    assert not (tmp_path / "mlruns").exists(), "the server keeps the artifacts"
    assert requests.get(run.url_hint.split("#")[0], timeout=5).ok

    port = free_port()
    command = ["models", "serve", "-m", f"runs:/{run.id}/model", "--env-manager", "local", "--port", str(port)]
    sequences = ["MKTAYIAK", "GAVLIMFWPSTCYNQDEKRH"]
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "serve").mkdir()
    with serving(*command, health=f"{url}/ping", folder=tmp_path / "serve"):
        body = {"dataframe_records": [{"sequence": sequence} for sequence in sequences]}
        answer = requests.post(f"{url}/invocations", json=body, timeout=60)
        refused = requests.post(f"{url}/invocations", json={"dataframe_records": [{"seq": "MKT"}]}, timeout=60)
        wrong = {"dataframe_records": [{"sequence": "MKT"}, {"sequence": "MK*T"}]}
        misspelt = requests.post(f"{url}/invocations", json=wrong, timeout=60)
    expected = [{"prediction": classes} for classes in model.predict(sequences)]
    assert answer.json() == {"predictions": expected}
    assert refused.status_code == 400
    assert misspelt.status_code == 400
    assert misspelt.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "Sequence 1 has '*' at position 3" in misspelt.json()["message"]
    assert "stack_trace" not in misspelt.json()
