"""Read what a store remembers, and make none: a wrong address is told, not turned into an empty database.

Costs MLflow's import (1 to 2 s) and a page of runs a call.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError
from plmft.tracking.lineage import mask
from plmft.tracking.options import Tracking
from plmft.tracking.store import open_client, quiet, refusals

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

PAGE = 1000  # what an MLflow server gives at most is 50,000; one page is some MB
STORE = "MLFLOW_TRACKING_URI"
SHORT_ID = 8  # characters of a run id in tables; the store finds a run by as many, if they are its alone


def read_address(uri: str | None, runs: Path) -> str:
    """The store to read: the given one, else MLflow's own variable, else the SQLite file in the runs folder.

    Raises: InputError: an address of no kind that plmft knows.
    """
    return Tracking(uri or os.environ.get(STORE) or None).address(runs)


def open_existing(uri: str) -> "MlflowClient":
    """A client of a store that is there. Raises: InputError: it isn't, or refuses."""
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not file.is_file():
        raise InputError(
            f"there is no MLflow store at {mask(uri)}: no run was tracked there. Go to the folder that holds mlruns, "
            f"or name another store: {STORE}=ADDRESS, or PLMFT_RUNS=FOLDER."
        )
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # read when mlflow is imported
    return open_client(uri)


def experiments(client: "MlflowClient", uri: str) -> dict[str, str]:
    """Name to id of each that is not deleted."""
    found: dict[str, str] = {}
    token = None
    while True:
        with refusals(uri):
            page = client.search_experiments(page_token=token)
        found |= {experiment.name: experiment.experiment_id for experiment in page}
        token = page.token
        if not token:
            return found


def all_runs(
    client: "MlflowClient", uri: str, within: Sequence[str], where: str, order: Sequence[str] = (), few: int = 0
) -> Iterator["StoredRun"]:
    """Runs that meet a filter of MLflow's, read page by page as they are asked for.

    Args: within: ids of experiments. few: some more than so many will do, so pages are small; 0: all are wanted.
    """
    token = None
    while within:
        with refusals(uri):
            page = client.search_runs(
                list(within),
                where,
                max_results=min(few + 1, PAGE) if few else PAGE,
                order_by=list(order) or None,
                page_token=token,
            )
        yield from page
        token = page.token
        if not token:
            return


def stored_run(client: "MlflowClient", uri: str, run_id: str) -> "StoredRun":
    """The run whose id is, or alone begins with, `run_id`. Raises: InputError: none or several do."""
    if not run_id.isalnum():
        raise InputError(f"{run_id}: is no run id: those are of letters and digits.")
    everywhere = list(experiments(client, uri).values())
    alike = list(itertools.islice(all_runs(client, uri, everywhere, f"attributes.run_id LIKE '{run_id}%'", few=1), 2))
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise InputError(f"{run_id}: the ids of several runs begin so. Give more of it.")
    raise InputError(
        f"{run_id}: {mask(uri)} has no such run. python -m plmft.report runs lists its runs with their ids; another "
        f"store is named by {STORE}=ADDRESS."
    )


def artifact_text(client: "MlflowClient", run_id: str, name: str) -> str | None:
    """The content of a small text file among a run's artifacts; None: it has none of this name, or can't be read."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as scratch, quiet():
        try:
            if name not in {file.path for file in client.list_artifacts(run_id)}:
                return None
            return Path(client.download_artifacts(run_id, name, scratch)).read_text()
        except (MlflowException, OSError):
            return None
