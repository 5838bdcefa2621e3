import contextlib
import errno
import http.server
import logging
import math
import shutil
import socket
import threading
import time
import types
from pathlib import Path

import pytest
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

from plmft import InputError
from plmft.tracking import store
from plmft.tracking.journal import Identity, Journal
from plmft.tracking.run import Run, run_id_of


class Client:
    """Remembers the calls of MLflow's client, and fails when told to."""

    def __init__(self):
        self.calls, self.failing, self.refused = [], None, ()

    def __getattr__(self, name):
        def call(*arguments, **options):
            if self.failing is not None:
                raise self.failing
            if any(metric.key in self.refused for metric in options.get("metrics", ())):
                raise MlflowException("Invalid value", INVALID_PARAMETER_VALUE)
            self.calls.append((name, arguments, options))

        return call

    def search_runs(self, experiments, filtered):
        made = sum(name == "create_run" for name, _, _ in self.calls)
        return [types.SimpleNamespace(info=types.SimpleNamespace(run_id=f"r{i}")) for i in range(made)]

    def get_run(self, run_id):
        return types.SimpleNamespace(info=types.SimpleNamespace(lifecycle_stage="active"))

    @property
    def batches(self):
        return [[(m.key, m.step) for m in o["metrics"]] for name, _, o in self.calls if o.get("metrics")]


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr("plmft.tracking.delivery.open_client", lambda uri: client)
    monkeypatch.setattr("plmft.tracking.delivery.check_server", lambda uri: None)
    monkeypatch.setattr("plmft.tracking.delivery.experiment_id", lambda *arguments: "7")
    monkeypatch.setattr("plmft.tracking.sender.FIRST_PAUSE_S", 0.01)
    return client


@pytest.fixture
def start(client, tmp_path):
    def start(uri="http://user:pw@host:5000", **options):
        given = {"experiment": "e", "name": "n", "runs": tmp_path, "tags": {}, "params": {}, "folder": tmp_path / "run"}
        return Run.start(uri, **(given | options))

    return start


def test_metrics_wait_for_each_other(start, client):
    run = start()
    for step in range(10):
        run.metrics({"loss": 1.0}, step)
    assert client.batches == []
    run.end("FINISHED")
    assert client.batches == [[("loss", step) for step in range(10)]]


def test_end_sends_what_waits_and_happens_once(start, client):
    run = start()
    run.metrics({"loss": 1.0}, 0)
    run.end("FAILED")
    run.end("FINISHED")
    names = [(name, *arguments[:2]) for name, arguments, _ in client.calls]
    assert names == [("create_run", "7"), ("log_batch", "r0"), ("set_terminated", "r0", "FAILED")]
    assert (run.unsent, run.note) == (0, None)


def test_what_could_not_be_sent_is_kept_and_told_and_sent_by_the_next_attempt(start, client, tmp_path):
    run = start()
    client.failing = ConnectionError("the store is away")
    run.metrics({"loss": 1.0}, 0)
    run.end("KILLED", wait_s=0.05)
    assert run.unsent == 2
    assert run.note == (
        f"2 entries wait in {tmp_path}/run/tracking (the store is away). Send them with python -m plmft.report sync."
    )
    client.failing = None
    run = start()
    run.metrics({"loss": 1.0}, 0)
    run.metrics({"loss": 2.0}, 1)
    run.end("FINISHED")
    assert client.batches == [[("loss", 0)], [("loss", 1)]]
    assert [name for name, *_ in client.calls if name != "log_batch"] == [
        *("create_run", "set_terminated", "update_run", "set_terminated")
    ]


def test_what_the_store_refuses_is_told_and_holds_nothing_up(start, client, tmp_path):
    run = start()
    client.refused = ("bad", "worse")
    run.metrics({"a": 1.0, "bad": 1.0, "b": 1.0}, 0)
    run.metrics({"a": 2.0, "c": 2.0, "worse": 3.0}, 1)
    run.end("FINISHED")
    sent = [metric for batch in client.batches for metric in batch]
    assert sent == [("a", 0), ("b", 0), ("a", 1), ("c", 1)]
    file = tmp_path / "run" / "tracking" / "sent.json"
    assert run.note == f"The MLflow store refused 2 entries (bad: Invalid value): {file} names them."


def test_an_offline_start_waits_on_disk(start, client, monkeypatch, tmp_path):
    def away(uri):
        raise store.StoreAway("no MLflow server can be reached there")

    monkeypatch.setattr("plmft.tracking.delivery.open_client", away)
    with pytest.raises(InputError, match="no MLflow server"):
        start()
    assert list((tmp_path / "run").iterdir()) == []
    run = start(offline_ok=True)
    run.metrics({"loss": 1.0}, 0)
    assert (run.id, run_id_of(tmp_path / "run"), run.url_hint) == (None, None, "http://***@host:5000")
    monkeypatch.setattr("plmft.tracking.delivery.open_client", lambda uri: client)
    run.end("FINISHED")
    assert (run.id, run_id_of(tmp_path / "run"), run.note) == ("r0", "r0", None)


def test_a_login_that_is_refused_is_told_offline_too(start, monkeypatch):
    def refuse(uri):
        raise InputError("the server refuses the token (401)")

    monkeypatch.setattr("plmft.tracking.delivery.open_client", refuse)
    with pytest.raises(InputError, match="refuses the token"):
        start(offline_ok=True)


def test_another_store_gets_all_of_it(start, client):
    run = start()
    run.metrics({"loss": 1.0}, 0)
    run.end("KILLED")
    start("http://other:5000").end("FINISHED")
    assert client.batches == [[("loss", 0)], [("loss", 0)]]


def test_a_child_waits_for_its_sweep(start, client, tmp_path):
    parent = Journal(tmp_path / "sweep")
    identity = Identity("http://host:5000", "sweep", "/runs", "token")
    identity.write(tmp_path / "sweep")
    run = start(tags={"mlflow.parentRunId": f"folder:{tmp_path}/sweep"}, offline_ok=True)
    assert run.id is None
    identity.run_id = "p"
    identity.write(tmp_path / "sweep")
    run.end("FINISHED")
    assert client.calls[0][2]["tags"]["mlflow.parentRunId"] == "p"
    parent.close()


def test_a_full_disk_is_told_and_the_run_ends_as_failed(start, client, tmp_path):
    run = start("sqlite:////runs/mlflow.db")
    (tmp_path / "run" / "file").touch()
    run.artifact(tmp_path / "run" / "file")

    def fill(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    client.log_artifact = fill
    with pytest.raises(OSError, match="the disk is full"):
        run.end("FINISHED")
    run.end("FAILED")
    assert client.calls[-1][:1] + client.calls[-1][1][:2] == ("set_terminated", "r0", "FAILED")
    assert run.unsent == 2


def test_absent_values_are_left_out_and_diverged_ones_kept(start, client):
    run = start()
    run.metrics({"cost/energy_j": None, "loss": float("nan"), "zero": 0}, 3)
    run.end("FINISHED")
    ((_, _, options),) = [call for call in client.calls if call[2].get("metrics")]
    sent = options["metrics"]
    assert [(m.key, m.step) for m in sent] == [("loss", 3), ("zero", 3)]
    assert math.isnan(sent[0].value) and sent[1].value == 0.0
    assert abs(sent[0].timestamp / 1000 - time.time()) < 60


def test_what_lies_elsewhere_is_copied_into_the_run(start, client, tmp_path):
    run = start()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file.txt").write_text("text")
    run.artifact(tmp_path / "elsewhere" / "file.txt", "there")
    run.artifact(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "elsewhere")
    run.end("FINISHED")
    paths = [(Path(a[1]), a[2]) for name, a, _ in client.calls if name == "log_artifact"]
    assert [(path.name, folder) for path, folder in paths] == [("file.txt", "there"), ("elsewhere", None)]
    assert paths[0][0].read_text() == (paths[1][0] / "file.txt").read_text() == "text"


def test_url_hints(start):
    assert start("sqlite:////a b/mlflow.db").url_hint == "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"


def test_url_hint_of_a_server(start):
    assert start().url_hint == "http://***@host:5000/#/experiments/7/runs/r0"


def test_quiet_holds_back_info_alone_and_puts_levels_back(monkeypatch):
    said = []
    logger = logging.getLogger("mlflow")
    monkeypatch.setattr(logger, "handlers", [logging.Handler()])
    monkeypatch.setattr(logger.handlers[0], "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(logger, "level", logging.INFO)
    with store.quiet():
        logger.info("migrating")
        logging.getLogger("mlflow.store").info("still migrating")
        logger.warning("careful")
    assert said == ["careful"]
    assert logger.level == logging.INFO


def listener():
    server = socket.create_server(("127.0.0.1", 0))
    return server, server.getsockname()[1]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{}", "postgresql://user:hunter2@127.0.0.1:{}/runs"])
def test_a_store_that_is_away_is_told_at_once(uri):
    server, port = listener()
    server.close()
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"tracking\.uri=.*127\.0\.0\.1:{port}.*tracking\.uri=null") as caught:
        store.open_client(uri.format(port))
    assert time.monotonic() - start < 5
    assert "hunter2" not in str(caught.value)


def test_a_server_that_never_answers_is_told_soon(monkeypatch):
    monkeypatch.setattr(store, "ANSWER_S", 0.2)
    server, port = listener()
    with server, pytest.raises(InputError, match=r"no answer within 0\.2 s"):
        store.open_client(f"http://127.0.0.1:{port}")


def test_longest_wait_for_a_server():
    assert store.CONNECT_S + store.ANSWER_S <= 10


@pytest.fixture
def answering():
    """Start a web server on loopback that gives every request one status; returns its address."""
    with contextlib.ExitStack() as stack:

        def answering(status):
            class Answer(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(status)
                    self.end_headers()

                def log_message(self, *arguments):
                    pass

            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield answering


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "MLFLOW_TRACKING_TOKEN"), (403, "MLFLOW_TRACKING_TOKEN"), (503, r"not well \(503\).*tracking\.uri=null")],
)
def test_a_server_that_refuses_or_is_ill(answering, status, message):
    with pytest.raises(InputError, match=message):
        store.open_client(answering(status))


def test_a_token_that_is_refused(answering, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    with pytest.raises(InputError, match=r"refuses the token \(401\)\. Correct MLFLOW_TRACKING_TOKEN"):
        store.open_client(answering(401))


def test_a_server_of_another_kind_is_told(answering, tmp_path):
    uri = answering(404)
    with pytest.raises(InputError, match=rf"tracking\.uri={uri}: no MLflow server answers there \(404\)"):
        Run.start(uri, experiment="e", name="n", runs=tmp_path, tags={}, params={}, folder=tmp_path / "run")


def test_a_damaged_database_is_told_at_once(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, " * 100)
    start = time.monotonic()
    with pytest.raises(InputError, match=r"mlflow\.db.*file is not a database"):
        store.open_client(f"sqlite:///{tmp_path}/mlflow.db")
    assert time.monotonic() - start < 10


def test_a_database_without_its_driver_is_told(monkeypatch):
    server, port = listener()
    with server, pytest.raises(InputError, match=r"needs the Python package (psycopg2|psycopg)"):
        store.open_client(f"postgresql://127.0.0.1:{port}/runs")
