"""plmft beside its peers, on this machine, in one run: every ratio that docs/benchmarks.md shows.

    python -m benchmarks.peers                          all rows; about 25 minutes on two quiet cores
    python -m benchmarks.peers --only embedding,lora    these rows; the others stay as they were last measured
    python -m benchmarks.peers --resume                 the rows that the last run lacks
    python -m benchmarks.peers --quick                  a smoke test on a tiny model; writes no page
    python -m benchmarks.peers --report                 the page anew from the last results

The peers are installed into an environment of their own under the cache folder, once. Results are kept as they come.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import report, rows_embedding, rows_own, rows_training
from benchmarks.compare import Row
from benchmarks.setting import WARMUP, Setting
from benchmarks.workers import ROOT, PeersMissing, cache_folder, peers_python

PAGE = ROOT / "docs" / "benchmarks.md"


def growth(setting: Setting) -> Row:
    """Speed and memory at 1, 10 and 100 times the data."""
    from benchmarks import growth as measurement

    return measurement.row(setting)


ROWS: dict[str, Callable[[Setting], Row]] = {
    "full": rows_training.full,
    "lora": rows_training.lora,
    "fluorescence": rows_training.fluorescence,
    "same_result": rows_training.same_result,
    "embedding": rows_embedding.embedding,
    "frozen": rows_embedding.frozen,
    "framework": rows_own.framework,
    "bound": rows_own.bound,
    "startup": rows_own.startup,
    "growth": growth,
}
ON_GPU = ("full", "lora", "fluorescence", "embedding")


def main() -> None:
    """The command."""
    try:
        _run(_options())
    except KeyboardInterrupt:
        sys.exit("benchmarks.peers: interrupted; the rows that ended are kept. Go on: --resume.")


def _run(options: argparse.Namespace) -> None:
    if options.list:
        print("\n".join(ROWS))
        return
    folder = cache_folder() / ("quick" if options.quick else options.device)
    results = folder / "results.json"
    kept = json.loads(results.read_text()) if results.is_file() else {"about": {}, "rows": {}}
    if options.report:
        if not kept["rows"]:
            sys.exit("benchmarks.peers: there are no results yet. Run python -m benchmarks.peers first.")
        _write_page(kept)
        return
    wanted = _wanted(options, kept)
    try:
        peers = peers_python(options.peers_python)
    except PeersMissing as error:
        sys.exit(f"benchmarks.peers: {error}")
    if not (options.only or options.resume):
        kept = {"about": {}, "rows": {}}
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not options.quick:
        _build_kernel()
    _measure(wanted, kept, Setting(folder, peers, options.threads, options.quick, options.device), results)


def _measure(wanted: list[str], kept: dict, setting: Setting, results: Path) -> None:
    kept["about"] = _about(setting)
    for name in wanted:
        row = _measured(name, setting)
        row.run = kept["about"]["date"]
        kept["rows"][name] = row.record()
        results.write_text(json.dumps(kept, indent=1))
        for runs in setting.folder.glob("*/runs"):
            shutil.rmtree(runs, ignore_errors=True)
    if not setting.quick:
        _write_page(kept)
    failed = [name for name in wanted if kept["rows"][name]["error"]]
    if failed:
        sys.exit(f"benchmarks.peers: {', '.join(failed)} failed; the others are kept. Again: --only {','.join(failed)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="ROWS", help="rows to measure, parted by commas")
    parser.add_argument("--resume", action="store_true", help="only what the last run lacks or failed at")
    parser.add_argument("--report", action="store_true", help="write the page anew; measure nothing")
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean nothing")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for every side; default: all cores")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: ESM-2 650M on a GPU")
    parser.add_argument("--peers-python", help="a Python that has the peers, in place of an environment made here")
    return parser.parse_args()


def _wanted(options: argparse.Namespace, kept: dict) -> list[str]:
    known = [name for name in ROWS if options.device == "cpu" or name in ON_GPU]
    if options.only:
        asked = options.only.split(",")
        unknown = [name for name in asked if name not in known]
        if unknown:
            sys.exit(f"benchmarks.peers: --only {unknown[0]}: there is no such row. Rows: {', '.join(known)}.")
        return asked
    if options.resume:
        return [name for name in known if name not in kept["rows"] or kept["rows"][name]["error"]]
    return known


def _measured(name: str, setting: Setting) -> Row:
    """One row, whatever happens in it."""
    print(f"{datetime.now():%H:%M:%S} {name} ...", flush=True)
    start = time.perf_counter()
    try:
        row = ROWS[name](setting)
    except Exception as error:
        (setting.folder / f"{name}.error").write_text(traceback.format_exc())
        row = Row(name, error=f"{type(error).__name__}: {error}")
    row.seconds, row.finished = time.perf_counter() - start, f"{datetime.now():%Y-%m-%d %H:%M}"
    print("\n".join(report.lines(row)), flush=True)
    return row


def _build_kernel() -> None:
    """Where there is a compiler; without one, both of plmft's sides run the same, and the page says so."""
    built = subprocess.run([sys.executable, "-m", "plmft.models.kernels"], cwd=ROOT, capture_output=True, text=True)
    print((built.stdout + built.stderr).strip(), flush=True)


def _about(setting: Setting) -> dict[str, str]:
    with setting.workers("versions") as workers:
        theirs = workers["peers"].ask("versions")
    ours = {name: version(name) for name in ("plmft", "torch", "pytorch-lightning", "transformers", "peft", "mlflow")}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "date": f"{datetime.now():%Y-%m-%d %H:%M}",
        "command": f"python -m benchmarks.peers {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{cpu}, {os.cpu_count()} cores, {int(memory.split()[1]) * 1024 / 1e9:.0f} GB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "threads": f"{setting.threads} on every side (OMP_NUM_THREADS; ESM_NUM_THREADS for esm-cpp)",
        "allocator": "no malloc, MKL or other OMP variable on any side; what plmft itself sets at its start counts",
        "plmft's side": ", ".join(f"{name} {number}" for name, number in ours.items()),
        "peers' side": ", ".join(f"{name} {number}" for name, number in theirs.items()),
        "warm-up steps": str(WARMUP),
    }


def _write_page(kept: dict) -> None:
    rows = [Row.of(kept["rows"][name]) for name in ROWS if name in kept["rows"]]
    report.write(PAGE, rows, kept["about"])
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
