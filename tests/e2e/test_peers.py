"""python -m benchmarks.peers, as it is typed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import workers
from benchmarks.peers import ROWS

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def peers(cache: Path, *words: str, **changes: str) -> subprocess.CompletedProcess:
    """The command, with its cache folder elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", *words],
        cwd=ROOT,
        env=kept | {"XDG_CACHE_HOME": str(cache)} | changes,
        capture_output=True,
        text=True,
        timeout=1100,
    )


def test_without_peers_and_network_it_ends_in_one_clear_message(tmp_path: Path) -> None:
    ended = peers(tmp_path, "--quick", PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("benchmarks.peers: The peers could not be installed (ERROR: No matching distribution")
    assert "--peers-python" in line and not list((tmp_path / "plmft-benchmarks").glob("peers-*"))


def test_an_unknown_row_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    ended = peers(tmp_path, "--only", "lora,embeding")
    assert ended.returncode == 1 and ended.stderr.splitlines() == [
        f"benchmarks.peers: --only embeding: there is no such row. Rows: {', '.join(ROWS)}."
    ]


def test_a_report_needs_results(tmp_path: Path) -> None:
    ended = peers(tmp_path, "--report")
    assert ended.returncode == 1 and "there are no results yet" in ended.stderr


def test_all_rows_run(tmp_path: Path) -> None:
    """The smoke test itself, with the environment that was made for it before."""
    made = [p for p in workers.cache_folder().glob("peers-*") if (p / "complete").is_file()]
    if not made:
        pytest.skip("no environment of the peers: python -m benchmarks.peers --quick makes it")
    page = ROOT / "docs" / "benchmarks.md"
    before = page.read_bytes() if page.exists() else None
    ended = peers(tmp_path, "--quick", "--peers-python", str(made[0] / "bin" / "python"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads((tmp_path / "plmft-benchmarks" / "quick" / "results.json").read_text())["rows"]
    assert list(rows) == list(ROWS) and all(row["entries"] and row["error"] is None for row in rows.values())
    assert (page.read_bytes() if page.exists() else None) == before
    shutil.rmtree(tmp_path)
