"""Several benchmarks by one command: all configs are checked before the first starts, and one table ends them.

Hydra's callback for `python -m plmft.benchmark --multirun`. Jobs run one after the other in this process: side by side
they would disturb each other's figures. One that fails is told, and the others go on.
"""

import contextlib
import itertools
import sys
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from plmft import InputError
from plmft.bench.protocol import Row
from plmft.config.check import check
from plmft.data.whole_file import write_whole
from plmft.sweeps.jobs import drop_hydras_copy, plain

found: list[tuple[str, list[Row], tuple[str, ...]]] = []  # protocol, rows and columns to show of each job
failed: list[str] = []  # the jobs that did not end well


class Together(Callback):
    """Checks before, one table after."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises: SystemExit: a mistake in any job; nothing has been started."""
        try:
            _check_plugins(config)
            for job in _jobs(config):
                _check(config, job)
        except InputError as error:
            print(f"plmft: {error}", file=sys.stderr)
            sys.exit(2)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra's copy of the config is not scrubbed of secrets."""
        drop_hydras_copy(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """The rows of all jobs, by protocol, and the exit code."""
        folder = Path(config.hydra.sweep.dir)
        drop_hydras_copy(folder)
        _tell(folder)
        if failed:
            print(
                f"plmft: {len(failed)} of {len(failed) + len(found)} jobs failed: {'; '.join(failed)}", file=sys.stderr
            )
            sys.exit(1)


def _check_plugins(config: DictConfig) -> None:
    if not config.hydra.launcher._target_.endswith(".BasicLauncher"):
        raise InputError("hydra/launcher: benchmarks side by side would disturb each other. Drop it.")
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        raise InputError("hydra/sweeper: a benchmark has nothing to search for. Drop it, and give lists of values.")


def _jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper makes them."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    choices = []
    for override in parser.parse_overrides(list(config.hydra.overrides.task)):
        key = override.get_key_element()
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise InputError(f"{override.input_line}: an interval has no values. Give them.")
        if override.is_sweep_override():
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([f"{key}={override.get_value_element_as_str()}"])
    return [list(job) for job in itertools.product(*choices)]


def _check(config: DictConfig, job: list[str]) -> None:
    try:
        check(plain(GlobalHydra.instance().config_loader().load_sweep_config(config, job)))
    except InputError as error:
        raise InputError(f"job {' '.join(job)}: {error}") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"job {' '.join(job)}: {str(error).splitlines()[0]}") from None


def _tell(folder: Path) -> None:
    """One table and one file a protocol. A sweep with one job has shown it."""
    from rich.console import Console

    from plmft.bench.record import to_csv
    from plmft.bench.table import show

    console = Console()
    for protocol, shows in {name: shows for name, _, shows in found}.items():
        rows = [row for name, more, _ in found if name == protocol for row in more]
        write_whole(folder / f"{protocol}.csv", to_csv(rows).encode())
        show(console, f"{protocol}, all jobs", rows, shows)
    if found:
        console.print(f"Rows of all jobs: {folder}", highlight=False, soft_wrap=True, markup=False)
    else:
        with contextlib.suppress(OSError):
            folder.rmdir()
