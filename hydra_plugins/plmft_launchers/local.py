"""hydra/launcher=local: each job of a sweep is a process of its own, `hydra.launcher.jobs` at a time.

    python -m plmft.train --multirun hydra/launcher=local hydra.launcher.jobs=2 seed=0,1,2,3

A job that crashes or is killed takes nothing along. Costs each job the start of Python and its imports (seconds). Hydra
imports this file whenever it starts, so it imports nothing itself.
"""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Raises: InputError: jobs is no whole number above 0."""

    def __init__(self, jobs: int = 1) -> None:
        from plmft import InputError

        if not isinstance(jobs, int) or jobs < 1:
            raise InputError(f"hydra.launcher.jobs={jobs}: must be a whole number above 0.")
        self._jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's."""
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run those that have not finished. Raises: KeyboardInterrupt: all were stopped."""
        from plmft.sweeps.jobs import compose, drop_hydras_copy, finished, name_of, returned, swept
        from plmft.sweeps.pool import Pool

        folder = Path(self._config.hydra.sweep.dir)
        drop_hydras_copy(folder)
        jobs = compose(self._loader, self._config, job_overrides, initial_job_idx)
        before = finished(folder)
        for job in jobs:
            if job.config_key in before:
                print(f"[{job.number}] {name_of(job.overrides, swept(folder))}: FINISHED before")
        left = {job.config_key: job for job in jobs if job.config_key not in before}  # a search may repeat one
        Pool(folder, self._jobs).run(list(left.values()))
        now = finished(folder)
        return [returned(now.get(job.config_key)) for job in jobs]
