"""The parent of a sweep in a real store: what it says of children that finished, failed, were killed or never began."""

import csv
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from plmft.sweeps.callback import PARENT, Sweep, _Open, child_tags
from plmft.sweeps.gather import _child, gather
from plmft.sweeps.jobs import OVERRIDES, End, Planned, note, write_plan
from plmft.tracking.options import Tracking
from plmft.tracking.run import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all tests here: a new one takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def sweep(runs, tmp_path, monkeypatch):
    """An open sweep of three jobs, and a way to add a child and to read the parent back."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = Tracking().address(runs)
    folder = tmp_path / "sweep"
    parent = Run.start(uri, experiment="parents", name="a sweep", runs=runs, tags={}, params={}, folder=folder)
    write_plan(folder, "of the sweep", [Planned([f"seed={seed}"], f"key{seed}") for seed in range(3)], {"seed"})
    monkeypatch.setenv(PARENT, parent.id)
    monkeypatch.delenv(OVERRIDES, raising=False)
    callback = Sweep()
    callback._open = _Open(parent, uri, folder)

    def add(status, experiment="children", primary="spearman", key=None, **overrides):
        metrics = overrides.pop("metrics", {})
        job = OmegaConf.create({"hydra": {"overrides": {"task": [f"{k}={v}" for k, v in overrides.items()]}}})
        callback.on_job_start(job)
        tags = {**child_tags(), "primary_metric": primary, "task": experiment, "config_key": key}
        place = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        run = Run.start(uri, experiment=experiment, name="job", runs=runs, tags=tags, params={}, folder=place)
        run.metrics(metrics, 1)
        run.end(status) if status != "RUNNING" else run.flush()

    def read():
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri).get_run(parent.id)

    return SimpleNamespace(callback=callback, add=add, read=read, folder=folder, uri=uri)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_seeds_give_mean_and_deviation_in_the_parent(sweep, capsys):
    for seed, value in enumerate((0.60, 0.64, 0.68)):
        sweep.add("FINISHED", seed=seed, metrics={"test/spearman": value, "test/mae": 1.0, "train/loss": 3.0})
    assert sweep.callback.close() == 0
    parent = sweep.read()
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == pytest.approx(
        {
            "test/spearman_mean": 0.64,
            "test/spearman_sd": 0.04,
            "test/mae_mean": 1.0,
            "test/mae_sd": 0.0,
            "seeds": 3.0,
        }
    )
    assert parent.data.tags["jobs_finished"] == "3"
    assert "sweep_incomplete" not in parent.data.tags
    assert [(row["metric"], row["n"]) for row in table(sweep.folder)] == [("test/spearman", "3"), ("test/mae", "3")]
    out = capsys.readouterr().out
    assert "test/spearman" in out and "0.640 ± 0.040" in out and f"{sweep.folder}/sweep.csv" in out


def test_other_overrides_give_a_table_by_group_across_experiments(sweep, capsys):
    for task, value in (("gb1", 0.1), ("stability", 0.5)):
        for seed in (0, 1):
            sweep.add("FINISHED", experiment=task, seed=seed, task=task, metrics={"test/spearman": value + seed / 10})
    assert sweep.callback.close() == 0
    assert sweep.read().data.metrics == {}
    rows = table(sweep.folder)
    assert [(row["task"], row["metric"], row["n"]) for row in rows] == [
        ("gb1", "test/spearman", "2"), ("stability", "test/spearman", "2"),
    ]  # fmt: skip
    assert [float(row["mean"]) for row in rows] == pytest.approx([0.15, 0.55])
    assert "│ stability │ test/spearman │ 0.550 ± 0.071 │ 2     │" in capsys.readouterr().out


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_an_unfinished_job_is_told_and_the_others_are_summed_up(sweep, capsys, status):
    sweep.add("FINISHED", seed=0, batch_size=8, metrics={"test/spearman": 0.6})
    sweep.add("FINISHED", seed=1, batch_size=8, metrics={"test/spearman": 0.8})
    sweep.add(status, seed=2, batch_size=8, metrics={"test/spearman": 99.0})
    assert sweep.callback.close() == 1
    parent = sweep.read()
    assert parent.info.status == status
    assert parent.data.metrics["test/spearman_mean"] == pytest.approx(0.7)
    assert parent.data.metrics["seeds"] == 2
    told = f"2 of 3 jobs finished; not: seed=2 ({status})"
    assert parent.data.tags["sweep_incomplete"] == told
    assert told in capsys.readouterr().out


def test_jobs_that_never_began_and_one_that_died_without_a_word(sweep, capsys):
    sweep.add("FINISHED", seed=0, metrics={"test/spearman": 0.6})
    sweep.add("RUNNING", seed=1)
    assert sweep.callback.close() == 1
    parent = sweep.read()
    assert parent.info.status == "FAILED"
    assert parent.data.tags["sweep_incomplete"] == "1 of 3 jobs finished; not: seed=1 (RUNNING), 1 without a run"
    assert parent.data.metrics == {"test/spearman_mean": 0.6, "seeds": 1.0}, "one run has no deviation"
    capsys.readouterr()


def test_no_job_at_all_leaves_no_table_and_no_copy_of_the_config(sweep, capsys):
    (sweep.folder / "multirun.yaml").write_text("uri: http://user:password@host")
    assert sweep.callback.close() == 1
    assert sweep.read().info.status == "FAILED"
    assert "0 of 3 jobs finished; not: 3 without a run" in capsys.readouterr().out
    left = {file.name for file in sweep.folder.iterdir()}
    assert left == {"sweep.json", "tracking", ".gathering"}, "what the same command goes on with"


def test_closing_ends_once_and_clears_the_environment(sweep, capsys):
    sweep.add("FINISHED", seed=0)
    assert os.environ[OVERRIDES] == "seed=0"
    assert sweep.callback.close() == 1
    assert sweep.callback.close() == 0
    assert PARENT not in os.environ and OVERRIDES not in os.environ
    assert child_tags() == {}
    assert capsys.readouterr().out.count("Compare runs") == 1


def test_a_table_that_cannot_be_written_fails_the_parent_with_a_message(sweep, capsys):
    sweep.add("FINISHED", seed=0, metrics={"test/spearman": 0.6})
    (sweep.folder / "sweep.csv").mkdir()
    assert sweep.callback.close() == 2
    assert sweep.read().info.status == "FAILED"
    assert capsys.readouterr().err.startswith("plmft: ")


def test_launchers_can_pickle_it_while_a_sweep_is_open(sweep):
    there = pickle.loads(pickle.dumps(sweep.callback))
    assert there.close() == 0, "in another process there is nothing to close"
    assert sweep.read().info.status == "RUNNING"
    sweep.callback.close()


def test_values_with_spaces_are_read(sweep):
    for seed, name in enumerate(("my table.csv", "other table.csv")):
        sweep.add("FINISHED", seed=seed, file=repr(name), metrics={"test/spearman": 0.6})
    sweep.callback.close()
    assert [row["file"] for row in table(sweep.folder)] == ["'my table.csv'", "'other table.csv'"]


def test_a_tag_that_the_store_cut_within_quotes_is_read_as_far_as_it_goes():
    data = SimpleNamespace(tags={"overrides": "seed=2 'file=a b … (cut)"}, metrics={})
    child = _child(SimpleNamespace(data=data, info=SimpleNamespace(status="FINISHED")))
    assert child.overrides["seed"] == "2"


def test_outside_of_a_sweep_nothing_is_tagged(monkeypatch):
    for name in (PARENT, OVERRIDES):
        monkeypatch.delenv(name, raising=False)
    Sweep().on_job_start(OmegaConf.create({"hydra": {"overrides": {"task": ["seed=0"]}}}))
    assert child_tags() == {}
    assert OVERRIDES not in os.environ


def test_a_job_without_a_run_is_named_with_its_reason(sweep, capsys):
    for seed in (0, 1):
        sweep.add("FINISHED", key=f"key{seed}", seed=seed, metrics={"test/spearman": 0.6})
    note(sweep.folder, "key2", End("FAILED", reason="data.csv: no such file", mistake=True, overrides=["seed=2"]))
    assert sweep.callback.close() == 2, "the user's mistake alone"
    told = "2 of 3 jobs finished; not: seed=2 (FAILED: data.csv: no such file)"
    assert sweep.read().data.tags["sweep_incomplete"] == told
    assert told in capsys.readouterr().out


def test_the_run_of_a_killed_process_is_closed(sweep, capsys):
    sweep.add("RUNNING", key="key0", seed=0)
    note(sweep.folder, "key0", End("FAILED", reason="killed by SIGKILL", overrides=["seed=0"]))
    assert sweep.callback.close() == 1
    assert "seed=0 (FAILED: killed by SIGKILL), 2 without a run" in sweep.read().data.tags["sweep_incomplete"]
    assert stored_children(sweep) == ["FAILED"]


def test_gathering_again_counts_a_repeated_job_once_and_takes_back_what_was_missing(sweep, monkeypatch):
    sweep.add("FAILED", key="key0", seed=0)
    for seed in (1, 2):
        sweep.add("FINISHED", key=f"key{seed}", seed=seed, metrics={"test/spearman": 0.6})
    parent = os.environ[PARENT]
    assert sweep.callback.close() == 1
    monkeypatch.setenv(PARENT, parent)
    sweep.add("FINISHED", key="key0", seed=0, metrics={"test/spearman": 0.9})
    assert gather(sweep.folder).exit_code == 0
    parent = sweep.read()
    assert parent.info.status == "FINISHED" and "sweep_incomplete" not in parent.data.tags
    assert parent.data.metrics["test/spearman_mean"] == pytest.approx(0.7)
    assert gather(sweep.folder).exit_code == 0
    assert sweep.read().info.end_time == parent.info.end_time, "nothing is written twice"


def test_two_that_gather_at_once(sweep, capsys):
    for seed in range(3):
        sweep.add("FINISHED", key=f"key{seed}", seed=seed, metrics={"test/spearman": 0.6, "cost/wall_time_s": 3.0})
    with ThreadPoolExecutor() as pool:
        assert [g.exit_code for g in pool.map(gather, [sweep.folder] * 2)] == [0] * 2
    assert len(table(sweep.folder)) == 2
    assert (sweep.folder / "accuracy_against_cost.png").stat().st_size > 1000
    sweep.callback.close()


def stored_children(sweep) -> list[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=sweep.uri)
    found = client.search_runs(
        [e.experiment_id for e in client.search_experiments()],
        f"tags.`mlflow.parentRunId` = '{sweep.read().info.run_id}'",
    )
    return [run.info.status for run in found]
