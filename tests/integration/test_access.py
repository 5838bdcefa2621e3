"""A tracking server with logins behind TLS, reached by MLflow's own environment variables; and what is told if not.

One server takes all the tests; each asks it as a run does at its start, and as MLflow's client does.
"""

import contextlib
import http.server
import re
import ssl
import threading

import pytest

from plmft import InputError
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from tests.integration.servers import HOST, PASSWORD, TOKEN, USER, certify, mlflow_server

pytestmark = [pytest.mark.server, pytest.mark.slow]

NAME_AND_PASSWORD = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, f"sqlite:///{folder}/server.db", auth=True, tls=True, workers=1) as server:
        yield server


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """No login or certificate but a test's own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (*NAME_AND_PASSWORD, "MLFLOW_TRACKING_TOKEN", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH", "INSECURE_TLS"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return tmp_path / "home"


@pytest.fixture
def trusted(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", server.certificate)


def keep_login(home, name, password):
    (home / ".mlflow").mkdir(parents=True)
    lines = ["[mlflow]", f"mlflow_tracking_username = {name}", f"mlflow_tracking_password = {password}"]
    (home / ".mlflow" / "credentials").write_text("\n".join(lines) + "\n")


def set_all(monkeypatch, values):
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def assert_refused(url, message):
    with pytest.raises(InputError, match=message) as told:
        check_server(url)
    assert str(told.value).startswith(f"tracking.uri={url}: ")
    assert "\n" not in str(told.value)
    for secret in (PASSWORD, TOKEN, "wr0ng"):
        assert secret not in str(told.value)


@pytest.mark.parametrize(
    "login", [NAME_AND_PASSWORD, {"MLFLOW_TRACKING_TOKEN": TOKEN}, None], ids=["name", "token", "file"]
)
def test_a_right_login_writes_a_run(server, trusted, empty_home, tmp_path, monkeypatch, capfd, login):
    from mlflow.tracking import MlflowClient

    if login is None:
        keep_login(empty_home, USER, PASSWORD)
    else:
        set_all(monkeypatch, login)
    check_server(server.url)
    folder = tmp_path / "runs" / "work" / "a"
    folder.mkdir(parents=True)
    run = Run.start(
        server.url, experiment="logins", name="a", runs=tmp_path / "runs", tags={}, params={"x": 1}, folder=folder
    )
    (folder / "kept.txt").write_text("kept")
    run.artifact(folder / "kept.txt")
    run.metrics({"loss": 1.0}, 0)
    run.end("FINISHED")
    assert capfd.readouterr() == ("", "")
    client = MlflowClient(tracking_uri=server.url)
    found = client.get_run(run.id)
    assert (found.info.status, found.data.metrics, found.data.params) == ("FINISHED", {"loss": 1.0}, {"x": "1"})
    assert [info.path for info in client.list_artifacts(run.id)] == ["kept.txt"]


@pytest.mark.parametrize(
    ("login", "message"),
    [
        ({}, r"wants a login \(401\)\. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"),
        (NAME_AND_PASSWORD | {"MLFLOW_TRACKING_PASSWORD": "wr0ng"}, r"refuses the login of admin \(401\)\. Correct"),
        ({"MLFLOW_TRACKING_USERNAME": USER}, r"wants a login \(401\)\. Set MLFLOW_TRACKING_USERNAME and"),
        ({"MLFLOW_TRACKING_TOKEN": "wr0ng"}, r"refuses the token \(401\)\. Correct MLFLOW_TRACKING_TOKEN"),
    ],
    ids=["none", "password", "half", "token"],
)
def test_a_wrong_login_is_told(server, trusted, monkeypatch, login, message):
    set_all(monkeypatch, login)
    assert_refused(server.url, message)


def test_a_wrong_login_in_the_file_is_told(server, trusted, empty_home):
    keep_login(empty_home, USER, "wr0ng")
    assert_refused(server.url, r"refuses the login of admin \(401\).*or ~/\.mlflow/credentials")


def test_a_file_of_logins_that_cannot_be_read(server, trusted, empty_home):
    (empty_home / ".mlflow").mkdir(parents=True)
    (empty_home / ".mlflow" / "credentials").write_text("password: wr0ng\n")
    assert_refused(server.url, r"~/\.mlflow/credentials can't be read")


def test_a_certificate_that_is_not_trusted(server, tmp_path, monkeypatch):
    set_all(monkeypatch, NAME_AND_PASSWORD)
    assert_refused(server.url, r"certificate is not trusted.*MLFLOW_TRACKING_SERVER_CERT_PATH names")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certify(tmp_path)[0]))
    assert_refused(server.url, "certificate is not trusted")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "missing.pem"))
    assert_refused(server.url, re.escape(str(tmp_path / "missing.pem")))


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_no_certificate_is_asked_for(server, monkeypatch):
    set_all(monkeypatch, NAME_AND_PASSWORD | {"MLFLOW_TRACKING_INSECURE_TLS": "true"})
    check_server(server.url)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", server.certificate)
    assert_refused(server.url, "only one of these environment variables may be set")


@contextlib.contextmanager
def asking_for_a_certificate(folder):
    """A server that answers only who shows the folder's certificate; yields its address."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    certificate, key = certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer((HOST, 0), Answer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://{HOST}:{server.server_port}"
        server.shutdown()


def test_a_certificate_of_ours(tmp_path, monkeypatch):
    with asking_for_a_certificate(tmp_path) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(tmp_path / "certificate.pem"))
        assert_refused(url, "or it wants one of ours.*MLFLOW_TRACKING_CLIENT_CERT_PATH ours")
        both = (tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text()
        (tmp_path / "ours.pem").write_text(both)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(tmp_path / "ours.pem"))
        check_server(url)
