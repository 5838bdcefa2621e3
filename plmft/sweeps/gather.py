"""Sum up a sweep in its parent run: a table over seeds with accuracy beside cost, figures, and what did not finish.

Any process may do so at any time, again and again, also while jobs run elsewhere: results are read from the store,
why a job failed from the sweep's folder, and only what is new is written. Two that begin at once take turns (flock).
Costs a search of the store and a figure, about a second.
"""

import fcntl
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plmft import InputError
from plmft.sweeps.jobs import End, ends, name_of, planned, swept
from plmft.sweeps.search import Found, found
from plmft.sweeps.seeds import Child, Statistic, statistics, varying, write_csv
from plmft.tracking.journal import Identity
from plmft.tracking.lineage import mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run as StoredRun
    from mlflow.tracking import MlflowClient

PARENT_TAG, OVERRIDES_TAG, PRIMARY_TAG, KEY_TAG = "mlflow.parentRunId", "overrides", "primary_metric", "config_key"
INCOMPLETE = "sweep_incomplete"  # the parent's tag that names what did not finish
LONGEST_TAG = 5000  # MLflow's limit
UNSENT = "not all of it has reached the store: python -m plmft.report sync"


@dataclass(frozen=True)
class Gathered:
    """A sweep as it stands.

    Args:
        children: its jobs that were begun, in the order of the command line. found: over seeds.
        told: how many finished, then a text for each that did not; empty if all did.
        best: what a search came to. status: the parent's, in MLflow.
        mistakes: whether all that failed were the user's mistakes.
    """

    folder: Path
    children: Sequence[Child]
    found: Sequence[Statistic]
    told: Sequence[str]
    best: Found | None
    status: Literal["FINISHED", "FAILED", "KILLED"]
    mistakes: bool

    @property
    def exit_code(self) -> int:
        """0 if all finished, 2 for the user's mistakes alone, as for a single run, else 1."""
        if not self.told:
            return 0
        return 2 if self.mistakes else 1


def gather(folder: Path, uri: str | None = None) -> Gathered:
    """Write sweep.csv and the figures into the sweep's folder and, with metrics, tags and status, into its parent run.

    Args: uri: of the store, with its login; None: as the parent's run was opened (`Identity.address`).
    Raises: InputError: the store can't be reached, or never was. OSError: the folder can't be written.
    """
    from plmft.tracking.store import open_client, refusals

    parent = Identity.read(folder)
    if parent is None or parent.run_id is None:
        raise InputError(
            f"{folder}: the store has not been reached yet. Once it is back, python -m plmft.report sync sends all, "
            "and the same command makes the sweep's table."
        )
    uri = uri or parent.address()
    with _alone(folder):
        client = open_client(uri)
        with refusals(uri):
            children = _children(client, folder, parent.run_id)
            gathered = _summed_up(folder, children)
            _write(client, parent.run_id, gathered)
    return gathered


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".gathering").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _children(client: "MlflowClient", folder: Path, run_id: str) -> list[Child]:
    """The jobs that were begun: one each, however often, in the order of the plan."""
    known, order = ends(folder), [job.config_key for job in planned(folder)]
    newest: dict[str, StoredRun] = {}
    for run in _stored_children(client, run_id):
        key = run.data.tags.get(KEY_TAG, run.info.run_id)
        if key not in newest or newest[key].info.status != "FINISHED" or run.info.status == "FINISHED":
            newest[key] = run
    begun = {key: _child(_closed(client, run, known.get(key)), known.get(key)) for key, run in newest.items()}
    begun |= {key: _without_run(end) for key, end in known.items() if key not in begun}
    places = {key: place for place, key in enumerate(order)}
    return [begun[key] for key in sorted(begun, key=lambda key: places.get(key, len(places)))]


def _closed(client: "MlflowClient", run: "StoredRun", end: End | None) -> "StoredRun":
    """A run whose process was killed could not close it."""
    if run.info.status != "RUNNING" or end is None or end.state == "FINISHED":
        return run
    client.set_terminated(run.info.run_id, end.state)
    return client.get_run(run.info.run_id)


def _stored_children(client: "MlflowClient", run_id: str) -> Iterator["StoredRun"]:
    """Oldest first."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query, page = f"tags.`{PARENT_TAG}` = '{run_id}'", None
    while page is None or page.token:
        token = page and page.token
        page = client.search_runs(experiments, query, order_by=["attributes.start_time ASC"], page_token=token)
        yield from page


def _child(run: "StoredRun", end: End | None = None) -> Child:
    tags, status = run.data.tags, run.info.status
    reason = end.reason if end else None
    if status == "RUNNING" and end is not None:
        reason = UNSENT
    overrides = _parsed(tags.get(OVERRIDES_TAG, ""))
    return Child(overrides, status, run.data.metrics, tags.get(PRIMARY_TAG), tags.get("task"), reason)


def _without_run(end: End) -> Child:
    return Child(_keys_and_values(end.overrides), end.state, {}, reason=end.reason or UNSENT)


def _parsed(text: str) -> dict[str, str]:
    try:
        return _keys_and_values(shlex.split(text))
    except ValueError:  # a quotation mark was lost where the store cut a long tag
        return _keys_and_values(text.split())


def _keys_and_values(words: Sequence[str]) -> dict[str, str]:
    return {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}


def _summed_up(folder: Path, children: Sequence[Child]) -> Gathered:
    told = _told(folder, children)
    failed = [end for end in ends(folder).values() if end.state != "FINISHED"]
    mistakes = bool(failed) and all(end.mistake for end in failed)
    status = _status(children, complete=not told)
    return Gathered(folder, children, statistics(children), told, found(folder), status, mistakes)


def _told(folder: Path, children: Sequence[Child]) -> list[str]:
    """What did not finish; empty if all did."""
    jobs, keys = len(planned(folder)), swept(folder)
    unfinished = [child for child in children if child.status != "FINISHED"]
    missing = max(0, jobs - len(children))
    if not unfinished and not missing and children:
        return []
    names = [f"{name_of(_words(child), keys)} ({child.status}{_because(child)})" for child in unfinished]
    if missing or not children:
        names.append(f"{missing or 'all'} without a run")
    finished = len(children) - len(unfinished)
    return [f"{finished} of {jobs or len(children)} jobs finished; not:", *names]


def _words(child: Child) -> list[str]:
    return [f"{key}={value}" for key, value in child.overrides.items()]


def _because(child: Child) -> str:
    return f": {child.reason}" if child.reason else ""


def _status(children: Sequence[Child], complete: bool) -> Literal["FINISHED", "FAILED", "KILLED"]:
    if complete:
        return "FINISHED"
    return "KILLED" if any(child.status == "KILLED" for child in children) else "FAILED"


def _write(client: "MlflowClient", run_id: str, gathered: Gathered) -> None:
    """Into the folder and the parent; what the parent has already is left alone."""
    folder, keys = gathered.folder, varying(gathered.children)
    parent, metrics = client.get_run(run_id), {}
    finished = sum(child.status == "FINISHED" for child in gathered.children)
    if gathered.found:
        write_csv(folder / "sweep.csv", keys, gathered.found)
        client.log_artifact(run_id, str(folder / "sweep.csv"))
        _draw(client, run_id, gathered)
        if not keys:
            metrics = {f"{s.metric}_mean": s.mean for s in gathered.found}
            metrics |= {f"{s.metric}_sd": s.sd for s in gathered.found}
            metrics["seeds"] = float(finished)
    tags = {"jobs_finished": str(finished)}
    if gathered.best is not None:
        tags |= {f"best_{key.lstrip('+')}": str(value) for key, value in gathered.best.params.items()}
        metrics |= {f"valid/{gathered.best.metric}_best": gathered.best.score}
        _keep_figure(client, run_id, gathered.best.figure, folder / "search_history.png")
    if gathered.told:
        tags[INCOMPLETE] = mask(one_line(gathered.told))[:LONGEST_TAG]
    elif INCOMPLETE in parent.data.tags:
        client.delete_tag(run_id, INCOMPLETE)
    _log_new(client, parent, metrics, tags)
    if parent.info.status != gathered.status:
        client.set_terminated(run_id, gathered.status)


def one_line(told: Sequence[str]) -> str:
    """What did not finish."""
    return f"{told[0]} {', '.join(told[1:])}"


def _log_new(
    client: "MlflowClient", parent: "StoredRun", metrics: Mapping[str, float | None], tags: Mapping[str, str]
) -> None:
    import time

    from mlflow.entities import Metric, RunTag

    now_ms, before = int(time.time() * 1000), parent.data
    new = [Metric(k, v, now_ms, 0) for k, v in metrics.items() if v is not None and before.metrics.get(k) != v]
    changed = [RunTag(k, v) for k, v in tags.items() if before.tags.get(k) != v]
    client.log_batch(parent.info.run_id, metrics=new, tags=changed, synchronous=True)


def _draw(client: "MlflowClient", run_id: str, gathered: Gathered) -> None:
    from plmft.sweeps.plots import accuracy_against_cost

    figure = accuracy_against_cost(gathered.children)
    if figure is not None:
        _keep_figure(client, run_id, figure, gathered.folder / "accuracy_against_cost.png")


def _keep_figure(client: "MlflowClient", run_id: str, figure: "Figure", file: Path) -> None:
    figure.savefig(file)
    client.log_artifact(run_id, str(file), "figures")
