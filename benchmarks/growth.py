"""Speed and memory as the data grow: residues/s and peak memory of training at 1, 10 and 100 times the data.

    python -m benchmarks.growth

A process for each size; they take turns, so that a drifting machine slows all of them. Each also goes through all of
its data once without a model: pages of mapped files count as resident from when they are touched. For comparison the
same with everything in memory. The model is ESM-2's architecture at its smallest, so that the loader's share shows.
"""

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compare import Answers, Entry, Goal, Row, entry, interleave, rate, rates
from benchmarks.growth_jobs import BATCH_SIZE, LENGTH, MODEL
from benchmarks.report import lines
from benchmarks.setting import Setting
from benchmarks.workers import Worker

SIZES, QUICK_SIZES = (2_000, 20_000, 200_000), (200, 400)
STEPS, ROUNDS = 10, 5
SPEED, MEMORY = Goal(0.95, least=True), Goal(1.05, least=False)
LOADER = Goal(0.02, least=False, unit="%")


@dataclass(frozen=True)
class Side:
    """What one process came to."""

    prepared: dict[str, Any]
    epoch_s: float  # seconds a sequence, of the loader alone
    peak_gb: float


def measure(sizes: tuple[int, ...], rounds: int, steps: int, folder: Path, threads: int) -> tuple[dict, Answers]:
    """A Side and the answers by round, by name: a size, and a size with `in memory`."""
    names = {str(size): (size, False) for size in sizes} | {f"{size} in memory": (size, True) for size in sizes}
    with ExitStack() as stack:
        workers, prepared = {}, {}
        for name, (size, in_memory) in names.items():
            log = folder / f"{name.replace(' ', '_')}.log"
            workers[name] = Worker(Path(sys.executable), "benchmarks.growth_jobs", threads=threads, log=log)
            stack.callback(workers[name].close)
            prepared[name] = workers[name].ask("prepare", records=size, folder=folder, in_memory=in_memory)
        epochs = {name: worker.ask("epoch")["seconds"] for name, worker in workers.items()}
        for worker in workers.values():
            worker.ask("steps", count=2)  # warm-up
        asked = {name: partial(worker.ask, "steps", count=steps) for name, worker in workers.items()}
        answers = interleave(asked, rounds)
        sides = {n: Side(prepared[n], epochs[n], worker.ask("peak")["gb"]) for n, worker in workers.items()}
        return sides, answers


def row(setting: Setting) -> Row:
    """The row `growth` of benchmarks.peers."""
    sizes, steps, rounds = (QUICK_SIZES, 2, 2) if setting.quick else (SIZES, STEPS, ROUNDS)
    folder = setting.folder / "growth"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as here:
        sides, answers = measure(sizes, rounds, steps, Path(here), setting.threads)
    return Row("growth", _entries(sizes, sides, answers), [_text(sizes, sides)])


def _entries(sizes: tuple[int, ...], sides: dict[str, Side], answers: Answers) -> list[Entry]:
    first = str(sizes[0])
    made = []
    for size in sizes[1:]:
        name, times = str(size), f"{size // sizes[0]}× the data"
        ratios = [rate(a) / rate(b) for a, b in zip(answers[name], answers[first], strict=True)]
        words = f"{rates(answers[name])} over {rates(answers[first])}"
        made.append(entry(f"residues/s at {times}", "tiny", ratios, SPEED, plmft=words, peer=""))
        for suffix, goal in (("", MEMORY), (" in memory", None)):
            least, most = sides[first + suffix].peak_gb, sides[name + suffix].peak_gb
            words = f"{most:.3f} GB over {least:.3f} GB"
            what = f"peak memory of training at {times}{suffix and ', all held in memory'}"
            made.append(entry(what, "tiny", [most / least], goal, plmft=words, peer=""))
    last = answers[str(sizes[-1])]
    waits = [answer["waited_s"] / answer["seconds"] for answer in last]
    words = f"{statistics.median(answer['waited_s'] for answer in last) * 1e3:.2f} ms a round"
    made.append(entry("the loader's share of a step", "tiny", waits, LOADER, plmft=words, peer=""))
    return made


def _text(sizes: tuple[int, ...], sides: dict[str, Side]) -> str:
    loading = ", ".join(f"{sides[str(size)].epoch_s * 1e6:.1f}" for size in sizes)
    before = ", ".join(f"{sides[str(size)].prepared['preparing_gb']:.2f}" for size in sizes)
    counts = ", ".join(f"{size:,}" for size in sizes)
    return (
        f"{counts} random sequences of {LENGTH} residues, {MODEL}, full tuning, batches of {BATCH_SIZE}, the loader in "
        "the training process. Peaks are of training, once all data were gone through; the loader alone takes "
        f"{loading} µs a sequence. Before, while the data are read, checked and stored, they are held as Python "
        f"objects: peaks of {before} GB."
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = row(Setting(Path(folder), None, options.threads, options.quick))
    print("\n".join([*lines(found), *found.text]))


if __name__ == "__main__":
    main()
