"""Give a run of MLflow a picture of embeddings, where python -m plmft.report looks for one."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plmft.tracking.options import runs_dir
from plmft.tracking.reading import open_existing, read_address, stored_run
from plmft.tracking.store import refusals

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class LoggedRun:
    """A run that exists, and the store that has it."""

    client: "MlflowClient"
    uri: str
    id: str

    def log(self, picture: Path, name: str) -> str:
        """As an artifact embedding_<name>.png; its name. Raises: InputError: the store refuses."""
        safe = re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:80]
        artifact = f"embedding_{safe}{picture.suffix}"
        with tempfile.TemporaryDirectory() as scratch, refusals(self.uri):
            copy = Path(scratch) / artifact
            copy.write_bytes(picture.read_bytes())
            self.client.log_artifact(self.id, str(copy))
        return artifact


def find_run(run_id: str) -> LoggedRun:
    """The run whose id is, or alone begins with, `run_id`, in MLFLOW_TRACKING_URI or the runs folder.

    Raises: InputError: there is no such store, or no such run.
    """
    uri = read_address(None, runs_dir())
    client = open_existing(uri)
    return LoggedRun(client, uri, stored_run(client, uri, run_id).info.run_id)
