"""Real servers for tests, on loopback: PostgreSQL, and MLflow's tracking server on it, with logins or TLS if asked.

    with postgres(tmp_path) as uri, mlflow_server(tmp_path, uri, auth=True, tls=True) as server:
        requests.get(server.url + "/health", verify=server.certificate)

Each is ready when its block begins and gone when it ends. PostgreSQL takes 1 s to start, MLflow some 6 s.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import requests

HOST = "127.0.0.1"
USER, PASSWORD = "admin", "pl4nted-L0gin-w0rd"  # of the tracking server's logins, and of the database
TOKEN = "pl4nted-b3arer-t0ken"
START_S, STOP_S = 90, 30


@dataclass(frozen=True)
class Server:
    """A tracking server. The process leads its group; certificate is a PEM file, None without TLS."""

    url: str
    process: subprocess.Popen
    certificate: str | None


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.create_server((HOST, 0)) as server:
        return server.getsockname()[1]


def _programs() -> Path:
    """The folder of the newest PostgreSQL's programs; skips the test where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    if not found and not on_path:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[-1].parent if found else Path(on_path).parent


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A cluster with one empty database, reached by password; yields its address. Its log is folder/postgres.log.

    The cluster has a temporary folder of its own, since the server refuses to run as root and the user that it then
    runs as can't enter pytest's folders.
    """
    programs, port = _programs(), free_port()
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "postgres.log"
    with tempfile.TemporaryDirectory(prefix="postgres-") as scratch:
        password = Path(scratch, "password")
        password.write_text(PASSWORD)
        if as_user:
            shutil.chown(scratch, "postgres")
            shutil.chown(password, "postgres")
        data = f"{scratch}/data"
        made = [*as_user, f"{programs}/initdb", "-D", data, "-U", USER, "--pwfile", password, "-A", "scram-sha-256"]
        subprocess.run([*made, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, cwd="/")
        options = [f"-p{port}", f"-h{HOST}", f"-k{scratch}", "-F"]  # -F: no fsync; nobody pulls the plug here
        uri = f"postgresql+psycopg2://{USER}:{PASSWORD}@{HOST}:{port}/postgres"
        command = [*as_user, f"{programs}/postgres", "-D", data, *options]
        with running(command, log, ready=lambda: _takes_logins(uri), end=signal.SIGINT):
            yield uri


def _takes_logins(uri: str) -> bool:
    with contextlib.suppress(psycopg2.OperationalError):
        psycopg2.connect(uri.replace("+psycopg2", ""), connect_timeout=2).close()
        return True
    return False


@contextlib.contextmanager
def mlflow_server(
    folder: Path,
    backend_uri: str,
    auth: bool = False,
    tls: bool = False,
    workers: int = 2,
    port: int | None = None,
) -> Iterator[Server]:
    """`mlflow server` on a database, which keeps artifacts in folder/artifacts. Its log is folder/mlflow-server.log.

    Args:
        auth: USER with PASSWORD (basic authentication), or with TOKEN (bearer), may do all; nobody else anything.
        tls: https, by a self-signed certificate for HOST.
        port: to start again where it was; None for a free one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", str(workers)]
    command += ["--backend-store-uri", backend_uri, "--artifacts-destination", str(folder / "artifacts")]
    certificate, options = None, "--timeout-graceful-shutdown 2"  # else it waits for clients' idle connections
    if auth:
        command += ["--app-name", "basic-auth"]
    if tls:
        certificate, key = certify(folder)
        options += f" --ssl-keyfile {key} --ssl-certfile {certificate}"
    command += ["--uvicorn-opts", options]
    url = f"{'https' if tls else 'http'}://{HOST}:{port}"
    environment = quiet_environment() | (_logins(folder) if auth else {})
    log = folder / "mlflow-server.log"
    with running(command, log, ready=lambda: answers(f"{url}/health", certificate), environment=environment) as process:
        yield Server(url, process, str(certificate) if certificate else None)


def quiet_environment() -> dict[str, str]:
    """This environment, for an mlflow command that does its own work alone."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    fixed = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PATH": path}
    return os.environ | fixed


def _logins(folder: Path) -> dict[str, str]:
    file = folder / "logins.ini"
    lines = [
        "[mlflow]",
        "default_permission = READ",
        f"database_uri = sqlite:///{folder}/logins.db",
        f"admin_username = {USER}",
        f"admin_password = {PASSWORD}",
        "authorization_function = tests.integration.token_login:login",
    ]
    file.write_text("\n".join(lines) + "\n")
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(file),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted-for-tests",
        "PYTHONPATH": str(Path(__file__).parents[2]),  # of the function above
    }


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for HOST, signed by itself, and its key: two PEM files in the folder."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"]
    command += ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def answers(url: str, certificate: Path | None = None) -> bool:
    """Whether a server says that it is well."""
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=2, verify=str(certificate) if certificate else True).ok
    return False


@contextlib.contextmanager
def running(
    command: list, log: Path, ready, environment: Mapping[str, str] | None = None, end: int = signal.SIGTERM
) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, until the block ends; the block begins when `ready()` is true."""
    with open(log, "a") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + START_S
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process
    finally:
        stop(process, end)


def stop(process: subprocess.Popen, end: int = signal.SIGTERM) -> None:
    """Ask the process's group to end, wait, and kill what is left of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, end)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=STOP_S)
