"""hydra/launcher=slurm: each job of a sweep is a SLURM job, and the command waits for them all.

    python -m plmft.train --multirun hydra/launcher=slurm hardware.slurm.time=60 seed=0,1,2 model=esm2_8m,esm2_35m

The command may be killed: the jobs go on, and the last one makes the sweep's table. Hydra imports this file whenever it
starts, so it imports nothing itself.
"""

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Args: jobs: how many of an array run at a time. Raises: InputError: that is no number, or SLURM is not here."""

    def __init__(self, jobs: int = 256) -> None:
        from plmft import InputError

        if not isinstance(jobs, int) or jobs < 1:
            raise InputError(f"hydra.launcher.jobs={jobs}: must be a whole number above 0.")
        if shutil.which("sbatch") is None:
            raise InputError(
                "hydra/launcher=slurm: there is no sbatch here. Give the command on a machine that has SLURM's "
                "programs (a login node), or set hydra/launcher=local."
            )
        if importlib.util.find_spec("submitit") is None:
            raise InputError("hydra/launcher=slurm: needs submitit. Run pip install submitit.")
        self._parallel = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's."""
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit what is neither finished nor in the queue, wait for all; one that fails doesn't end the others."""
        from plmft import InputError

        try:
            return self._launch(job_overrides, initial_job_idx)
        except InputError as error:
            print(f"plmft: {error}", file=sys.stderr)
            sys.exit(2)

    def _launch(self, batch: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        from plmft.sweeps.jobs import compose, drop_hydras_copy, finished, returned
        from plmft.sweeps.slurm_ends import wait
        from plmft.sweeps.slurm_queue import Queue

        folder = Path(self._config.hydra.sweep.dir)
        drop_hydras_copy(folder)
        jobs = compose(self._loader, self._config, batch, first)
        done = finished(folder)
        missing = {job.config_key: job for job in jobs if job.config_key not in done}
        queue = Queue(folder)
        queue.submit_missing(missing, self._parallel)
        try:
            wait(folder, {key: job.overrides for key, job in missing.items()})
        except KeyboardInterrupt:
            print(
                f"The jobs go on; scancel --me --name={queue.names(missing)} ends them. The same command waits again."
            )
            raise
        queue.drop_last()
        done = finished(folder)
        return [returned(done.get(job.config_key)) for job in jobs]
