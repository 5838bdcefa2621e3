"""Wait for a sweep's SLURM jobs, and tell why each ended that did not finish.

A job notes its own end where it can. One that was killed, timed out or never started could not: squeue, which remembers
a job for some minutes, and the last lines of its stderr tell. Asks every second at first, and every half-minute later.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from plmft import InputError
from plmft.sweeps.jobs import End, ends, note, planned
from plmft.sweeps.slurm_queue import Place, Queue, Standing

LONGEST_PAUSE_S = 30.0
PATIENCE_S = 600.0  # with a controller that does not answer
TAIL_BYTES = 20_000
MEMORY_WORDS = ("exceeded memory limit", "oom_kill", "oom-kill", "out of memory")
SLURMS_OWN = ("srun:", "slurmstepd")


def wait(folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
    """Until these jobs of the sweep in `folder` are over; prints how many wait and run, and keeps how each ended.

    Args: jobs: the overrides of each, by config_key.
    """
    queue, pause, told = Queue(folder), 1.0, ""
    places = {key: place for key, place in queue.places().items() if key in jobs}
    waiting = set(places)
    while waiting:
        standings = _ask_patiently(queue, places.values())
        for key in sorted(waiting):
            standing = standings.get(places[key])
            if standing is None or standing.over:
                _keep_end(folder, key, jobs[key], standing)
                waiting.discard(key)
        line = _line(standings.get(place) for place in places.values())
        if line != told:
            told = line
            print(f"SLURM: {line}", flush=True)
        if waiting:
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_S, 1.2 * pause)


def gather_late(folder: str) -> None:
    """Make the sweep's table in a job of its own, once the others are over: the command that began it may be gone."""
    from plmft.sweeps.gather import gather

    place = Path(folder)
    wait(place, {job.config_key: job.overrides for job in planned(place)})
    gather(place)


def _ask_patiently(queue: Queue, places: Iterable[Place]) -> dict[Place, Standing]:
    """A controller that restarts for a while ends no sweep."""
    places, deadline = list(places), time.monotonic() + PATIENCE_S
    while True:
        try:
            return queue.standings(places)
        except InputError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LONGEST_PAUSE_S / 3)


def _line(standings: Iterable[Standing | None]) -> str:
    """3 pending (Priority), 2 running, 4 over."""

    def named(standing: Standing | None) -> str:
        if standing is None or standing.over:
            return "over"
        why = f" ({standing.reason})" if standing.state == "PENDING" and standing.reason != "None" else ""
        return standing.state.lower() + why

    return ", ".join(f"{n} {name}" for name, n in sorted(Counter(map(named, standings)).items()))


def _keep_end(folder: Path, key: str, overrides: Sequence[str], standing: Standing | None) -> None:
    """What SLURM did to a job matters more than what the job could see of it."""
    known = ends(folder).get(key)
    if known is not None and known.state == "FINISHED":
        return
    done = standing and _done_to(standing)
    if known is not None and done is None:
        return
    log = _log(folder, standing)
    said = _tail(log)
    if any(word in said.lower() for word in MEMORY_WORDS):
        done = "out of memory: raise hardware.slurm.memory_gb"
    reason = done or _exit(standing, said)
    if log is not None and log.is_file():
        reason += f"; see {log}"
    state = "KILLED" if standing is not None and standing.state == "CANCELLED" else "FAILED"
    note(folder, key, End(state, reason=reason, overrides=overrides))


def _done_to(standing: Standing) -> str | None:
    """What SLURM did to the job; None where it ended by itself, or was killed by others."""
    return {
        "CANCELLED": "cancelled",
        "TIMEOUT": "reached its time limit (hardware.slurm.time)",
        "OUT_OF_MEMORY": "out of memory: raise hardware.slurm.memory_gb",
        "NODE_FAIL": "its node failed",
        "DEADLINE": "reached its deadline",
        "BOOT_FAIL": "its node did not start",
    }.get(standing.state)


def _exit(standing: Standing | None, said: str) -> str:
    if standing is None:
        return "SLURM no longer knows how it ended"
    own = [line for line in said.splitlines() if line.strip() and not line.startswith(SLURMS_OWN)]
    last = f": {own[-1].strip()}" if own else ""
    return f"exit code {standing.exit_code}{last}"


def _log(folder: Path, standing: Standing | None) -> Path | None:
    return None if standing is None else Queue(folder).folder / f"{standing.job}_0_log.err"


def _tail(log: Path | None) -> str:
    """The end of what a job wrote to stderr."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")
