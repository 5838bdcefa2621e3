"""A run that is killed at every kind of moment, and started again by the same command, comes to the same in the end."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.attempts import CALLS
from tests.e2e.command import (
    SMALL,
    TIMEOUT_S,
    arguments,
    assert_nothing_half_written,
    environment,
    run_apart,
    run_folder,
    stored_runs,
)

RUN = (*SMALL, "optim.epochs=8", "optim.patience=null", "hardware.precision=fp32", "checkpoint.every_minutes=0")
STEPS = 32
Kill = tuple[str, int, str]


class Attempts:
    """Processes of one command in one runs folder."""

    def __init__(self, server: subprocess.Popen, log: Path) -> None:
        self._server, self._log = server, log
        self.ended: list[dict[str, Any]] = []

    def run(self, *kills: Kill, after_s: float | None = None) -> dict[str, Any]:
        """Start one, to be killed by what comes first."""
        command = {"overrides": RUN, "log": str(self._log), "kill": kills, "after_s": after_s}
        self._server.stdin.write(json.dumps(command) + "\n")
        self._server.stdin.flush()
        self.ended.append(json.loads(self._server.stdout.readline()))
        return self.ended[-1]

    def killed(self, *kills: Kill, after_s: float | None = None) -> None:
        """One that must be."""
        ended = self.run(*kills, after_s=after_s)
        assert ended["code"] == -signal.SIGKILL, (kills, after_s, ended, self._log.read_text()[-3000:])


@contextmanager
def attempts(runs: Path, folder: Path) -> Iterator[Attempts]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.attempts"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(runs),
    )
    try:
        yield Attempts(server, folder / "log.txt")
        server.stdin.close()
        assert server.wait(TIMEOUT_S) == 0
    finally:
        server.kill()


def killed_while_importing(runs: Path, after_s: float) -> None:
    """The command itself."""
    process = subprocess.Popen(arguments(*RUN), stdout=subprocess.DEVNULL, env=environment(runs))
    time.sleep(after_s)
    process.kill()
    assert process.wait(TIMEOUT_S) == -signal.SIGKILL


def metrics(runs: Path) -> dict[str, list[tuple[int, float]]]:
    """All that the only run logged, by name: step and value."""
    (run,) = stored_runs(runs)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics
    }


def logged_models(runs: Path) -> int:
    with sqlite3.connect(runs / "mlflow.db") as database:
        return database.execute("SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'").fetchone()[0]


def measured(name: str) -> bool:
    """Whether it is a time, or what follows from one."""
    return name.startswith("cost/")


def files(folder: Path) -> dict[str, bytes]:
    """Of the tuned model, and the predictions."""
    paths = [folder / "predictions.parquet", *(folder / "model").rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def kill_everywhere(runs: Path, now: Attempts) -> int:
    """From start-up to the end; returns how many kills that were."""
    moments = np.random.default_rng(5)

    def some(*names: str) -> Kill:
        name = str(moments.choice(names))
        when = ["before", "midst", "after"] if name == "file" else ["before", "after"]
        return (name, int(moments.integers(2, 5)), str(moments.choice(when)))

    trained = ("test", 1, "before")
    for after_s in moments.uniform(0.1, 2.0, 2):
        killed_while_importing(runs, after_s)
    beginning = [("build", 1, "after"), ("claim", 1, "before"), ("claim", 1, "after"), ("open", 1, "before")]
    for kill in [*beginning, ("open", 1, "after"), ("params", 1, "after"), ("step", 1, "before")]:
        now.killed(kill)
    for kill in [
        ("step", 9, "before"),
        some("step", "state"),
        ("file", 3, "midst"),
        ("file", 2, "midst"),
        ("rename", 9, "after"),
    ]:
        now.killed(kill, trained)
    for _ in range(3):
        now.killed(some("step", "state", "file", "rename", "params"), trained)
    now.killed(("validation", 1, "before"), trained)
    for after_s in moments.uniform(0.2, 4.0, 4):
        now.killed(("record", 1, "before"), after_s=after_s)
    ending = [("test", 1, "after"), ("record", 1, "before"), ("predictions", 1, "after"), ("model", 1, "after")]
    for kill in [*ending, ("summary", 1, "before"), ("end", 1, "before"), ("end", 1, "after")]:
        now.killed(kill)
    return 2 + len(now.ended)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_a_run_comes_to_the_same(tmp_path: Path) -> None:
    alone, often = tmp_path / "alone", tmp_path / "often"
    run_apart(alone, *RUN).succeeded()
    with attempts(often, tmp_path) as now:
        kills = kill_everywhere(often, now)
        assert kills >= 20
    run_apart(often, *RUN).succeeded()

    (run,) = stored_runs(often)
    assert run.info.status == "FINISHED"
    after = set(CALLS) - {"build", "claim", "rename"}  # where a run has its folder
    least, most = (sum(bool(set(ended["called"]) & names) for ended in now.ended) for names in (after, {"claim"}))
    assert least + 1 <= int(run.data.tags["attempts"]) <= most + 1
    found, expected = metrics(often), metrics(alone)
    counted = found.pop("attempts")
    assert counted == [(n, n) for n, _ in counted] and counted[-1][1] == int(run.data.tags["attempts"])
    assert expected.pop("attempts") == [(1, 1)]
    assert {name: [step for step, _ in told] for name, told in found.items()} == {
        name: [step for step, _ in told] for name, told in expected.items()
    }
    exact = {name: told for name, told in expected.items() if not measured(name)}
    assert {name: found[name] for name in exact} == exact
    assert files(run_folder(often)) == files(run_folder(alone))
    assert logged_models(often) == logged_models(alone) == 1
    assert_nothing_half_written(often)
    checkpoints = [sorted(path.name for path in run_folder(at).glob("checkpoints/*")) for at in (alone, often)]
    assert checkpoints[0] == checkpoints[1]
    assert [path.name for path in (often / "work").glob("*/*.json")] == ["summary.json"]
    assert not list((often / "work").glob(".unfinished/*")), "nothing claims that there is more to do"
    assert set(CALLS) == {name for ended in now.ended for name in ended["called"]}, "a call that no run makes any more"
