"""python -m plmft.report: what the store remembers, in the terminal and for programs."""

import csv
import fcntl
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plmft.report import SORTS, main
from plmft.tracking.listing import SORTS as KNOWN_SORTS
from tests.e2e.command import environment

Report = Callable[..., tuple[int, str, str]]


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """(exit code, stdout, stderr) of the command, run in this process."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code, *capsys.readouterr()

    return run


class Filled:
    """A store with runs as plmft leaves them, without training any."""

    def __init__(self, runs: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.runs, self.client = runs, MlflowClient(f"sqlite:///{runs}/mlflow.db")
        self.made: dict[str, str] = {}  # experiment to id

    def add(self, value: float | None, *, status: str = "FINISHED", task: str = "fluorescence", **more: str) -> str:
        """Returns the run's id."""
        from mlflow.entities import Metric, Param, RunTag

        if task not in self.made:
            self.made[task] = self.client.create_experiment(task)
        given = {"model": "esm2_8m", "tuning": "lora", "task": task, "primary_metric": "spearman"} | more
        seed, tags = given.pop("seed", "0"), given
        run = self.client.create_run(self.made[task]).info.run_id
        known = {"test/spearman": value, "cost/step_time_ms_p50": 100 * (value or 0), "attempts": 2.0}
        metrics = known if value is not None else {}
        self.client.log_batch(
            run,
            metrics=[Metric(name, number, 0, 0) for name, number in metrics.items()],
            params=[Param("seed", seed)],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(run, status)
        return run


@pytest.fixture
def filled(store: Path) -> Filled:
    return Filled(store)


def test_runs_of_a_sweep_are_one_line_and_others_each_their_own(filled: Filled, report: Report) -> None:
    parent = filled.add(None, sweep="true")
    of_sweep = {"mlflow.parentRunId": parent}
    for seed, value in (("0", 0.5), ("1", 0.7)):
        filled.add(value, seed=seed, overrides=f"tuning.rank=8 seed={seed}", **of_sweep)
    filled.add(None, status="FAILED", seed="2", overrides="tuning.rank=8 seed=2", **of_sweep)
    filled.add(0.8, seed="0", overrides="tuning.rank=16 seed=0", **of_sweep)
    alone = filled.add(0.9, model="onehot_cnn", tuning="full")
    code, out, _ = report("runs")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].strip() == "task fluorescence"
    (best,) = [line for line in lines if alone[:8] in line]
    assert best.split()[3:8] == ["onehot_cnn", "full", "0", "finished", "0.900"]
    assert best.split()[-1] == "2", "attempts"
    (rank8,) = [i for i, line in enumerate(lines) if "0.600 ± 0.141" in line]
    assert "0, 1, 2  2 finished, 1 failed" in lines[rank8] and "60.0" in lines[rank8]
    assert lines[rank8 + 1].split() == ["tuning.rank=8"]
    assert parent[:8] not in out
    assert "absent" in best and "Energy is absent where" in out


def test_the_best_come_first_and_a_limit_is_told(filled: Filled, report: Report) -> None:
    runs = {value: filled.add(value) for value in (0.3, 0.9, 0.6)}
    failed = filled.add(None, status="FAILED")
    filled.add(0.99, task="stability")
    code, out, _ = report("runs", "--task", "fluorescence", "--sort", "metric", "--json")
    assert [run["run_id"] for run in json.loads(out)] == [runs[0.9], runs[0.6], runs[0.3], failed]
    expected = {"value": 0.9, "metric": "spearman", "energy_j": None, "step_ms": 90.0, "attempts": 2}
    assert json.loads(out)[0].items() >= expected.items()
    _, out, _ = report("runs", "--sort", "step_ms", "--limit", "2")
    assert "0.300" in out and "0.600" in out and "0.900" not in out
    assert "more than these 2 lines: --limit 0" in out
    _, out, _ = report("runs", "--csv", "--limit", "0")
    assert len(list(csv.DictReader(io.StringIO(out)))) == 5
    assert (code, report("runs", "--sort", "metric")[0]) == (0, 2), "a metric is a task's"


def test_a_run_whose_process_is_gone_is_told_from_a_living_one(filled: Filled, report: Report) -> None:
    for name in ("killed", "alive"):
        (filled.runs / "work" / name).mkdir(parents=True)
    claims = filled.runs / "work" / ".unfinished"
    claims.mkdir()
    for name in ("killed", "alive"):
        (claims / f"{name}-0.json").write_text(json.dumps({"folder": name, "attempt": 1}))
    ids = {name: filled.add(None, status="RUNNING", folder=name) for name in ("killed", "alive", "elsewhere")}
    with (claims / "alive-0.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _, out, _ = report("runs", "--json")
        found = {run["run_id"]: run["status"] for run in json.loads(out)}
        assert found == {ids["killed"]: "gone", ids["alive"]: "running", ids["elsewhere"]: "running"}
        assert "gone: its process ended" in report("runs")[1]


def test_kinds_are_told_apart(filled: Filled, report: Report) -> None:
    trained = filled.add(0.5)
    assert "kind" not in report("runs")[1].split()
    scored = filled.add(0.5, **{"plmft.kind": "evaluation"})
    bench = filled.add(None, task="benchmark/latency", **{"plmft.kind": "benchmark"})
    rows = list(csv.DictReader(io.StringIO(report("runs", "--csv")[1])))
    assert {row["run_id"]: row["kind"] for row in rows} == {
        trained: "training", scored: "evaluation", bench: "benchmark",
    }  # fmt: skip
    _, out, _ = report("runs")
    assert "kind" in out and {"training", "evaluation", "benchmark"} <= {*out.split()}


def test_an_evaluation_costs_what_its_pass_does(filled: Filled, report: Report) -> None:
    scored = filled.add(None, **{"plmft.kind": "evaluation"})
    filled.client.log_metric(scored, "cost/test/step_time_ms_p50", 12.0)
    trained = filled.add(0.5)
    filled.client.log_metric(trained, "cost/test/energy_j", 3.0)
    found = {run["run_id"]: run for run in json.loads(report("runs", "--json")[1])}
    assert found[scored]["step_ms"] == 12.0
    assert (found[trained]["step_ms"], found[trained]["energy_j"]) == (50.0, None)


def test_pages_are_read_to_the_end(filled: Filled, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plmft.tracking.reading.PAGE", 2)
    runs = {filled.add(0.1 * i) for i in range(5)}
    assert {run["run_id"] for run in json.loads(report("runs", "--json", "--limit", "0")[1])} == runs


def test_mistakes_are_one_message(runs: Path, report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = report("runs")
    assert (code, out) == (2, "")
    assert err.startswith("plmft: there is no MLflow store at sqlite:") and "MLFLOW_TRACKING_URI=" in err
    assert not runs.exists(), "looking makes nothing"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert report("runs")[2].startswith("plmft: tracking.uri=http://127.0.0.1:9: ")
    assert report("runs", "--limit", "-1")[0] == report("runs", "--sort", "beauty")[0] == report()[0] == 2


def test_a_task_without_runs_and_an_empty_store(filled: Filled, report: Report) -> None:
    assert report("runs")[1].startswith("No runs in sqlite:")
    assert (report("runs", "--csv")[1], report("runs", "--json")[1]) == ("run_id\n", "[]\n")
    filled.add(0.5)
    assert "Tasks there: fluorescence." in report("runs", "--task", "stability")[2]


def test_the_command_knows_the_columns_that_the_table_has() -> None:
    assert SORTS == KNOWN_SORTS


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from plmft.report import main\n"
        "try: main(['--help'])\n"
        "finally: print({'torch', 'mlflow', 'rich', 'numpy', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"
