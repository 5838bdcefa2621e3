"""Many sequences through `embed` and `predict`: speed beside bare model and fair-esm, memory over time, kills.

    python -m benchmarks.bulk speed  [--command embed] [--model esm2_8m] [--sequences 1000] [--rounds 3] [--alone]
    python -m benchmarks.bulk memory [--command embed] [--model esm2_8m] [--sequences 100000] [--kills 3]

Lengths are those of FLIP's SS3 training split (PLMFT_DATA; else drawn from the distribution fitted to it), the residues
of each protein shuffled so that no sequence comes twice; weights are random, and the same for all sides.
speed: the sides run in turns, so that a drifting machine slows all; ratios are of one round each, by wall and by
processor time: on a busy machine the second is the one to compare. Loading a model is in nobody's time.
memory: the command as a user gives it, killed by SIGKILL on its way and given again; its resident memory is read twice
a second, and in the end every sequence must be there once.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare import Answers, interleave
from benchmarks.material import model_config, structures
from benchmarks.workers import ROOT, Worker, environment
from plmft.config.compose import compose_config

TOKENS, CHUNK = 4096, 1024
Sides = dict[str, Callable[[], dict[str, Any]]]
HARDWARE = ("hardware=cpu", "hardware.precision=bf16", f"hardware.tokens_per_batch={TOKENS}")


def material(count: int, seed: int = 0) -> tuple[list[str], str]:
    """Sequences with the real distribution of lengths, all different, and what they are."""
    rows, what = structures()
    rng = np.random.default_rng(seed)
    letters = [np.frombuffer(row.sequence.encode(), np.uint8) for row in rows]
    drawn = rng.permutation(len(rows)) if count <= len(rows) else rng.integers(0, len(rows), count)
    return [rng.permutation(letters[i]).tobytes().decode() for i in drawn[:count]], f"{what}; residues shuffled"


def write_fasta(path: Path, sequences: list[str]) -> Path:
    """As s0, s1, ..."""
    with path.open("w") as file:
        file.writelines(f">s{number}\n{sequence}\n" for number, sequence in enumerate(sequences))
    return path


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Residues a second of the bare model and of the job around it, in turns; beside embed, of fair-esm's loop."""
    sequences, what = material(options.sequences)
    fasta, residues = write_fasta(folder / "in.fasta", sequences), sum(map(len, sequences))
    job = {"fasta": str(fasta), "output": f"{folder}/out", "residues": residues}
    with ExitStack() as stack:
        sides = _SIDES[options.command](options, folder, stack, sequences, job)
        answers = interleave(sides, options.rounds)
    about = {"command": options.command, "model": options.model, "what": what}
    return about | {"sequences": len(sequences), "residues": residues} | _ratios(answers, options.command)


def _embed_sides(
    options: argparse.Namespace, folder: Path, stack: ExitStack, sequences: list[str], job: dict[str, Any]
) -> Sides:
    ours, weights, log = _worker(options, folder, stack), str(folder / "weights"), folder / "peer.log"
    theirs = Worker(Path(options.peers_python), "benchmarks.peer_jobs", threads=options.threads, log=log)
    stack.callback(theirs.close)
    theirs.ask("checkpoint", folder=weights, config=model_config(options.model), seed=0)
    words = [f"model={options.model}", f"model.path='{weights}'", "model.init=pretrained", *HARDWARE]
    few = sequences[:8]  # the first calls start threads and allocate
    ours.ask("bare", words=words, sequences=few)
    sides = {
        "bare": partial(ours.ask, "bare", words=words, sequences=sequences),
        "embed": partial(ours.ask, "embed", words=words, **job),
    }
    if options.alone:
        return sides
    layer = compose_config([f"model={options.model}"]).model.layers
    loop = {"checkpoint": weights, "layer": layer, "tokens": TOKENS, "device": "cpu", "keep": str(folder / "fair.npy")}
    theirs.ask("extract", sequences=few, **loop)
    return sides | {"fair-esm": partial(theirs.ask, "extract", sequences=sequences, **loop)}


def _predict_sides(
    options: argparse.Namespace, folder: Path, stack: ExitStack, sequences: list[str], job: dict[str, Any]
) -> Sides:
    ours, tuned = _worker(options, folder, stack), str(folder / "tuned")
    ours.ask("tuned", words=[f"model={options.model}", "model.init=random"], folder=tuned)
    words = list(HARDWARE)
    ours.ask("tuned_bare", words=words, folder=tuned, sequences=sequences[:8])
    return {
        "bare": partial(ours.ask, "tuned_bare", words=words, folder=tuned, sequences=sequences),
        "predict": partial(ours.ask, "predict", words=words, folder=tuned, **job),
    }


_SIDES = {"embed": _embed_sides, "predict": _predict_sides}


def _worker(options: argparse.Namespace, folder: Path, stack: ExitStack) -> Worker:
    runs, log = folder / "runs", folder / "plmft.log"
    ours = Worker(Path(sys.executable), "benchmarks.bulk_jobs", threads=options.threads, log=log, runs=runs)
    stack.callback(ours.close)
    return ours


def _ratios(answers: Answers, mine: str) -> dict[str, Any]:
    """Medians, and the least and greatest round."""
    found: dict[str, Any] = {}
    for side, rounds in answers.items():
        found[f"{side}_residues_per_s"] = statistics.median(a["residues"] / a["seconds"] for a in rounds)
    for other in [side for side in answers if side != mine]:
        for clock in ("seconds", "cpu_s"):
            rounds = list(zip(answers[mine], answers[other], strict=True))
            if all(clock in a and clock in b for a, b in rounds):
                each = [(a["residues"] / a[clock]) / (b["residues"] / b[clock]) for a, b in rounds]
                ends = f"{min(each):.2f} to {max(each):.2f}"
                name = f"{mine}_over_{other}_{'wall' if clock == 'seconds' else 'cpu'}"
                found[name] = f"{statistics.median(each):.2f} ({ends})"
    return found


@dataclass
class Watch:
    """Resident memory of a process, in GB, with the sequences that were done at each reading."""

    done: list[int] = field(default_factory=list)
    resident_gb: list[float] = field(default_factory=list)

    def read(self, process: int, parts: int) -> None:
        """Once."""
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has just ended
            return
        self.done.append(parts * CHUNK)
        self.resident_gb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e9)

    def quarters(self, total: int) -> list[float | None]:
        """The highest reading while each quarter of the sequences was worked on; None: none was made."""
        quarter = [min(3, 4 * done // total) for done in self.done]
        return [
            max((gb for at, gb in zip(quarter, self.resident_gb, strict=True) if at == q), default=None)
            for q in range(4)
        ]


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The command on all sequences, killed on its way; what is there in the end, and memory by quarter."""
    sequences, what = material(options.sequences)
    fasta, output = write_fasta(folder / "in.fasta", sequences), folder / "out"
    command = _command(options, folder, fasta, output)
    env = environment(options.threads, folder / "runs")
    total, parts = len(sequences), -(-len(sequences) // CHUNK)
    stops = [round(parts * (k + 1) / (options.kills + 1)) for k in range(options.kills)]
    watch, began = Watch(), time.monotonic()
    while True:
        killed = _until(stops[0] if stops else None, command, env, output, watch)
        if not killed:
            break
        stops.pop(0)
    found = _found(options.command, output)
    names = [f"s{number}" for number in range(total)]
    return {
        "command": options.command,
        "model": options.model,
        "what": what,
        "sequences": total,
        "residues": sum(map(len, sequences)),
        "kills": options.kills,
        "seconds": round(time.monotonic() - began, 1),
        "there": len(found),
        "every_sequence_once_in_order": found == names,
        "resident_gb_by_quarter": watch.quarters(total),
    }


def _command(options: argparse.Namespace, folder: Path, fasta: Path, output: Path) -> list[str]:
    model = [f"model={options.model}", "model.init=random"]
    words = [f"input={fasta}", f"output={output}", f"chunk={CHUNK}", *HARDWARE]
    if options.command == "embed":
        return [sys.executable, "-m", "plmft.embed", *model, *words]
    with ExitStack() as stack:
        _worker(options, folder, stack).ask("tuned", words=model, folder=str(folder / "tuned"))
    return [sys.executable, "-m", "plmft.predict", f"model={folder / 'tuned'}", *words]


def _until(stop: int | None, command: list[str], env: dict[str, str], output: Path, watch: Watch) -> bool:
    """Run until so many parts are there, and kill it; None: to its end. Returns: whether it was killed."""
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=sys.stderr) as process:
        while process.poll() is None:
            parts = len(list(output.glob("part-*"))) if output.is_dir() else 0
            watch.read(process.pid, parts)
            if stop is not None and parts >= stop:
                os.kill(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return False


def _found(command: str, output: Path) -> list[str]:
    if command == "embed":
        from plmft.embeddings.formats import open_embeddings

        return open_embeddings(output).ids
    import pyarrow.parquet as pq

    return [
        id_ for part in sorted(output.glob("part-*")) for id_ in pq.read_table(part, columns=["id"])["id"].to_pylist()
    ]


MEASUREMENTS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {"speed": speed, "memory": memory}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("--model", default="esm2_8m")
    parser.add_argument("--sequences", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--command", choices=("embed", "predict"), default="embed")
    parser.add_argument("--alone", action="store_true", help="embed without fair-esm, which takes five times as long")
    parser.add_argument("--peers-python", default=sys.executable, help="a Python with fair-esm")
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    options = parser.parse_args()
    options.sequences = options.sequences or {"speed": 1000, "memory": 100_000}[options.measurement]
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bulk-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(json.dumps(MEASUREMENTS[options.measurement](options, folder.absolute()), indent=2))
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
