"""One parent run for the jobs of a multirun: mean and standard deviation over seeds, once they have ended.

    python -m plmft.train --multirun seed=0,1,2 model=esm2_8m,esm2_35m task=fluorescence

Jobs learn of their parent by the environment, which launchers hand on, and mark their runs as its children; the parent
reads their figures from the store, so it doesn't matter where they ran. A single run pays the import of this file.
Every job's config is checked before the first one starts: some 0.2 s a job.
"""

import atexit
import contextlib
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from plmft import InputError
from plmft.config.check import check
from plmft.tracking.options import Tracking, check_writable, runs_dir
from plmft.tracking.seeds import Child, Statistic, statistics, varying, write_csv

if TYPE_CHECKING:
    from mlflow.entities import Run as StoredRun

    from plmft.tracking.run import Run, Status

PARENT = "PLMFT_PARENT_RUN"  # the parent's run id, for jobs
OVERRIDES = "PLMFT_OVERRIDES"  # what this job's command line sets, shell-quoted
PARENT_TAG, OVERRIDES_TAG, PRIMARY_TAG = "mlflow.parentRunId", "overrides", "primary_metric"
SEVERAL_TASKS = "sweep"  # the experiment of a parent whose jobs may be of several tasks
TASK_GROUPS = {"task", "experiment"}


def child_tags() -> dict[str, str]:
    """Tags that make this process's run a child of its sweep; empty outside of one."""
    if PARENT not in os.environ:
        return {}
    return {PARENT_TAG: os.environ[PARENT], OVERRIDES_TAG: os.environ.get(OVERRIDES, "")}


@dataclass(frozen=True)
class _Open:
    run: "Run"
    uri: str
    folder: Path  # of the sweep, in the runs folder
    jobs: int | None  # None where the sweeper chooses them as it goes
    swept: frozenset[str]  # keys that the command line gives several values


class Sweep(Callback):
    """Hydra's callback. Launchers may pickle it: what it holds open stays in the process that started the sweep."""

    def __init__(self) -> None:
        self._open: _Open | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all jobs, and open the parent. A user's mistake ends the process: Hydra would go on."""
        if not os.environ.get("PLMFT_RUNS"):
            os.environ.pop("PLMFT_RUNS", None)  # set but empty, it would make hydra.sweep.dir a folder in /
        try:
            self._open = _start(config)
        except InputError as error:
            print(f"plmft: {error}", file=sys.stderr)
            sys.exit(2)
        os.environ[PARENT] = self._open.run.id
        atexit.register(self.close)  # Hydra doesn't call on_multirun_end if a job ends the process

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the job's process: note its overrides for `child_tags`."""
        if self._open is not None:
            _drop_hydras_copy(self._open.folder)
        if PARENT in os.environ:
            ours = [o for o in config.hydra.overrides.task if not o.startswith("hydra")]
            os.environ[OVERRIDES] = shlex.join(ours)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent."""
        if not self.close():
            sys.exit(2)

    def close(self) -> bool:
        """End the parent with what its children came to; once, later calls do nothing. False if it can't be written."""
        if self._open is None:
            return True
        sweep, self._open = self._open, None
        atexit.unregister(self.close)
        for name in (PARENT, OVERRIDES):
            os.environ.pop(name, None)
        try:
            _end(sweep)
        except (InputError, OSError) as error:
            print(f"plmft: {error}", file=sys.stderr)
            with contextlib.suppress(InputError):
                sweep.run.end("FAILED")
            return False
        return True


def _start(config: DictConfig) -> _Open:
    overrides = _overrides(config)
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    if any(key.partition(".")[0] == "tracking" for key in swept):
        raise InputError("tracking varies: a sweep keeps its runs in one store. Give it one value.")
    jobs = _jobs(config, overrides)
    _check_jobs(config, jobs or [[]])
    runs, folder = runs_dir(), Path(config.hydra.sweep.dir).absolute()
    check_writable(runs)
    tracking = Tracking(**{k: v for k, v in config.tracking.items() if k != "_target_"})
    uri = tracking.address(runs)

    from plmft.tracking.run import Run

    run = Run.start(
        uri,
        experiment=SEVERAL_TASKS if swept & TASK_GROUPS else _task_name(config),
        name=folder.name,
        runs=runs,
        tags={"sweep": "true", "jobs": len(jobs) if jobs else None},
        params={"overrides": " ".join(o.input_line for o in overrides)},
    )
    return _Open(run, uri, folder, len(jobs) if jobs else None, frozenset(swept))


def _task_name(config: DictConfig) -> str:
    """The experiment of the jobs: the task's name, its own where the user gives one."""
    return config.task.get("name") or config.hydra.runtime.choices.task


def _overrides(config: DictConfig) -> list[Override]:
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return OverridesParser.create().parse_overrides([*lines, *config.hydra.overrides.task])


def _jobs(config: DictConfig, overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper makes them; empty for a sweeper that chooses as it goes."""
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return []
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        swept = override.is_sweep_override()
        values = override.sweep_string_iterator() if swept else [override.get_value_element_as_str()]
        choices[key] = [f"{key}={value}" for value in values]
    return [list(job) for job in itertools.product(*choices.values())]


def _check_jobs(config: DictConfig, jobs: Sequence[list[str]]) -> None:
    """Raises: InputError: a job's config is wrong; nothing has been started."""
    loader = GlobalHydra.instance().config_loader()
    common = set(jobs[0]).intersection(*jobs)
    for job in jobs:
        named = "".join(f"{override} " for override in job if override not in common)
        try:
            composed = loader.load_sweep_config(config, job)
            with open_dict(composed):
                del composed["hydra"]
            check(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
        except InputError as error:
            raise InputError(f"job {named.rstrip()}: {error}" if named else str(error)) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(f"job {named.rstrip()}: {str(error).splitlines()[0]}") from None


def _drop_hydras_copy(folder: Path) -> None:
    """Remove Hydra's copy of the config: it is not scrubbed of secrets, and each child keeps its own."""
    (folder / "multirun.yaml").unlink(missing_ok=True)


def _end(sweep: _Open) -> None:
    children = [_child(run) for run in _stored_children(sweep)]
    finished = [child for child in children if child.status == "FINISHED"]
    found = statistics(children)
    _drop_hydras_copy(sweep.folder)
    if found:
        _record(sweep, varying(children), found, len(finished))
    else:
        with contextlib.suppress(OSError):
            sweep.folder.rmdir()
    told = _told(sweep, children)
    sweep.run.tags({"jobs_finished": len(finished), "sweep_incomplete": told})
    sweep.run.end(_status(children, complete=told is None))
    _show(sweep, children, found, told)


def _stored_children(sweep: _Open) -> list["StoredRun"]:
    from plmft.tracking.store import open_client, refusals

    client = open_client(sweep.uri)
    found: list[StoredRun] = []
    with refusals(sweep.uri):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        page = None
        while page is None or page.token:
            page = client.search_runs(
                experiments,
                f"tags.`{PARENT_TAG}` = '{sweep.run.id}'",
                order_by=["attributes.start_time ASC"],
                page_token=page and page.token,
            )
            found += page
    return found


def _child(run: "StoredRun") -> Child:
    text = run.data.tags.get(OVERRIDES_TAG, "")
    try:
        words = shlex.split(text)
    except ValueError:  # a quotation mark was lost where the store cut a long tag
        words = text.split()
    overrides = {key.lstrip("+"): value for key, _, value in (word.partition("=") for word in words)}
    return Child(overrides, run.info.status, run.data.metrics, run.data.tags.get(PRIMARY_TAG))


def _told(sweep: _Open, children: Sequence[Child]) -> str | None:
    """What did not finish; None if all did."""
    unfinished = [child for child in children if child.status != "FINISHED"]
    missing = max(0, (sweep.jobs or 0) - len(children))
    if not unfinished and not missing and children:
        return None
    names = [f"{_named(sweep, child)} ({child.status})" for child in unfinished]
    if missing or not children:
        names.append(f"{missing or 'all'} without a run")
    finished = len(children) - len(unfinished)
    return f"{finished} of {sweep.jobs or len(children)} jobs finished; not: {', '.join(names)}"


def _named(sweep: _Open, child: Child) -> str:
    """The job by what it alone set, or by all where that isn't known."""
    chosen = [key for key in child.overrides if key in sweep.swept] or list(child.overrides)
    return " ".join(f"{key}={child.overrides[key]}" for key in chosen)


def _status(children: Sequence[Child], complete: bool) -> "Status":
    if complete:
        return "FINISHED"
    return "KILLED" if any(child.status == "KILLED" for child in children) else "FAILED"


def _record(sweep: _Open, keys: Sequence[str], found: Sequence[Statistic], finished: int) -> None:
    """sweep.csv, and where only the seed varies <metric>_mean and <metric>_sd of the parent."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    file = sweep.folder / "sweep.csv"
    write_csv(file, keys, found)
    sweep.run.artifact(file)
    if not keys:
        values = {f"{s.metric}_mean": s.mean for s in found} | {f"{s.metric}_sd": s.sd for s in found}
        sweep.run.metrics({**values, "seeds": float(finished)}, 0)


def _show(sweep: _Open, children: Sequence[Child], found: Sequence[Statistic], told: str | None) -> None:
    """Print the primary metrics of each group, or all of the test where there is one group alone."""
    from rich.console import Console
    from rich.table import Table

    console, keys = Console(), varying(children)
    primary = {f"test/{child.primary}" for child in children if child.primary}
    table = Table(title="Over seeds", title_justify="left", title_style="bold")
    for column in (*keys, "metric", "mean ± sd", "seeds"):
        table.add_column(column)
    for s in found:
        if s.metric in primary if keys and primary else s.metric.startswith("test"):
            table.add_row(*s.group, s.metric, f"{s.mean:.3f}" + ("" if s.sd is None else f" ± {s.sd:.3f}"), str(s.n))
    if table.row_count:
        console.print(table)
        console.print(f"Files: {sweep.folder / 'sweep.csv'}", highlight=False, soft_wrap=True)
    if told:
        console.print(told, highlight=False, soft_wrap=True)
    console.print(f"Compare runs: {sweep.run.url_hint}", highlight=False, soft_wrap=True)
