"""What every test of the command needs: a runs folder of its own, no data, and a database that is made only once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.command import Ended, brightness_rows, run_here, write_brightness


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PLMFT_RUNS, which does not exist yet."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("PLMFT_RUNS", str(folder))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("PLMFT_DATA", raising=False)
    return folder


@pytest.fixture(scope="session")
def new_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making one takes seconds, copying it none."""
    from plmft.tracking.store import open_client

    folder = tmp_path_factory.mktemp("store")
    open_client(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def store(runs: Path, new_store: Path) -> Path:
    """The runs folder with a database in it."""
    runs.mkdir()
    shutil.copy(new_store, runs / "mlflow.db")
    return runs


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """The command, run in this process."""

    def run(*overrides: str) -> Ended:
        return run_here(capfd, monkeypatch, *overrides)

    return run


@pytest.fixture
def data(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound data set of the task fluorescence, in PLMFT_DATA."""
    splits = {split: brightness_rows(rng, count) for split, count in {"train": 24, "valid": 8, "test": 12}.items()}
    folder = write_brightness(tmp_path / "data", splits)
    monkeypatch.setenv("PLMFT_DATA", str(folder))
    return folder
