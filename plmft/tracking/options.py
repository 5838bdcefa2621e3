"""Where runs are remembered, and whether anything can be written there: known before anything heavy is imported.

`check_writable` writes and removes one file of 1 MiB, because only a write tells of quotas and read-only mounts.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from plmft import InputError
from plmft.tracking.lineage import mask

SCHEMES = ("http", "https", "sqlite", "postgresql")
PROBE_BYTES = 1 << 20  # what a fresh mlflow.db takes


@dataclass(frozen=True)
class Tracking:
    """The MLflow store of a run.

    Args:
        uri: None for SQLite in the runs folder; or a server's http(s) address; or a database, as
            sqlite:///FILE or postgresql://HOST/NAME.
        offline_ok: a store that is away at the start is no error: the run is kept on disk, and sent when the store is
            back or by `python -m plmft.report sync`. An outage later never is an error.

    Raises: InputError: an address of another kind.
    """

    uri: str | None = None
    offline_ok: bool = False

    def __post_init__(self) -> None:
        if self.uri is None:
            return
        try:
            parts = urlsplit(self.uri)
            _ = parts.port  # a ValueError if it is no number
        except ValueError as error:
            raise InputError(f"tracking.uri={mask(self.uri)}: {error}. {ALLOWED}") from error
        scheme = parts.scheme.split("+")[0]  # postgresql+psycopg2
        if scheme not in SCHEMES or (scheme == "sqlite" and not parts.path.strip("/")):
            raise InputError(f"tracking.uri={mask(self.uri)} is no MLflow store. {ALLOWED}")
        if scheme.startswith("http") and not parts.hostname:
            raise InputError(f"tracking.uri={mask(self.uri)} names no host. {ALLOWED}")

    def address(self, runs: Path) -> str:
        """The store's full address: SQLite paths made absolute, so that it holds in any working folder.

        Raises: InputError: a SQLite path with ? or %, which versions of SQLAlchemy read differently.
        """
        if self.uri is not None and not self.uri.startswith("sqlite:"):
            return self.uri.rstrip("/")
        file = runs / "mlflow.db" if self.uri is None else Path(self.uri.removeprefix("sqlite:///"))
        if set("?%") & set(str(file.absolute())):
            raise InputError(f"{file.absolute()}: the path of a SQLite store cannot hold ? or %. Take another folder.")
        return f"sqlite:///{file.absolute()}"


ALLOWED = (
    "Allowed: null (SQLite in the runs folder), http://HOST:PORT or https://HOST of an MLflow server, "
    "sqlite:///FILE, postgresql://HOST/NAME."
)


def runs_dir() -> Path:
    """The folder that everything a run writes goes to, absolute: PLMFT_RUNS, else ./mlruns. It need not exist."""
    return Path(os.environ.get("PLMFT_RUNS") or "mlruns").absolute()


def check_writable(runs: Path) -> None:
    """Make the folder if it is missing, and write and remove a file of 1 MiB in it.

    Raises: InputError: the folder cannot be made or written, or the disk or a quota is full.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=runs, prefix=".probe-") as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise InputError(
            f"runs folder {runs}: cannot write 1 MiB there ({error.strerror or error}; {_free_bytes(runs)}). "
            "Make room or mend its permissions, or set PLMFT_RUNS to another folder."
        ) from error


def _free_bytes(folder: Path) -> str:
    for place in (folder, *folder.parents):
        if place.exists():
            return f"{shutil.disk_usage(place).free:,} bytes free on its disk"
    return "free bytes unknown"
