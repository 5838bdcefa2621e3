"""Make a page of the runs that MLflow remembers, list them in the terminal, or send what a store has not got yet.

    python -m plmft.report
    python -m plmft.report --task fluorescence --output fluorescence.html
    python -m plmft.report runs --task fluorescence --sort metric
    python -m plmft.report runs --csv > runs.csv
    python -m plmft.report sync

Without a word, the page: one HTML file that needs no network, and the same in Markdown beside it: what to take for each
task and why, accuracy against cost, published values, the literature's claims and disputes, and what was not measured.
The store is --uri, else MLFLOW_TRACKING_URI, else the SQLite file in the runs folder (PLMFT_RUNS, else ./mlruns).
"""

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from plmft import InputError
from plmft.ending import ending
from plmft.tracking.options import runs_dir

LIMIT = 50
COLLECT_AFTER = 500_000  # new objects: MLflow makes some hundred a run, and collecting takes half of the time
SORTS = ("started", "metric", "step_ms", "residues_per_s", "gpu_gb", "host_gb", "energy_j", "wall_s")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asked = _parser().parse_args(arguments)
    gc.set_threshold(COLLECT_AFTER)
    with ending():
        code = asked.command(asked)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m plmft.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help="default: report.html; .md: that alone"
    )
    parser.add_argument("--task", help="of this task only")
    parser.add_argument("--uri", help="the MLflow store, as tracking.uri")
    parser.set_defaults(command=_page)
    commands = parser.add_subparsers(metavar="[runs | sync]")
    runs = commands.add_parser("runs", help="accuracy and cost of runs; those of a sweep as mean ± sd over seeds")
    runs.add_argument("--task", default=argparse.SUPPRESS, help="of this task only")
    runs.add_argument("--sort", choices=SORTS, default="started", help="best or cheapest first; default: newest first")
    runs.add_argument("--limit", type=_count, default=LIMIT, help=f"lines at most; 0: all; default: {LIMIT}")
    runs.add_argument("--uri", default=argparse.SUPPRESS, help="the MLflow store, as tracking.uri")
    form = runs.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: each run, with its full id")
    form.add_argument("--csv", action="store_true", help="the same as CSV")
    runs.set_defaults(command=_runs)
    sync = commands.add_parser("sync", help="send what could not be sent during runs; exit code 1 if something is left")
    sync.set_defaults(command=_sync)
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no number of lines")
    return int(text)


def _runs(asked: argparse.Namespace) -> int:
    from plmft.tracking.reading import open_existing, read_address

    if asked.sort == "metric" and not asked.task:
        raise InputError("--sort metric: each task has a metric of its own. Add --task TASK.")
    folder = runs_dir()
    uri = read_address(asked.uri, folder)
    client = open_existing(uri)
    from plmft.tracking.listing import read_lines
    from plmft.tracking.listing_table import print_csv, print_json, print_table

    lines, more = read_lines(client, uri, folder, task=asked.task, sort=asked.sort, limit=asked.limit)
    if asked.json:
        print_json(lines)
    elif asked.csv:
        print_csv(lines)
    else:
        print_table(lines, more=more, uri=uri)
    return 0


def _page(asked: argparse.Namespace) -> int:
    from plmft.page.write import check_output, write_page
    from plmft.tracking.reading import STORE, open_existing, read_address

    folder = runs_dir()
    uri = read_address(asked.uri, folder)
    check_output(asked.output)
    named = asked.uri or os.environ.get(STORE)
    client = open_existing(uri) if named or (folder / "mlflow.db").exists() else None
    files, found = write_page(asked.output, client, uri, asked.task)
    counts = f"{len(found.scored):,} finished runs and {len(found.benchmarks):,} of benchmarks"
    print(f"{counts}: {', '.join(map(str, files))}")
    return 0


def _sync(asked: argparse.Namespace) -> int:
    from rich.console import Console

    from plmft.tracking.sync import sync

    left = sync(runs_dir(), Console())
    return 1 if left else 0


if __name__ == "__main__":
    main()
