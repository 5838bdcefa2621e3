"""The parent of a sweep in a real store: what it says of children that finished, failed, were killed or never began."""

import csv
import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from plmft.tracking.options import Tracking
from plmft.tracking.run import Run
from plmft.tracking.sweep import OVERRIDES, PARENT, Sweep, _child, _Open, child_tags


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One store for all tests here: a new one takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def sweep(runs, tmp_path, monkeypatch):
    """An open sweep of three jobs, and a way to add a child and to read the parent back."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = Tracking().address(runs)
    parent = Run.start(uri, experiment="parents", name="a sweep", runs=runs, tags={}, params={})
    monkeypatch.setenv(PARENT, parent.id)
    monkeypatch.delenv(OVERRIDES, raising=False)
    callback = Sweep()
    callback._open = _Open(parent, uri, tmp_path / "sweep", 3, frozenset({"seed"}))

    def add(status, experiment="children", primary="spearman", **overrides):
        metrics = overrides.pop("metrics", {})
        job = OmegaConf.create({"hydra": {"overrides": {"task": [f"{k}={v}" for k, v in overrides.items()]}}})
        callback.on_job_start(job)
        tags = {**child_tags(), "primary_metric": primary}
        run = Run.start(uri, experiment=experiment, name="job", runs=runs, tags=tags, params={})
        run.metrics(metrics, 1)
        run.end(status) if status != "RUNNING" else run.flush()

    def read():
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=uri).get_run(parent.id)

    return SimpleNamespace(callback=callback, add=add, read=read, folder=tmp_path / "sweep")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_seeds_give_mean_and_deviation_in_the_parent(sweep, capsys):
    for seed, value in enumerate((0.60, 0.64, 0.68)):
        sweep.add("FINISHED", seed=seed, metrics={"test/spearman": value, "test/mae": 1.0, "train/loss": 3.0})
    assert sweep.callback.close()
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
    assert sweep.callback.close()
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
    assert sweep.callback.close()
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
    assert sweep.callback.close()
    parent = sweep.read()
    assert parent.info.status == "FAILED"
    assert parent.data.tags["sweep_incomplete"] == "1 of 3 jobs finished; not: seed=1 (RUNNING), 1 without a run"
    assert parent.data.metrics == {"test/spearman_mean": 0.6, "seeds": 1.0}, "one run has no deviation"
    capsys.readouterr()


def test_no_job_at_all_leaves_no_files(sweep, capsys):
    sweep.folder.mkdir()
    (sweep.folder / "multirun.yaml").write_text("uri: http://user:password@host")
    assert sweep.callback.close()
    assert sweep.read().info.status == "FAILED"
    assert "0 of 3 jobs finished; not: 3 without a run" in capsys.readouterr().out
    assert not sweep.folder.exists()


def test_closing_ends_once_and_clears_the_environment(sweep, capsys):
    sweep.add("FINISHED", seed=0)
    assert os.environ[OVERRIDES] == "seed=0"
    assert sweep.callback.close() and sweep.callback.close()
    assert PARENT not in os.environ and OVERRIDES not in os.environ
    assert child_tags() == {}
    assert capsys.readouterr().out.count("Compare runs") == 1


def test_a_table_that_cannot_be_written_fails_the_parent_with_a_message(sweep, capsys):
    sweep.add("FINISHED", seed=0, metrics={"test/spearman": 0.6})
    sweep.folder.write_text("a file where the folder should be")
    assert not sweep.callback.close()
    assert sweep.read().info.status == "FAILED"
    assert capsys.readouterr().err.startswith("plmft: ")


def test_launchers_can_pickle_it_while_a_sweep_is_open(sweep):
    there = pickle.loads(pickle.dumps(sweep.callback))
    assert there.close(), "in another process there is nothing to close"
    assert sweep.read().info.status == "RUNNING"
    sweep.callback.close()


def test_values_with_spaces_are_read(sweep):
    for seed, name in enumerate(("my table.csv", "other table.csv")):
        sweep.add("FINISHED", seed=seed, file=repr(name), metrics={"test/spearman": 0.6})
    assert sweep.callback.close()
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
