"""A runs folder that can't be written, a disk that is full or fills up, a store that is away."""

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import checkpoints
from tests.e2e.command import (
    TINY,
    Ended,
    assert_nothing_half_written,
    assert_nothing_left,
    run_apart,
    run_folder,
    statuses,
)
from tests.e2e.powers import ordinary_user


@contextlib.contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of that size at `folder`."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_runs_folder_under_a_file(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PLMFT_RUNS", f"{tmp_path}/file/runs")
    command(*TINY).refused(f"runs folder {tmp_path}/file/runs: cannot write", "Not a directory", "set PLMFT_RUNS")
    monkeypatch.setenv("PLMFT_RUNS", f"{tmp_path}/file")
    command(*TINY).refused(f"runs folder {tmp_path}/file: cannot write", "File exists")


def test_a_runs_folder_without_the_right_to_write(command: Callable, runs: Path) -> None:
    runs.mkdir()
    runs.chmod(0o500)
    with ordinary_user():
        command(*TINY).refused(f"runs folder {runs}: cannot write", "Permission denied", "set PLMFT_RUNS")
    assert_nothing_left(runs)


def test_a_store_without_the_right_to_write(command: Callable, store: Path) -> None:
    (store / "artifacts").mkdir()
    (store / "artifacts").chmod(0o500)
    with ordinary_user():
        command(*TINY).refused("artifacts", "cannot write", "Permission denied")
    assert_nothing_left(store)


def test_a_disk_that_is_full(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        monkeypatch.setenv("PLMFT_RUNS", str(disk / "runs"))
        command(*TINY).refused("cannot write 1 MiB there", "No space left on device", "bytes free", "set PLMFT_RUNS")
        assert_nothing_left(disk / "runs")


def filled(run: Callable[[Path], Ended], tmp_path: Path, kib: int) -> tuple[Ended, list[str]]:
    """How a run on a small disk ended, and which of its files are there, all of them whole."""
    with small_disk(tmp_path / "disk", kib) as disk:
        ended = run(disk / "runs")
        assert statuses(disk / "runs") == ["FAILED"]
        assert_nothing_half_written(disk / "runs")
        folder = run_folder(disk / "runs")
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        return ended, [file for file in files if not file.startswith(("tracking/", "code.diff", "requirements.txt"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kib", "checkpoints"),
    [(2300, []), (3400, ["checkpoints/best-00000001.ckpt", "checkpoints/best-00000001.sha256"])],
    ids=["first checkpoint", "second checkpoint"],
)
def test_a_disk_that_a_checkpoint_fills(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kib: int, checkpoints: list[str]
) -> None:
    def run(runs: Path) -> Ended:
        monkeypatch.setenv("PLMFT_RUNS", str(runs))
        return command(*TINY, "tuning=full")

    ended, files = filled(run, tmp_path, kib)
    ended.refused("No space left on device", "What was written before is kept", "Make room")
    assert files == [*checkpoints, "config.yaml", "leaks.csv"]


def test_a_disk_that_the_model_fills(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(runs: Path) -> Ended:
        monkeypatch.setenv("PLMFT_RUNS", str(runs))
        return command(*TINY, "tuning=frozen", *checkpoints.of_size("esm2_tiny", width=128))

    ended, files = filled(run, tmp_path, 2400)
    ended.refused("No space left on device", "Make room")
    assert "summary.json" not in files, "what tells of success is written last"


@pytest.mark.slow
def test_a_disk_that_the_models_copy_in_the_store_fills(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own folder is complete; once there is room, the same command completes the store."""
    choice = (*TINY, "tuning=frozen", *checkpoints.of_size("esm2_tiny", width=128))
    with small_disk(tmp_path / "disk", 3600) as disk:
        runs = disk / "runs"
        monkeypatch.setenv("PLMFT_RUNS", str(runs))
        command(*choice).refused("disk is full", "Make room")
        assert statuses(runs) == ["FAILED"]
        assert_nothing_half_written(runs)
        summary = (run_folder(runs) / "summary.json").read_text()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        command(*choice).succeeded()
        assert statuses(runs) == ["FINISHED"] and list(runs.glob("artifacts/**/model.safetensors"))
        metrics = [json.loads(text)["metrics"] for text in (summary, (run_folder(runs) / "summary.json").read_text())]
        assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_a_disk_that_fills_in_a_process_of_its_own(tmp_path: Path) -> None:
    ended, files = filled(lambda runs: run_apart(runs, *TINY, "tuning=full"), tmp_path, 2300)
    ended.refused("No space left on device", "Make room")
    assert files == ["config.yaml", "leaks.csv"]


def test_a_server_that_is_away(command: Callable, runs: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        command(*TINY, f"tracking.uri={uri}").refused(
            f"tracking.uri={uri}: no MLflow server can be reached there", "mlflow server", "tracking.uri=null"
        )
    assert_nothing_left(runs)


def test_a_store_that_is_damaged(command: Callable, runs: Path) -> None:
    runs.mkdir()
    (runs / "mlflow.db").write_bytes(b"no database" * 1000)
    command(*TINY).refused("MLflow store sqlite:///", "file is not a database")
    assert not list(runs.glob("work/*"))
    assert_nothing_half_written(runs)
