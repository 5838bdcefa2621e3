"""One parent run for the jobs of a multirun: mean and standard deviation over seeds, once they have ended.

    python -m plmft.train --multirun seed=0,1,2 model=esm2_8m,esm2_35m task=fluorescence

The same command goes on with its sweep and runs the jobs that are missing or failed. Jobs learn of their parent by the
environment, which launchers hand on, and mark their runs as its children; the parent reads their figures from the
store, so it doesn't matter where they ran. A single run pays the import of this file.
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
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from plmft import InputError
from plmft.config.check import check
from plmft.sweeps.gather import OVERRIDES_TAG, PARENT_TAG, Gathered, gather
from plmft.sweeps.jobs import OVERRIDES, SWEEP, Planned, drop_hydras_copy, finished, plain, write_plan
from plmft.sweeps.space import check_searchable, corners
from plmft.tracking.claims import Claim, claim, config_key, key_of
from plmft.tracking.lineage import mask
from plmft.tracking.options import Tracking, check_writable, runs_dir

if TYPE_CHECKING:
    from plmft.tracking.run import Run

PARENT = "PLMFT_PARENT_RUN"  # the parent's run id, or folder:<sweep's folder> where the store has not given one yet
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
    claim: Claim | None = None


class Sweep(Callback):
    """Hydra's callback. Launchers may pickle it: what it holds open stays in the process that started the sweep."""

    def __init__(self) -> None:
        self._open: _Open | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check all jobs, and open the parent. A user's mistake ends the process: Hydra would go on.

        So does a sweep that has finished before: it is shown again.
        """
        if not os.environ.get("PLMFT_RUNS"):
            os.environ.pop("PLMFT_RUNS", None)  # set but empty, it would make hydra.sweep.dir a folder in /
        try:
            self._open = _start(config)
        except InputError as error:
            print(f"plmft: {error}", file=sys.stderr)
            sys.exit(2)
        os.environ[PARENT] = self._open.run.id or f"folder:{self._open.folder}"
        os.environ[SWEEP] = str(self._open.folder)
        atexit.register(self.close)  # Hydra doesn't call on_multirun_end if a job ends the process

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """In the job's process: note its overrides for `child_tags`."""
        if self._open is not None:
            drop_hydras_copy(self._open.folder)
        if PARENT in os.environ:
            ours = [o for o in config.hydra.overrides.task if not o.startswith("hydra")]
            os.environ[OVERRIDES] = shlex.join(ours)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent. What did not finish makes the command fail."""
        code = self.close()
        if code:
            sys.exit(code)

    def close(self) -> int:
        """End the parent with what its children came to; once, later calls do nothing.

        Returns: the exit code: 0 if all jobs have finished.
        """
        if self._open is None:
            return 0
        sweep, self._open = self._open, None
        atexit.unregister(self.close)
        for name in (PARENT, OVERRIDES, SWEEP):
            os.environ.pop(name, None)
        try:
            return _end(sweep)
        except (InputError, OSError) as error:
            print(f"plmft: {error}", file=sys.stderr)
            with contextlib.suppress(InputError):
                sweep.run.end("FAILED")
            return 2
        finally:
            if sweep.claim is not None:
                sweep.claim.release()  # kept: the same command finds the sweep again, finished or not


def _start(config: DictConfig) -> _Open:
    overrides = _overrides(config)
    swept = {o.key_or_group for o in overrides if o.is_sweep_override()}
    if any(key.partition(".")[0] == "tracking" for key in swept):
        raise InputError("tracking varies: a sweep keeps its runs in one store. Give it one value.")
    jobs = _checked(config, overrides)
    _check_plugins(config)
    runs = runs_dir()
    check_writable(runs)
    uri = Tracking(**{k: v for k, v in config.tracking.items() if k != "_target_"}).address(runs)
    key = key_of([uri, sorted(job.config_key for job in jobs) or _command(config)])
    claimed = claim(runs, key, Path(config.hydra.sweep.dir).name, resume=config.checkpoint.resume)
    folder = claimed.folder
    if jobs and {job.config_key for job in jobs} <= finished(folder).keys():
        _tell_again(folder, uri)
    try:
        run = _open_parent(config, uri, folder, {"jobs": len(jobs) or None, "attempts": claimed.attempt}, swept)
        write_plan(folder, key, jobs, swept)
    except BaseException:
        if claimed.attempt == 1:
            with contextlib.suppress(OSError):
                folder.rmdir()
            claimed.finish()
        raise
    _use_folder(config, folder)
    return _Open(run, uri, folder, claimed)


def _open_parent(config: DictConfig, uri: str, folder: Path, tags: dict[str, object], swept: set[str]) -> "Run":
    from plmft.tracking.run import Run

    return Run.start(
        uri,
        experiment=SEVERAL_TASKS if swept & TASK_GROUPS else _task_name(config),
        name=folder.name,
        runs=runs_dir(),
        tags={"sweep": "true", **tags},
        params={"overrides": " ".join(o.input_line for o in _overrides(config))},
        folder=folder,
        offline_ok=config.tracking.get("offline_ok", False),
    )


def _tell_again(folder: Path, uri: str) -> None:
    """All jobs have finished before. What could not be written then, because the store was away, is written now."""
    print("All jobs of this sweep have finished before; checkpoint.resume=false begins it anew.")
    gathered = gather(folder, uri)
    _show(gathered, None)
    sys.exit(gathered.exit_code)


def _use_folder(config: DictConfig, folder: Path) -> None:
    """Hydra composes each job anew: it, too, must take the folder of a sweep that goes on."""
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    with read_write(config):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def _command(config: DictConfig) -> list[str]:
    """What tells searches apart, whose jobs aren't known: the command line; how long one searches doesn't count."""
    sweeper = {k: v for k, v in OmegaConf.to_container(config.hydra.sweeper, resolve=True).items() if k != "trials"}
    return [*sorted(config.hydra.overrides.task), key_of(sweeper)]


def _task_name(config: DictConfig) -> str:
    """The experiment of the jobs: the task's name, its own where the user gives one."""
    return config.task.get("name") or config.hydra.runtime.choices.task


def _overrides(config: DictConfig) -> list[Override]:
    lines = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return parser.parse_overrides([*lines, *config.hydra.overrides.task])


def _checked(config: DictConfig, overrides: Sequence[Override]) -> list[Planned]:
    """The jobs, as Hydra's own sweeper makes them; none for one that chooses as it goes: its ends are checked."""
    if config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        return _check_jobs(config, _jobs(overrides))
    ends = corners(overrides)
    if config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
        check_searchable(plain(GlobalHydra.instance().config_loader().load_sweep_config(config, ends[0])), overrides)
    _check_jobs(config, ends)
    return []


def _jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job.

    Raises: InputError: a sweep without end.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise InputError(
                f"{override.input_line}: an interval is searched. Set hydra/sweeper=optuna, or give values."
            )
    return [list(job) for job in itertools.product(*choices.values())]


def _check_jobs(config: DictConfig, jobs: Sequence[list[str]]) -> list[Planned]:
    """Raises: InputError: a job's config is wrong, or two are the same run; nothing has been started."""
    loader = GlobalHydra.instance().config_loader()
    common, found = set(jobs[0]).intersection(*jobs), {}
    for job in jobs:
        name = " ".join(override for override in job if override not in common)
        try:
            composed = plain(loader.load_sweep_config(config, job))
            check(composed)
        except InputError as error:
            raise InputError(f"job {name}: {error}" if name else str(error)) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(f"job {name}: {str(error).splitlines()[0]}") from None
        key = config_key(composed)
        if key in found:
            raise InputError(f"{name or 'a job'} comes twice: nothing that shapes a run differs. Leave one out.")
        found[key] = Planned([mask(override) for override in job], key)
    return list(found.values())


def _check_plugins(config: DictConfig) -> None:
    """Raises: InputError: an option of the launcher or the sweeper is wrong; Hydra would say so with a traceback."""
    for part in (config.hydra.launcher, config.hydra.sweeper):
        try:
            Plugins.instance()._instantiate(part)
        except InstantiationException as error:
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from None
            raise InputError(str(error).splitlines()[0]) from None


def _end(sweep: _Open) -> int:
    drop_hydras_copy(sweep.folder)
    gathered = gather(sweep.folder, sweep.uri)
    sweep.run.end(gathered.status)
    _show(gathered, sweep.run.url_hint)
    return gathered.exit_code


def _show(gathered: Gathered, url_hint: str | None) -> None:
    from rich.console import Console

    from plmft.sweeps.table import show

    console = Console()
    show(console, gathered)
    if url_hint:
        console.print(f"Compare runs: {url_hint}", highlight=False, soft_wrap=True)
