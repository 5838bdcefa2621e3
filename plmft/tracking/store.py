"""Reach an MLflow store: soon, quietly, and with a message that says what to do where it cannot be had.

MLflow alone repeats a call to a server that is away for minutes; one own look costs a round trip and at most 10 s.
MLflow's usage reports to its makers are switched off, unless the user has set MLFLOW_DISABLE_TELEMETRY.
"""

import logging
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests

from plmft import InputError
from plmft.tracking.lineage import mask
from plmft.tracking.options import check_writable

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CONNECT_S, ANSWER_S = 4, 5
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")


def open_client(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a server or database that is away is found out in seconds.

    Raises: InputError: it cannot be reached, or refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # must stand before mlflow is imported
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `Run.url_hint` says it
    if uri.startswith(("http://", "https://")):
        check_server(uri)
    else:
        _check_database(uri)
    from mlflow.tracking import MlflowClient

    with quiet(), refusals(uri):
        return MlflowClient(tracking_uri=uri)  # makes a new database's tables


def experiment_id(client: "MlflowClient", uri: str, name: str, runs: Path) -> str:
    """The experiment's id; it is made if missing, with its artifacts under `runs` unless a server keeps them.

    Raises: InputError: it was deleted, or its artifact folder is gone or read-only. To be called within `refusals`.
    """
    from mlflow.exceptions import MlflowException

    served = uri.startswith("http")
    folder = None if served else (runs / "artifacts" / re.sub(r"[^\w.-]", "_", name)).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            client.create_experiment(name, artifact_location=folder)
        except MlflowException as error:  # another process was first
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise InputError(
            f"experiment {name} was deleted in {mask(uri)}. Bring it back with "
            f"MLFLOW_TRACKING_URI={mask(uri)} mlflow experiments restore --experiment-id {found.experiment_id}, "
            f"or remove it for good with mlflow gc --experiment-ids {found.experiment_id}."
        )
    if not served:
        _check_artifact_folder(name, found.artifact_location, runs)
    return found.experiment_id


@contextmanager
def refusals(uri: str) -> Iterator[None]:
    """Turn what a store or its driver says against us into one InputError, without MLflow's own traceback."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _only_from(logging.CRITICAL, "mlflow.store.db.utils"):
            yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"tracking.uri={mask(uri)} needs the Python package {error.name}. Install it, or use SQLite or a server."
        ) from error
    except (MlflowException, SQLAlchemyError) as error:
        lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result of")]
        raise InputError(f"MLflow store {mask(uri)}: {mask(lines[0]) if lines else type(error).__name__}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back MLflow's and Alembic's INFO lines (a new database's migrations, a model's saving); warnings pass."""
    with _only_from(logging.WARNING, "mlflow", "alembic"):
        yield


@contextmanager
def _only_from(level: int, *names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, level))
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


def check_server(uri: str) -> None:
    """Ask a server at an http(s) address whether it is there; other stores are looked at when they are opened.

    Raises: InputError: it can't be reached, refuses, or is not well.
    """
    if not uri.startswith("http"):
        return
    verify = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or (
        os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false").lower() not in ("true", "1")
    )
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(CONNECT_S, ANSWER_S), verify=verify)
    except requests.RequestException as error:
        raise InputError(f"tracking.uri={mask(uri)}: {_reason(error)}. {_WAY_OUT}") from error
    if answer.status_code in (401, 403) and not any(os.environ.get(name) for name in CREDENTIALS):
        raise InputError(
            f"tracking.uri={mask(uri)}: the server refuses us ({answer.status_code}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment."
        )
    if answer.status_code >= 500:  # what lies below may be a server without /health: its answers to MLflow will tell
        raise InputError(f"tracking.uri={mask(uri)}: the server is not well ({answer.status_code}). {_WAY_OUT}")


_WAY_OUT = (
    "Start it (mlflow server --port 5000), correct the address, or use the SQLite default with tracking.uri=null."
)


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate is not trusted (MLFLOW_TRACKING_SERVER_CERT_PATH names a certificate to trust)"
    if isinstance(error, requests.Timeout):
        return f"no answer within {ANSWER_S} s"
    return "no MLflow server can be reached there"


def _check_database(uri: str) -> None:
    """Connect once: MLflow would try a damaged file or a wrong password ten times, for minutes."""
    import sqlalchemy

    if uri.startswith("sqlite:"):
        file = Path(uri.removeprefix("sqlite:///"))
        check_writable(file.parent)
        if not file.exists():
            _create_database(file)
    else:
        _check_port(uri)
    with refusals(uri):
        engine = sqlalchemy.create_engine(uri)
        try:
            sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()


def _create_database(file: Path) -> None:
    """Make a new store aside and put it in place whole.

    MLflow makes its tables in some seconds and without a lock: two runs that start at once would break each other's,
    and one that is killed meanwhile would leave a store that never opens.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with quiet(), tempfile.TemporaryDirectory(dir=file.parent, prefix=".new-store-") as scratch:
        made = Path(scratch, file.name)
        SqlAlchemyStore(f"sqlite:///{made}", (file.parent / "artifacts").as_uri()).engine.dispose()
        try:
            os.link(made, file)
        except FileExistsError:  # another process was first
            return
        except OSError:  # no hard links here
            made.rename(file)


def _check_port(uri: str) -> None:
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 5432), timeout=CONNECT_S).close()
    except OSError as error:
        raise InputError(
            f"tracking.uri={mask(uri)}: no database can be reached there ({error.strerror or error}). Start it, "
            "correct the address, or use the SQLite default with tracking.uri=null."
        ) from error


def _check_artifact_folder(experiment: str, location: str, runs: Path) -> None:
    parts = urlsplit(location)
    if parts.scheme not in ("", "file"):
        return
    folder = Path(url2pathname(parts.path) if parts.scheme else location)
    if not folder.exists() and not folder.is_relative_to(runs):
        raise InputError(
            f"experiment {experiment} keeps its artifacts in {folder}, which is gone. If the runs folder was moved, "
            "move it back, or set PLMFT_RUNS to a new one."
        )
    check_writable(folder)
