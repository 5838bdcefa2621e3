"""hydra/sweeper=optuna: jobs are chosen by what earlier ones came to, and those that stay behind are ended early.

    python -m plmft.train --multirun hydra/sweeper=optuna hydra.sweeper.trials=20 \\
        'optim.lr=tag(log,interval(1e-5,1e-2))' 'tuning.rank=choice(4,8,16)' task=fluorescence

A wrapper around Optuna (plmft/sweeps/search.py); hydra-optuna-sweeper pins a version of Optuna that is years
old, and neither prunes nor resumes. Hydra imports this file whenever it starts, so it imports nothing itself.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from plmft.sweeps.search import Search


class OptunaSweeper(Sweeper):
    """Args: see conf/hydra/sweeper/optuna.yaml. Raises: InputError: one is out of its range, or Optuna is missing."""

    def __init__(
        self, trials: int, startup: int, prune: bool, at_once: int | None, params: Mapping[str, str] | None
    ) -> None:
        from plmft import InputError

        for name, value, least in (("trials", trials, 1), ("startup", startup, 1), ("at_once", at_once or 1, 1)):
            if not isinstance(value, int) or value < least:
                raise InputError(f"hydra.sweeper.{name}={value}: must be a whole number, {least} or more.")
        if importlib.util.find_spec("optuna") is None:
            raise InputError('hydra/sweeper=optuna needs Optuna. Install it: pip install -e ".[search]"')
        self._trials, self._startup, self._prune, self._at_once = trials, startup, prune, at_once
        self._params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's."""
        from hydra.core.plugins import Plugins

        self._loader, self._config = hydra_context.config_loader, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until as many have finished as were asked for, or each has had its try."""
        from plmft.sweeps.search import Search
        from plmft.sweeps.space import space_of

        lines = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self._loader).parse_overrides(lines)
        fixed = [o.input_line for o in overrides if not o.is_sweep_override()]
        search = Search(
            Path(self._config.hydra.sweep.dir),
            space_of(overrides),
            metric=self._metric(fixed),
            seed=self._config.seed,
            startup=self._startup,
            prune=self._prune,
        )
        left, tried = self._trials - search.finished(), set()
        while left > 0:
            trials = search.next(min(left, self._together()), tried)
            self._run(search, fixed, trials, first=len(tried))
            tried |= trials.keys()
            left -= len(trials)

    def _metric(self, fixed: Sequence[str]) -> str:
        """The task's primary one."""
        from plmft.config.compose import parts_of
        from plmft.sweeps.jobs import plain

        config = plain(self._loader.load_sweep_config(self._config, list(fixed)))
        return parts_of({"task": config["task"]})["task"].primary_metric

    def _together(self) -> int:
        """Trials that are chosen at once: as the launcher runs, but five rounds at least, or nothing is learned."""
        return self._at_once or min(self._config.hydra.launcher.get("jobs", 1), max(1, self._trials // 5))

    def _run(
        self, search: "Search", fixed: Sequence[str], trials: Mapping[int, Mapping[str, object]], first: int
    ) -> None:
        from plmft.sweeps.jobs import compose, finished
        from plmft.sweeps.search import TRIAL

        batch = [
            [*fixed, *(f"{key}={value}" for key, value in values.items()), f"+hydra.job.env_set.{TRIAL}='{number}'"]
            for number, values in trials.items()
        ]
        self._launcher.launch(batch, initial_job_idx=first)
        done = finished(Path(self._config.hydra.sweep.dir))
        for number, job in zip(trials, compose(self._loader, self._config, batch, first), strict=True):
            if job.config_key in done:
                search.tell(number)
