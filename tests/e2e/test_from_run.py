"""--from-run: a run from MLflow alone gives the same again, to the last bit, and what differs is told."""

import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from plmft import InputError
from plmft.config.check import check
from plmft.config.compose import compose_config
from plmft.tracking.differences import SOURCE, Source, predictions_digest, sameness
from plmft.tracking.from_run import composed
from tests.e2e.command import run_apart, run_folder, stored_runs

TINY = (
    "model=esm2_tiny",
    "task=fluorescence",
    "tuning=full",
    "optim.epochs=2",
    "batch_size=8",
    "hardware.precision=fp32",
)


@pytest.fixture(autouse=True)
def no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """`composed` speaks to the job by the environment: not beyond a test."""
    monkeypatch.setenv(SOURCE, "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class Stored:
    """A store with one run, saved as plmft saves it, without training."""

    def __init__(self, runs: Path, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
        self.experiment = self.client.create_experiment("a task", artifact_location=(runs / "artifacts").as_uri())
        self.folder = folder

    def add(self, config: dict | None, **tags: str) -> str:
        run = self.client.create_run(self.experiment, tags=tags, run_name="a run").info.run_id
        if config is not None:
            self.folder.mkdir(exist_ok=True)
            (self.folder / "config.yaml").write_text(yaml.safe_dump(config))
            self.client.log_artifact(run, str(self.folder / "config.yaml"))
        return run


@pytest.fixture
def stored(store: Path, tmp_path: Path) -> Stored:
    return Stored(store, tmp_path / "scratch")


def saved(*overrides: str) -> dict:
    """The config of a run of this command line, as `config.yaml` keeps it."""
    return OmegaConf.to_container(once_composed(overrides), resolve=True)


@cache
def once_composed(overrides: tuple[str, ...]) -> DictConfig:
    return compose_config(list(overrides))


def refused(*arguments: str) -> str:
    with pytest.raises(InputError) as told:
        composed(["--from-run", *arguments])
    assert "\n" not in str(told.value)
    return str(told.value)


def test_the_saved_config_comes_back_with_overrides_and_their_choices(stored: Stored) -> None:
    was = saved("experiment=quickstart", "optim.weight_decay=0.03", "tracking.uri=http://elsewhere")
    run = stored.add(was)
    assert composed(["--from-run", run]) == was | {"tracking": saved()["tracking"]}, "tracked where we are"
    changed = composed([f"--from-run={run[:12]}", "tuning=lora", "tuning.rank=4", "seed=7", "hardware=cpu"])
    check(changed)
    assert changed["tuning"] == saved("tuning=lora")["tuning"] | {"rank": 4}
    assert (changed["seed"], changed["task"]) == (7, was["task"])
    assert changed["hardware"]["accelerator"] == "cpu"
    assert changed["optim"] == was["optim"] | {"lr": saved("tuning=lora")["optim"]["lr"]}
    source = Source.of_this_run()
    assert source.run_id == run
    assert ("seed", "0", "7") in source.changed
    assert not [key for key, _, _ in source.changed if key.startswith("tracking")]


def test_a_config_of_an_older_version_is_filled_and_one_of_a_newer_refused(stored: Stored) -> None:
    was = saved("experiment=quickstart", "model.hub=null")
    del was["checkpoint"], was["optim"]["layer_decay"], was["task"]["head"]["dropout"], was["tracking"]
    config = composed(["--from-run", stored.add(was)])
    check(config)
    assert config == saved("experiment=quickstart")
    assert Source.of_this_run().filled == ["checkpoint", "task.head.dropout=0.0", "optim.layer_decay=1.0"]
    was["optim"]["momentum"] = 0.9
    with pytest.raises(InputError, match=r"optim.momentum=0.9: optim has no option 'momentum'"):
        check(composed(["--from-run", stored.add(was)]))


def test_secrets_must_be_given_again(stored: Stored) -> None:
    was = saved("experiment=quickstart")
    was["data"]["dir"] = "https://***@host/data"
    run = stored.add(was)
    told = refused(run)
    assert "data.dir=..." in told and "***" in told
    assert composed(["--from-run", run, "data.dir=/data"])["data"]["dir"] == "/data"


def test_what_is_no_run_is_told(stored: Stored) -> None:
    run = stored.add(saved())
    assert "config.yaml" in refused(stored.add(None))
    assert "has no such run" in refused("abcdef")
    assert "is no run id" in refused("a%b")
    parent = stored.add(None, sweep="true")
    child = stored.add(saved(), **{"mlflow.parentRunId": parent})
    told = refused(parent)
    assert child in told and "sweep" in told
    stored.client.delete_run(run)
    assert "has no such run" in refused(run)


MISTAKES = {
    "": "needs the id",
    "seed=1": "needs the id",
    "RUN --multirun": "repeats one run",
    "RUN seed=1,2": "one value for a key",
    "RUN +new=1": "one value for a key",
    "RUN experiment=quickstart": "replaces all",
    "RUN optim.lrr=1": "Did you mean 'lr'?",
    "RUN tuning=loar": "Did you mean 'lora'?",
    "RUN task={a": "can't be read",
}


def test_mistakes_on_the_command_line(stored: Stored) -> None:
    run = stored.add(saved())
    for line, words in MISTAKES.items():
        assert words in refused(*line.replace("RUN", run).split()), line


def test_a_store_that_is_not_there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no MLflow store" in refused("abc")
    assert not runs.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in refused("abc")
    assert "127.0.0.1:8" in refused("abc", "tracking.uri=http://127.0.0.1:8"), "the command line goes first"


def test_predictions_are_one_digest_of_every_bit() -> None:
    values = {"test": [np.array([0.5, 1.5]), np.array([2.0])]}
    digest = predictions_digest(values)
    assert predictions_digest({"test": [array.copy() for array in values["test"]]}) == digest
    for other in ([np.array([0.5, 1.5, 2.0])], [np.array([0.5, 1.5]), np.array([np.nextafter(2.0, 3)])]):
        assert predictions_digest({"test": other}) != digest


def test_what_came_out_is_held_against_then(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sameness({"test/mcc": 1.0}, "mcc", "d" * 64) == []
    source = Source("r1", "FAILED", {}, {}, [], [], [])
    monkeypatch.setitem(os.environ, SOURCE, source.text())
    assert sameness({"test/mcc": 0.5}, "mcc", "d" * 64) == ["Run r1 ended FAILED and has no test/mcc to compare with."]
    again = Source("r1", "FINISHED", {"predictions_digest": "d" * 64}, {"test/mcc": 0.1 + 0.2}, [], [], [])
    monkeypatch.setitem(os.environ, SOURCE, again.text())
    (same,) = sameness({"test/mcc": 0.1 + 0.2}, "mcc", "d" * 64)
    assert "test/mcc: the same as in run r1. Predictions: the same, to the last bit" in same
    (other,) = sameness({"test/mcc": 0.3}, "mcc", "e" * 64)
    assert "test/mcc: 0.3, in run r1 0.30000000000000004. Predictions: not the same" in other


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_made_again_from_the_store_alone(
    store: Path, data: Path, tmp_path: Path, rng: np.random.Generator, new_store: Path
) -> None:
    """In another folder and another store; then with data that lack one record."""
    run_apart(store, *TINY, f"data.dir={data}").succeeded()
    (first,) = stored_runs(store)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}/mlflow.db"}
    out = run_apart(elsewhere / "runs", "--from-run", first.info.run_id, cwd=elsewhere, **there).succeeded()
    assert "Predictions: the same, to the last bit" in out
    assert f"the same as in run {first.info.run_id}" in out
    (second,) = stored_runs(elsewhere / "runs")
    assert len(stored_runs(store)) == 1
    assert second.data.tags["from_run"] == first.info.run_id
    for tag in ("data_digest", "weights_seed", "predictions_digest", "config_key", "version.torch", "machine.cpu"):
        assert second.data.tags.get(tag) == first.data.tags.get(tag), tag
    results = {name for name in first.data.metrics if name.startswith(("test/", "valid/", "train/", "baseline/"))}
    assert results and {n: second.data.metrics[n] for n in results} == {n: first.data.metrics[n] for n in results}
    ours, theirs = (run_folder(runs) for runs in (elsewhere / "runs", store))
    assert (ours / "model/head.safetensors").read_bytes() == (theirs / "model/head.safetensors").read_bytes()
    assert pd.read_parquet(ours / "predictions.parquet").equals(pd.read_parquet(theirs / "predictions.parquet"))

    rows = (data / "fluorescence" / "train.csv").read_text().splitlines(keepends=True)
    (data / "fluorescence" / "train.csv").write_text("".join(rows[:-1]))
    out = run_apart(elsewhere / "runs", "--from-run", first.info.run_id[:10], cwd=elsewhere, **there).succeeded()
    assert re.search(rf"data +│ {first.data.tags['data_digest'][:12]} +│ [0-9a-f]{{12}}", out)
    assert re.search(r"records train +│ 24 +│ 23 ", out)
    assert "Predictions: not the same" in out
