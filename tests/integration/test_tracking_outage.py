"""Real training runs on a real MLflow server that stops, is slow, and stands behind a proxy that is unkind.

Whatever happens on the way, the store's table is that of an undisturbed run.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.command import TINY, arguments, environment
from tests.integration.proxy import ACTIONS, proxy, seeded
from tests.integration.servers import free_port, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIMEOUT_S = 300
RUN = (
    *TINY[:2],
    "task.train=16",
    "task.valid=4",
    "task.test=4",
    "batch_size=2",
    "optim.epochs=40",
    "optim.patience=null",
)
OWN_TAGS = {"plmft.token", "folder", "mlflow.runName"}  # of each run
EXACT = ("config.yaml", "predictions.parquet", "leaks.csv")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder for the server, which starts and stops there with what it has; its port; a proxy before it."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with pytest.MonkeyPatch.context() as patch, proxy(f"http://127.0.0.1:{port}") as between:
        patch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        yield folder, port, between


@contextlib.contextmanager
def serving(place):
    folder, port, between = place
    between.rule = lambda *request: "pass"
    with mlflow_server(folder, f"sqlite:///{folder}/server.db", workers=1, port=port):
        yield


def training(runs, uri):
    """The command under way."""
    command = arguments(*RUN, "hardware.precision=fp32", "seed=3", f"tracking.uri={uri}", "tracking.offline_ok=true")
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(runs))


def syncing(runs):
    code = "import sys, pathlib, rich.console; from plmft.tracking.sync import sync\n"
    code += "sys.exit(sync(pathlib.Path(sys.argv[1]), rich.console.Console(width=500)) > 0)"
    command = [sys.executable, "-c", code, str(runs)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(runs))


def ended(process):
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, err) == (0, ""), out + err
    return out


def wait_until(truth, process):
    deadline = time.monotonic() + TIMEOUT_S
    while not truth():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=10)
        time.sleep(0.02)


def tracking(runs):
    """The folder of the one run's journal, which may not exist yet."""
    return next(runs.glob("work/*/tracking"), runs / "none")


def noted(runs, call):
    """How many entries of a kind the journal holds."""
    with contextlib.suppress(FileNotFoundError):
        return (tracking(runs) / "journal.jsonl").read_text().count(f'{{"call":"{call}"')
    return 0


def sent(runs):
    with contextlib.suppress(FileNotFoundError):
        return json.loads((tracking(runs) / "sent.json").read_text())["offset"]
    return 0


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def table(place, runs, scratch):
    """All that the store has of a runs folder's one run, less what differs between equal runs: times, ids, memory."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{place[1]}")
    identity = json.loads((tracking(runs) / "run.json").read_text())
    experiments = [e.experiment_id for e in client.search_experiments()]
    (run,) = client.search_runs(experiments, f"tags.`plmft.token` = '{identity['token']}'")
    run_id = run.info.run_id
    history = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
    rows = {name: [(m.step, m.value) for m in found] for name, found in history.items() if not name.startswith("cost/")}
    costs = {name: [m.step for m in found] for name, found in history.items() if name.startswith("cost/")}
    (output,) = client.get_run(run_id).outputs.model_outputs
    models = client.search_logged_models(experiments, f"source_run_id = '{run_id}'")
    home = Path(client.download_artifacts(run_id, "", str(scratch)))
    model = place[0] / "artifacts" / run.info.experiment_id / "models" / output.model_id / "artifacts"
    tags = {name: text for name, text in run.data.tags.items() if "git" not in name}  # code may be edited meanwhile
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: text for name, text in tags.items() if name not in OWN_TAGS},
        "rows": rows,
        "costs": costs,
        "data": [(d.dataset.name, d.dataset.digest, d.dataset.profile) for d in run.inputs.dataset_inputs],
        "artifacts": [file for file in files_below(home) if file != "code.diff"],
        "exact": {name: digest(home / name) for name in EXACT},
        "models": [(m.name, m.status, m.model_type, m.model_id == output.model_id) for m in models],
        "model": files_below(model),
        "weights": digest(next(model.rglob("head.safetensors"))),
    }


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    runs = tmp_path_factory.mktemp("undisturbed")
    with serving(place):
        out = ended(training(runs, place[2].uri))
        assert "entries" not in out
        found = table(place, runs, tmp_path_factory.mktemp("artifacts"))
    assert found["status"] == "FINISHED" and len(found["rows"]["train/loss"]) > 30
    return found


def test_a_server_that_restarts_behind_an_unkind_proxy(place, undisturbed, tmp_path):
    runs, between = tmp_path / "runs", place[2]
    with serving(place):
        between.rule = seeded(20)
        process = training(runs, between.uri)
        wait_until(lambda: noted(runs, "metrics") > 10, process)
        process.send_signal(signal.SIGSTOP)  # so that it has not ended by the time that the server has
    before = noted(runs, "metrics")
    assert noted(runs, "end") == 0
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: noted(runs, "metrics") > before, process)  # it trains on
    with serving(place):
        between.rule = seeded(20, twenties=1)
        if "sync" in ended(process):  # a minute was not enough on this machine
            ended(syncing(runs))
        between.rule = lambda *request: "pass"
        assert table(place, runs, tmp_path / "artifacts") == undisturbed
    assert min(between.done[action] for action in ACTIONS) > 0, between.done


def test_a_run_without_a_server_is_sent_later_though_its_sending_is_killed(place, undisturbed, tmp_path):
    runs, between = tmp_path / "runs", place[2]
    between.rule = lambda *request: "pass"
    process = training(runs, between.uri)  # but nobody serves
    wait_until(lambda: noted(runs, "end"), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert sent(runs) == 0
    unreached = syncing(runs)
    out, err = unreached.communicate(timeout=TIMEOUT_S)
    assert (unreached.returncode, err) == (1, "") and "no MLflow server can be reached" in out
    with serving(place):
        unkind = seeded(22)
        between.rule = lambda *request: unkind(*request) if request[1] == "POST" else "slow"
        for _ in range(2):
            seen, process = sent(runs), syncing(runs)
            wait_until(lambda seen=seen: sent(runs) > seen, process)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
        between.rule = lambda *request: "repeat"
        assert f"entries to {between.uri}." in ended(syncing(runs))
        assert table(place, runs, tmp_path / "artifacts") == undisturbed
        assert ended(syncing(runs)) == ""


def test_a_server_that_takes_two_seconds_for_an_answer_is_not_waited_for(place, tmp_path, capfd):
    from plmft.tracking.run import Run

    between = place[2]
    with serving(place):
        run = Run.start(
            between.uri, experiment="slow", name="n", runs=tmp_path, tags={}, params={}, folder=tmp_path / "run"
        )
        between.done.clear()
        between.slow_s, between.rule = 2.0, lambda *request: "slow"
        for step in range(2500):
            run.metrics({"loss": 1 / (step + 1)}, step)
        assert between.done["slow"] <= 1, "all was told before one answer came"
        run.end("FINISHED")
        between.rule = lambda *request: "pass"
        from mlflow.tracking import MlflowClient

        history = MlflowClient(between.uri).get_metric_history(run.id, "loss")
    assert [point.step for point in history] == list(range(2500)) and run.note is None
    assert capfd.readouterr() == ("", "")
