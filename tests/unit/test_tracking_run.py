import contextlib
import http.server
import logging
import math
import socket
import threading
import time

import pytest

from plmft import InputError
from plmft.tracking import store
from plmft.tracking.run import Run


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Client:
    """Remembers the calls of MLflow's client, and fails when told to."""

    def __init__(self):
        self.calls, self.failing = [], False

    def __getattr__(self, name):
        def call(*arguments, **options):
            if self.failing:
                raise ConnectionError("the store is away")
            self.calls.append((name, arguments, options))

        return call

    @property
    def batches(self):
        return [[m.key for m in options["metrics"]] for name, _, options in self.calls if name == "log_batch"]


@pytest.fixture
def client():
    return Client()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def run(client, clock):
    return Run(client, "sqlite:////runs/mlflow.db", id="r", experiment="7", flush_s=5.0, clock=clock)


def test_metrics_wait_until_the_time_has_come(run, client, clock):
    for step in range(10):
        run.metrics({"loss": 1.0}, step)
    assert client.batches == []
    clock.now = 5.0
    run.metrics({"loss": 1.0}, 10)
    assert client.batches == [["loss"] * 11]
    clock.now = 9.9
    run.metrics({"loss": 1.0}, 11)
    assert len(client.batches) == 1
    clock.now = 10.0
    run.metrics({"loss": 1.0}, 12)
    assert client.batches[1:] == [["loss"] * 2]


def test_a_full_buffer_does_not_wait(run, client):
    for step in range(999):
        run.metrics({"loss": 1.0}, step)
    assert client.batches == []
    run.metrics({"a": 1.0, "b": 2.0}, 999)
    assert [len(batch) for batch in client.batches] == [1000, 1]


def test_end_sends_what_waits_and_happens_once(run, client):
    run.metrics({"loss": 1.0}, 0)
    run.end("FAILED")
    run.end("FINISHED")
    names = [(name, *arguments) for name, arguments, _ in client.calls]
    assert names == [("log_batch", "r"), ("set_terminated", "r", "FAILED")]


def test_what_could_not_be_sent_is_not_lost(run, client, clock):
    run.metrics({"loss": 1.0}, 0)
    client.failing = True
    with pytest.raises(ConnectionError):
        run.flush()
    client.failing = False
    run.metrics({"loss": 2.0}, 1)
    run.end("FINISHED")
    assert client.batches == [["loss", "loss"]]


def test_a_run_that_could_not_be_ended_can_be_ended_later(run, client):
    client.failing = True
    with pytest.raises(ConnectionError):
        run.end("FINISHED")
    client.failing = False
    run.end("FINISHED")
    assert client.calls[-1][0] == "set_terminated"


def test_absent_values_are_left_out_and_diverged_ones_kept(run, client):
    run.metrics({"cost/energy_j": None, "loss": float("nan"), "zero": 0}, 3)
    run.flush()
    sent = client.calls[0][2]["metrics"]
    assert [(m.key, m.step) for m in sent] == [("loss", 3), ("zero", 3)]
    assert math.isnan(sent[0].value) and sent[1].value == 0.0
    assert abs(sent[0].timestamp / 1000 - time.time()) < 60


def test_url_hints(client):
    assert Run(client, "sqlite:////a b/mlflow.db", id="r", experiment="7").url_hint == (
        "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"
    )
    served = Run(client, "http://user:pw@host:5000", id="r", experiment="7")
    assert served.url_hint == "http://***@host:5000/#/experiments/7/runs/r"


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


def test_who_has_credentials_is_not_refused_for_the_look_without_them(answering, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    store.open_client(answering(401))


def test_a_server_of_another_kind_is_told(answering, tmp_path):
    uri = answering(404)
    with pytest.raises(InputError, match=rf"MLflow store {uri}: .*404"):
        Run.start(uri, experiment="e", name="n", runs=tmp_path, tags={}, params={})


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
