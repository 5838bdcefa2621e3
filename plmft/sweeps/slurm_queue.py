"""A sweep's jobs in SLURM's queue: submitted in arrays, and found there again.

Each array is noted in the sweep's folder, under a name of its own, before it is submitted; squeue tells by that name
what has become of it. So a command that was killed at any moment submits nothing twice when it is given again. Needs no
accounting. Costs one squeue for all jobs whenever one asks.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.sweeps.jobs import OVERRIDES, Composed, forget
from plmft.tracking.lineage import is_secret, mask
from plmft.training.slurm import run_job
from plmft.training.slurm_options import PLACES, request

if TYPE_CHECKING:
    from submitit import SlurmExecutor

LARGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 where the site did not change it
COLUMNS = "Name:200,JobArrayID:40,State:40,exit_code:20,Reason:100"
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE", "BOOT_FAIL")
LAST_MINUTES = 30


@dataclass(frozen=True)
class Place:
    """Where a job stands in the queue: the array's name, and its number there."""

    array: str
    index: int


@dataclass(frozen=True)
class Standing:
    """What squeue tells of a job. exit_code: below 0 for a signal. reason: that it waits, or ended."""

    job: str
    state: str
    exit_code: int
    reason: str

    @property
    def over(self) -> bool:
        """Whether it won't run any more."""
        return self.state in OVER


class Queue:
    """The jobs of one sweep. folder: of the sweep, which all nodes see."""

    def __init__(self, folder: Path) -> None:
        self._sweep, self.folder = folder, folder / "slurm"
        self._last = f"{folder.name}-last"

    def places(self) -> dict[str, Place]:
        """By config_key, where each job was submitted last."""
        return {key: Place(array["name"], n) for array in self._arrays() for n, key in enumerate(array["keys"])}

    def standings(self, places: Iterable[Place]) -> dict[Place, Standing]:
        """Of those that SLURM still knows: it forgets a job some minutes (MinJobAge) after its end.

        Raises: InputError: squeue fails.
        """
        names = ",".join(sorted({place.array for place in places}))
        if not names:
            return {}
        told = run_program(
            "squeue", "--me", "--noheader", "--array", "--states=all", f"--name={names}", f"--Format={COLUMNS}"
        )
        found = {}
        for line in told.splitlines():
            name, job, state, code, reason = line.split(maxsplit=4)
            place = Place(name, int(job.partition("_")[2] or 0))
            found[place] = Standing(job, state, os.waitstatus_to_exitcode(int(code)), reason.strip())
        return found

    def submit_missing(self, jobs: Mapping[str, Composed], parallel: int) -> None:
        """Those by config_key that are not in the queue already, equal requests as one array; last the one to gather.

        Args: parallel: how many of an array run at a time.
        Raises: InputError: SLURM refuses one; none of the new ones is left in the queue then. A job's file would hold
            a secret.
        """
        under_way = self._under_way(jobs)
        new = [job for key, job in jobs.items() if key not in under_way]
        for job in new:
            _check_secrets(job)
        names: list[str] = []
        try:
            for array in _arrays_of(new):
                self._submit(array, parallel, names)
        except BaseException:
            cancel(names)
            raise
        try:
            self._submit_last(jobs)
        except InputError as error:  # a site may allow no such job; the sweep can do without
            print(f"SLURM: no table without this command: {error}", file=sys.stderr)
        print(f"SLURM: {len(new)} submitted, {len(jobs) - len(new)} in the queue already.", flush=True)

    def _under_way(self, keys: Iterable[str]) -> dict[str, Standing]:
        places = {key: place for key, place in self.places().items() if key in keys}
        standings = self.standings(places.values())
        return {k: standings[p] for k, p in places.items() if p in standings and not standings[p].over}

    def _submit(self, jobs: Sequence[Composed], parallel: int, names: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(self._arrays())
        name = f"{self._sweep.name}-{number}"
        executor = self._executor(name, request(jobs[0].config["hardware"]), array_parallelism=parallel)
        noted = {"name": name, "keys": [job.config_key for job in jobs]}
        write_whole(self.folder / f"array-{number:04}.json", json.dumps(noted).encode())
        names.append(name)
        for job in jobs:
            forget(self._sweep, job.config_key)
        commands = [list(job.overrides) for job in jobs]
        environments = [{OVERRIDES: shlex.join(job.overrides), **job.environment} for job in jobs]
        _answered(lambda: executor.map_array(run_job, commands, environments))

    def _submit_last(self, jobs: Mapping[str, Composed]) -> None:
        """A small job that makes the sweep's table when the others are over: this command may be gone by then."""
        from plmft.sweeps.slurm_ends import gather_late

        self.drop_last()
        arrays = sorted({standing.job.partition("_")[0] for standing in self._under_way(jobs).values()})
        if not arrays:
            return
        asked = request(next(iter(jobs.values())).config["hardware"])
        executor = self._executor(
            self._last,
            {name: asked[name] for name in PLACES if name in asked},
            time=LAST_MINUTES,
            dependency=":".join(["afterany", *arrays]),
        )
        _answered(lambda: executor.submit(gather_late, str(self._sweep)))

    def drop_last(self) -> None:
        """Whoever waited until now gathers."""
        cancel([self._last])

    def names(self, keys: Iterable[str]) -> str:
        """Of the arrays that hold these jobs, as --name takes them."""
        places = self.places()
        return ",".join(sorted({places[key].array for key in keys}))

    def _arrays(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("array-*.json"))]

    def _executor(self, name: str, asked: Mapping[str, Any], **more: Any) -> "SlurmExecutor":
        from submitit import SlurmExecutor

        executor = SlurmExecutor(self.folder)
        executor.update_parameters(job_name=name, wckey=None, **asked, **more)
        return executor


def cancel(names: Sequence[str]) -> None:
    """End the jobs of these names, and take them out of the queue."""
    if names:
        run_program("scancel", "--me", f"--name={','.join(names)}")


def run_program(*words: str) -> str:
    """What one of SLURM's programs prints. Raises: InputError: it fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError as error:
        raise InputError(f"{words[0]} fails: {error.stderr.strip()}") from None


def _answered(submit: Callable[[], Any]) -> Any:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return submit()
    except (FailedJobError, FailedSubmissionError) as error:
        raise InputError(f"hardware.slurm: sbatch refuses the job: {str(error).strip()}") from None


def _arrays_of(jobs: Sequence[Composed]) -> Iterator[list[Composed]]:
    """Jobs of equal requests together, in their order, as many as an array takes."""
    alike: dict[str, list[Composed]] = {}
    for job in jobs:
        alike.setdefault(json.dumps(request(job.config["hardware"]), sort_keys=True), []).append(job)
    for group in alike.values():
        yield from (group[n : n + LARGEST_ARRAY] for n in range(0, len(group), LARGEST_ARRAY))


def _check_secrets(job: Composed) -> None:
    """A job's command lies in files, in the sweep's folder."""
    for text in job.overrides:
        if mask(text) != text:
            raise InputError(
                f"{mask(text)}: holds a secret, which would be written into the job's files. Set it in the "
                "environment, which sbatch hands on."
            )
    for name, value in job.environment.items():
        if is_secret(name, value):
            raise InputError(f"hydra.job.env_set.{name}: is a secret. Set it in the environment: sbatch hands it on.")
