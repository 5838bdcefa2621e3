"""Secrets planted everywhere a user may put them are in nothing that a run or a sweep leaves or says; and nothing is
left outside of the runs folder, whatever names the data hold.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import random_sequence
from tests.e2e.command import arguments, environment, run_folder, statuses
from tests.integration.servers import PASSWORD, USER, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SECRET = "s3cr3t-V4lue"
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "HF_TOKEN": f"hf_{SECRET}",
    "MLFLOW_TRACKING_TOKEN": SECRET,
    "WANDB_API_KEY": SECRET,
}
SHORT = ("model=esm2_tiny", "optim.epochs=1", "batch_size=8", "task.head.hidden=8")
# what libraries keep for all programs of a user, documented in docs/access.md
LIBRARIES = ("home/.cache/matplotlib/fontlist-",)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds all that a process can reach by its environment: home, tmp, cwd; the runs folder is away."""
    for name in ("home", "tmp", "cwd"):
        (tmp_path / "place" / name).mkdir(parents=True)
    return tmp_path / "place"


@pytest.fixture
def table(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A table whose folder is named by a secret, and whose ids and classes would lead elsewhere as file names."""
    folder = tmp_path / f"api_key={SECRET}"
    folder.mkdir()
    lines = ["id,sequence,target,split"]
    for i in range(36):
        split = ("train", "train", "valid", "test")[i % 4]
        target = ("../../up", "/tmp/absolute", "CON:")[i // 4 % 3]
        lines.append(f"../../../row{i},{random_sequence(rng, 20)},{target},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def run_in(place: Path, runs: Path, *overrides: str, **changes: str) -> subprocess.CompletedProcess:
    """The command with nothing of this user's."""
    home = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
    variables = environment(runs, **home, **PLANTED, **changes)
    variables = {
        name: value for name, value in variables.items() if not name.startswith(("XDG_", "MPLCONFIG", "HF_HOME"))
    }
    return subprocess.run(
        arguments(*overrides), capture_output=True, text=True, cwd=place / "cwd", env=variables, timeout=300
    )


def holding(folder: Path, *secrets: str) -> list[Path]:
    """Files that hold one of them, in their name or their bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    wanted = [secret.encode() for secret in secrets]
    return [path for path in files if any(w in path.read_bytes() or w in os.fsencode(path.name) for w in wanted)]


def left_in(place: Path) -> list[str]:
    """Files outside of the runs folder, but for what libraries keep there."""
    files = [str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir() or path.is_symlink()]
    return [file for file in files if not file.startswith(LIBRARIES)]


def others(folder: Path) -> list[Path]:
    """All that lies beside the runs folder and the process's place."""
    return sorted(path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("runs", "place"))


def test_a_run_leaves_no_secret_and_nothing_outside(place: Path, table: Path, tmp_path: Path) -> None:
    before = others(tmp_path)
    asked = (
        "task=table",
        f'task.file="{table}"',
        "task.kind=classification",
        'task.name="GB1 (mine): v2"',
        "task.id=id",
    )
    done = run_in(place, tmp_path / "runs", *asked, *SHORT)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert SECRET not in done.stdout
    assert statuses(tmp_path / "runs") == ["FINISHED"]
    assert (run_folder(tmp_path / "runs") / "tracking" / "journal.jsonl").is_file()
    assert not holding(tmp_path / "runs", SECRET)
    assert left_in(place) == []
    assert others(tmp_path) == before


@pytest.mark.server
def test_a_sweep_on_a_server_leaves_no_login(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    with mlflow_server(folder, f"sqlite:///{tmp_path}/server/store.db", auth=True, tls=True, workers=1) as server:
        uri = server.url.replace("://", f"://{USER}:{PASSWORD}@")
        asked = ("task=planted_structure", "task.train=8", "task.valid=4", "task.test=4", "seed=0,1")
        trusted = {"MLFLOW_TRACKING_SERVER_CERT_PATH": server.certificate}
        wrong = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": SECRET}
        refused = run_in(place, tmp_path / "runs", "model=esm2_tiny", f"tracking.uri={server.url}", **wrong, **trusted)
        assert (refused.returncode, refused.stdout) == (2, ""), refused
        assert "refuses the login of admin (401). Correct MLFLOW_TRACKING_USERNAME" in refused.stderr
        assert SECRET not in refused.stderr and len(refused.stderr.splitlines()) == 1
        assert not list((tmp_path / "runs").iterdir()), "it was told before data were read"
        short = [override for override in SHORT if not override.startswith("task.head")]
        done = run_in(
            place,
            tmp_path / "runs",
            "--multirun",
            "hydra/launcher=local",
            *asked,
            *short,
            f'tracking.uri="{uri}"',
            **trusted,
        )
        assert (done.returncode, done.stderr) == (0, ""), done
    assert "2 jobs" in done.stdout or "Over seeds" in done.stdout, done.stdout
    for secret in (SECRET, PASSWORD):
        assert secret not in done.stdout
    assert not holding(tmp_path / "runs", SECRET, PASSWORD)
    assert {file.name for file in holding(folder, SECRET, PASSWORD)} == {"logins.ini"}
    assert left_in(place) == []
