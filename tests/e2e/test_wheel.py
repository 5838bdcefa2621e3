"""A wheel built from the tree works outside of it: parts, tasks and config come from the wheel alone."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.e2e.command import SMALL, environment, run_apart, run_folder

pytestmark = pytest.mark.slow
CHECKOUT = Path(__file__).parents[2]


def pip(*arguments: str | Path) -> None:
    """Run pip; without its build backend and without a network, the test is skipped."""
    done = subprocess.run([sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=100)
    if done.returncode and "No matching distribution found" in done.stderr:
        pytest.skip("no wheel can be built here: the build backend is neither installed nor to be had")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", CHECKOUT, "--no-deps", "--quiet", "--wheel-dir", folder)
    (file,) = folder.glob("plmft-*.whl")
    return file


def test_it_holds_config_and_tasks_and_not_the_shim(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("plmft", "plmft"), ("conf", "plmft/conf"), ("tasks", "plmft/tasks")):
        files = subprocess.run(["git", "-C", CHECKOUT, "ls-files", folder], capture_output=True, text=True, check=True)
        wanted = {inside + name.removeprefix(folder) for name in files.stdout.split()} - {"plmft/tasks.py"}
        assert wanted and wanted <= names, wanted - names
    assert "plmft/tasks.py" not in names
    assert {name.split("/")[0] for name in names} == {
        "plmft",
        "hydra_plugins",
        wheel.name.split("-py3")[0] + ".dist-info",
    }


def test_the_quickstart_runs_from_it_in_an_empty_folder(wheel: Path, tmp_path: Path, runs: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    pip("install", "--no-deps", "--quiet", "--no-compile", "--target", site, wheel)
    empty.mkdir()
    code = "import plmft, plmft.tasks.fluorescence as f; print(plmft.__file__, f.__file__, sep='\\n')"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=empty,
        env=environment(runs, PYTHONPATH=str(site)),
    )
    assert found.stdout.split() == [f"{site}/plmft/__init__.py", f"{site}/plmft/tasks/fluorescence.py"]

    run_apart(runs, *SMALL, cwd=empty, PYTHONPATH=str(site)).succeeded()
    assert json.loads((run_folder(runs) / "summary.json").read_text())["metrics"]["test/accuracy"] > 0
    assert not list(empty.iterdir())
