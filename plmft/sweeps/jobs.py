"""The jobs of a sweep on disk: which there are, and how each ended. All processes and launchers of a sweep share it.

A sweep's folder, <runs>/work/<time>-sweep, holds

    sweep.json               {"key": ..., "swept": ["model", "seed"],
                              "jobs": [{"overrides": ["model=esm2_8m", "seed=0"], "config_key": "3f..."}, ...]}
    jobs/<config_key>.json   how that job ended: {"state": "FINISHED", "value": 0.61, "reason": null, ...} (`End`)

`jobs` is empty for a sweeper that chooses jobs as it goes. The environment of each job names the folder (PLMFT_SWEEP).

What a launcher does: `drop_hydras_copy`, `compose` its batch, leave out the jobs whose key is in `finished(folder)`,
`forget` how the others ended before, and start them. The job's process notes its own end, whatever it is, as
`plmft.train.run` passes through `run_noted`. One that was killed could not: when it is gone and its key is not in
`ends(folder)`, the launcher writes `note(folder, key, End("FAILED", reason=...))` with what it knows. It gives Hydra
`returned(value)` for each job, failed ones included: an exception would end the sweep. Each file is put in place whole;
one small file a job.
"""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from omegaconf import DictConfig, OmegaConf, open_dict

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.tracking.claims import config_key
from plmft.tracking.lineage import mask

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.utils import JobReturn

SWEEP = "PLMFT_SWEEP"  # the sweep's folder, for jobs
OVERRIDES = "PLMFT_OVERRIDES"  # what this job's command line sets, shell-quoted
GIVEN = "PLMFT_JOB"  # set: this process gets its config on stdin
State = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Planned:
    """A job that the command line asks for. overrides: as on a command line. config_key: of its config."""

    overrides: Sequence[str]
    config_key: str


@dataclass(frozen=True)
class End:
    """How a job ended.

    Args:
        state: KILLED: by Ctrl-C or a signal that it understood.
        value: the primary metric on the test split; None where there is none.
        reason: of one that did not finish: the first line of its error.
        mistake: whether the user made it.
        overrides: of the job, where its launcher knows them.
    """

    state: State
    value: float | None = None
    reason: str | None = None
    mistake: bool = False
    overrides: Sequence[str] = ()


def write_plan(folder: Path, key: str, jobs: Sequence[Planned], swept: Sequence[str]) -> None:
    """Write sweep.json."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"key": key, "swept": sorted(swept), "jobs": [asdict(job) for job in jobs]}
    write_whole(folder / "sweep.json", (json.dumps(plan, indent=1) + "\n").encode())


def planned(folder: Path) -> list[Planned]:
    """The jobs in sweep.json; none where the file is missing, or the sweeper chooses as it goes."""
    return [Planned(**job) for job in _plan(folder).get("jobs", ())]


def swept(folder: Path) -> frozenset[str]:
    """The keys that the command line gives several values."""
    return frozenset(_plan(folder).get("swept", ()))


def name_of(overrides: Sequence[str], keys: frozenset[str]) -> str:
    """A job by what it alone sets, or by all where that isn't known."""
    chosen = [override for override in overrides if override.lstrip("+").partition("=")[0] in keys]
    return " ".join(chosen or overrides)


def _plan(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "sweep.json").read_text())
    except FileNotFoundError:
        return {}


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as a job gets it: resolved, without Hydra's own part."""
    ours = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)


@dataclass(frozen=True)
class Composed:
    """A job, ready to start.

    Args:
        number: in the sweep, from 0. overrides: its command line. config: what plmft.train gets.
        config_key: of it. environment: variables that the job must see (hydra.job.env_set).
        hydra_config: Hydra's own form, with the part `hydra`.
    """

    number: int
    overrides: Sequence[str]
    config: dict[str, Any]
    config_key: str
    environment: dict[str, str]
    hydra_config: DictConfig


def compose(loader: "ConfigLoader", master: DictConfig, batch: Sequence[Sequence[str]], first: int) -> list[Composed]:
    """The jobs of a batch, as a launcher gets it. first: the number of its first job."""
    jobs = []
    for number, overrides in enumerate(batch, first):
        composed = loader.load_sweep_config(master, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        config = plain(composed)
        environment = OmegaConf.to_container(composed.hydra.job.env_set, resolve=True)
        ours = [o for o in overrides if not o.lstrip("+~").startswith("hydra")]
        jobs.append(Composed(number, ours, config, config_key(config), environment, composed))
    return jobs


def ends(folder: Path) -> dict[str, End]:
    """By config_key, how the jobs that have ended did; not of those under way or begun by nobody."""
    return {file.stem: End(**json.loads(file.read_text())) for file in sorted((folder / "jobs").glob("*.json"))}


def finished(folder: Path) -> dict[str, float | None]:
    """By config_key, the primary metric of the jobs that are FINISHED and need not run again."""
    return {key: end.value for key, end in ends(folder).items() if end.state == "FINISHED"}


def note(folder: Path, key: str, end: End) -> None:
    """Keep how a job ended; secrets in the reason are masked."""
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    masked = asdict(end) | {"reason": end.reason and mask(end.reason), "overrides": [mask(o) for o in end.overrides]}
    write_whole(folder / "jobs" / f"{key}.json", json.dumps(masked).encode())


def forget(folder: Path, key: str) -> None:
    """A job is about to run again: how it ended before no longer counts."""
    (folder / "jobs" / f"{key}.json").unlink(missing_ok=True)


def drop_hydras_copy(folder: Path) -> None:
    """Remove Hydra's copy of the config: it is not scrubbed of secrets, and each child keeps its own."""
    (folder / "multirun.yaml").unlink(missing_ok=True)


def returned(value: float | None) -> "JobReturn":
    """What Hydra expects of a job that has ended, however it did."""
    from hydra.core.utils import JobReturn, JobStatus

    return JobReturn(status=JobStatus.COMPLETED, _return_value=value)


def given_to(job: Composed) -> dict[str, str]:
    """What the environment of a job's own process must hold, besides this one's."""
    return {GIVEN: "1", OVERRIDES: shlex.join(job.overrides), **job.environment}


def give(job: Composed, stream: BinaryIO) -> None:
    """Hand a job's config, which may hold secrets, to its process. The stream is to stay open as long as it may run."""
    stream.write(json.dumps(job.config).encode() + b"\n")
    stream.flush()


def given() -> dict[str, Any] | None:
    """The config that this process was started for; None where it was not started by `given_to`."""
    return json.loads(sys.stdin.buffer.readline()) if GIVEN in os.environ else None


def run_noted(config: Mapping[str, Any], job: Callable[[dict[str, Any]], float | None]) -> float | None:
    """Run a job of the sweep that the environment names, unless it has finished, and keep how it ends.

    Args: job: takes the plain config.
    Returns: the job's; None if it failed, which is told on stderr: the others go on.
    Raises: KeyboardInterrupt: the job was interrupted.
    """
    folder, key, overrides = Path(os.environ[SWEEP]), config_key(config), shlex.split(os.environ.get(OVERRIDES, ""))
    known = finished(folder)
    if key in known:
        return known[key]
    forget(folder, key)
    try:
        value = job(dict(config))
    except KeyboardInterrupt as interrupt:
        _note_own(folder, key, End("KILLED", reason=type(interrupt).__name__, overrides=overrides))
        raise
    except Exception as error:
        mistake = isinstance(error, InputError)
        print(mask(f"plmft: {error}" if mistake else traceback.format_exc()), file=sys.stderr)
        _note_own(folder, key, End("FAILED", reason=first_line(error), mistake=mistake, overrides=overrides))
        if not _others_follow():
            sys.exit(2 if mistake else 1)
        return None
    _note_own(folder, key, End("FINISHED", value, overrides=overrides))
    return value


def _others_follow() -> bool:
    """Whether this process runs other jobs, too. One of its own tells SLURM, and srun the other ranks, how it ended."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _note_own(folder: Path, key: str, end: End) -> None:
    """Of several processes that share a job, one tells."""
    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0) == 0:
        note(folder, key, end)


def first_line(error: BaseException) -> str:
    """What an error says first, with its kind unless it is a user's mistake."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}".rstrip(": ")
