"""Reach an MLflow store: soon, quietly, and with a message that says what to do where it cannot be had.

MLflow alone repeats a call to a server that is away for minutes; one own look costs a round trip and at most 10 s.
MLFLOW_HTTP_REQUEST_MAX_RETRIES and MLFLOW_HTTP_REQUEST_TIMEOUT hold where the user has set them.
MLflow's usage reports to its makers are switched off, unless the user has set MLFLOW_DISABLE_TELEMETRY.
"""

import configparser
import contextlib
import fcntl
import logging
import os
import re
import socket
import sqlite3
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
    from mlflow.utils.rest_utils import MlflowHostCreds

CONNECT_S, ANSWER_S = 4, 5
CALL_S = 60  # of one request to a server, an upload's answer included; and for a SQLite file that others write
PROBE = "/api/2.0/mlflow/experiments/search?max_results=1"  # what may be read by whoever may log in


class StoreAway(InputError):
    """The store cannot be reached, or is not well: it may be later."""


def open_client(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a server or database that is away is found out in seconds.

    Raises: InputError: it cannot be reached, or refuses.
    """
    _silence_mlflow()
    if uri.startswith(("http://", "https://")):
        check_server(uri)
    else:
        _check_database(uri)
    from mlflow.tracking import MlflowClient

    with quiet(), refusals(uri):
        return MlflowClient(tracking_uri=uri)  # makes a new database's tables


def _silence_mlflow() -> None:
    """And bound its calls: what repeats them is ours."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # must stand before mlflow is imported
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `Run.url_hint` says it
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(CALL_S))


def experiment_id(client: "MlflowClient", uri: str, name: str, runs: Path) -> str:
    """The experiment's id; it is made if missing, with its artifacts under `runs` unless a server keeps them.

    Raises: InputError: it was deleted, or its artifact folder is gone or read-only. To be called within `refusals`.
    """
    from mlflow.exceptions import MlflowException

    served = uri.startswith("http")
    folder = None if served else (runs / "artifacts" / re.sub(r"^\.|[^\w.-]", "_", name)).as_uri()
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
    """Ask a server at an http(s) address whether it is there, which even a busy one answers at once, and then for one
    experiment, as MLflow will: with its logins, certificates and headers. Other stores are looked at when opened.

    Raises: InputError: it can't be reached, refuses the login, is no MLflow server, or is not well.
    """
    if not uri.startswith("http"):
        return
    _silence_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    once, wait_s = {"max_retries": 0, "raise_on_status": False}, ANSWER_S
    try:
        login = get_default_host_creds(uri.rstrip("/"))
        status = http_request(login, "/health", "GET", timeout=(CONNECT_S, wait_s), **once).status_code
        if status in (200, 404):  # some servers have no /health
            wait_s = CALL_S
            status = http_request(login, PROBE, "GET", timeout=(CONNECT_S, wait_s), **once).status_code
    except (MlflowException, configparser.Error) as error:
        away = isinstance(error.__context__, requests.RequestException) and not _is_tls(error.__context__)
        kind = StoreAway if away else InputError
        raise kind(f"tracking.uri={mask(uri)}: {_reason(error, wait_s)}") from None  # its context may hold a login
    if status == 401:
        raise InputError(f"tracking.uri={mask(uri)}: {_refused(login)}")
    if status == 403:
        raise InputError(f"tracking.uri={mask(uri)}: the server does not let us read (403). {_LOGIN}")
    if status >= 500 or status in (408, 429):
        raise StoreAway(f"tracking.uri={mask(uri)}: the server is not well ({status}). {_WAY_OUT}")
    if status >= 400:
        raise InputError(f"tracking.uri={mask(uri)}: no MLflow server answers there ({status}). {_WAY_OUT}")


_WAY_OUT = (
    "Start it (mlflow server --port 5000), correct the address, use the SQLite default with tracking.uri=null, or keep "
    "the run on disk until then with tracking.offline_ok=true."
)
_LOGIN = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment."


def _refused(login: "MlflowHostCreds") -> str:
    if login.username and login.password:
        return (
            f"the server refuses the login of {login.username} (401). Correct MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment, or ~/.mlflow/credentials, which holds where they are not set."
        )
    if login.token:
        return "the server refuses the token (401). Correct MLFLOW_TRACKING_TOKEN in the environment."
    return f"the server wants a login (401). {_LOGIN}"


def _is_tls(error: BaseException | None) -> bool:
    return isinstance(error, requests.exceptions.SSLError)


def _reason(error: Exception, wait_s: float) -> str:
    cause = error.__context__  # MLflow wraps what requests says
    if isinstance(error, configparser.Error):
        return f"~/.mlflow/credentials can't be read ({type(error).__name__}). Mend it."
    if _is_tls(cause):
        return (
            "its TLS certificate is not trusted, or it wants one of ours. MLFLOW_TRACKING_SERVER_CERT_PATH names a "
            "file of certificates to trust, MLFLOW_TRACKING_CLIENT_CERT_PATH ours."
        )
    if isinstance(cause, requests.Timeout) or "Read timed out" in str(cause):  # which its retries make another error
        return f"no answer within {wait_s} s. {_WAY_OUT}"
    if isinstance(cause, requests.RequestException):
        return f"no MLflow server can be reached there. {_WAY_OUT}"
    return mask(str(cause or error))  # a file of certificates is missing; settings exclude each other


def _check_database(uri: str) -> None:
    """Connect once: MLflow would try a damaged file or a wrong password ten times, for minutes."""
    import sqlalchemy

    if uri.startswith("sqlite:"):
        _wait_for_writers()
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


def _wait_for_writers() -> None:
    """Have SQLite wait for other processes' writes: by its own 5 s, a sweep's many jobs meet "database is locked"."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _set_patience):
        event.listen(Engine, "connect", _set_patience)


def _set_patience(connection: object, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {CALL_S * 1000}")


def _create_database(file: Path) -> None:
    """Make a new store aside and put it in place whole.

    MLflow makes its tables in some seconds and without a lock: two runs that start at once would break each other's,
    and one that is killed meanwhile would leave a store that never opens.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with quiet(), _alone_in(file.parent), tempfile.TemporaryDirectory(dir=file.parent, prefix=".new-store-") as scratch:
        if file.exists():
            return
        made = Path(scratch, file.name)
        SqlAlchemyStore(f"sqlite:///{made}", (file.parent / "artifacts").as_uri()).engine.dispose()
        try:
            os.link(made, file)
        except FileExistsError:  # another process was first
            return
        except OSError:  # no hard links here
            made.rename(file)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time makes a store there; the others wait. Where folders can't be locked, each makes one."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _check_port(uri: str) -> None:
    parts = urlsplit(uri)
    try:
        socket.create_connection((parts.hostname or "localhost", parts.port or 5432), timeout=CONNECT_S).close()
    except OSError as error:
        raise StoreAway(
            f"tracking.uri={mask(uri)}: no database can be reached there ({error.strerror or error}). Start it, "
            "correct the address, use the SQLite default with tracking.uri=null, or keep the run on disk until then "
            "with tracking.offline_ok=true."
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
    if folder.is_symlink():
        raise InputError(
            f"experiment {experiment}: {folder} is a link to another folder, where a run writes nothing. Remove it; to "
            "keep artifacts on another disk, set PLMFT_RUNS to a folder there."
        )
    check_writable(folder)
