"""python -m plmft.evaluate as a user runs it, on a run that was trained here."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft import InputError
from plmft.evaluate import evaluate as evaluate_here
from tests.e2e.command import SMALL, TIMEOUT_S, Ended, environment, stored_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def evaluate(runs: Path, *words: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-m", "plmft.evaluate", *words],
        capture_output=True,
        text=True,
        env=environment(runs),
        timeout=TIMEOUT_S,
        cwd=runs.parent,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def trained(store: Path, command: Callable[..., Ended]) -> Path:
    """The runs folder of one small training run."""
    command(*SMALL).succeeded()
    return store


def of_kind(runs: Path, kind: str | None) -> list:
    return [run for run in stored_runs(runs) if run.data.tags.get("plmft.kind") == kind]


def test_a_runs_own_test_comes_out_the_same_on_one_process_and_on_two(trained: Path) -> None:
    (parent,) = of_kind(trained, None)
    evaluate_here([f"run={parent.info.run_id[:10]}"])
    out = evaluate(trained, f"run={parent.info.run_name}", "hardware=ddp", "hardware.devices=2").succeeded()
    assert "accuracy at the end of training" in out
    assert "records test" in out and "train/" not in out.replace(" ", "")
    runs = of_kind(trained, "evaluation")
    assert sorted(run.data.tags["world_size"] for run in runs) == ["1", "2"]
    scores = {name: value for name, value in parent.data.metrics.items() if name.startswith("test/")}
    table = pd.read_parquet(trained / "work" / parent.data.tags["folder"] / "predictions.parquet")
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["plmft.parent_run"] == parent.info.run_id
        assert run.data.tags["weights"] == "random"
        assert {name for name in run.data.metrics if name.startswith("data/")} == {"data/test"}
        assert {name: run.data.metrics[name] for name in scores} == pytest.approx(scores, abs=1e-4)
        assert run.data.metrics["cost/test/wall_time_s"] > 0 and "cost/wall_time_s" not in run.data.metrics
        folder = trained / "work" / run.data.tags["folder"]
        found = pd.read_parquet(folder / "predictions.parquet")
        assert found.id.tolist() == table.id.tolist()
        for one, other in zip(found.probabilities, table.probabilities, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-3)  # bf16: batches are cut elsewhere on two processes
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["kind"], summary["parent_run"]) == ("evaluation", parent.info.run_id)
    with pytest.raises(InputError, match="fluorescence is sequence regression"):
        evaluate_here([f"run={parent.info.run_id}", "task=fluorescence"])
    with pytest.raises(InputError, match=r"has no such run, .* plmft.report runs"):
        evaluate_here(["run=nosuchrun"])
    assert len(stored_runs(trained)) == 3


def test_without_a_run_the_command_says_what_it_wants(runs: Path) -> None:
    evaluate(runs, "task=fluorescence").refused("run=RUN_ID", "mutation_effects")


def test_a_pretrained_model_is_scored_as_it_is(store: Path, tmp_path: Path) -> None:
    (tmp_path / "wild.fasta").write_text(">w\nMKTAYIAKQR\n")
    rows = [f"{old}{at}{new},{at + 0.1 * n}" for at, old in enumerate("MKTAYIAKQR", 1) for n, new in enumerate("GLW")]
    (tmp_path / "scan.csv").write_text("\n".join(["mutant,score", *rows]) + "\n")
    files = f"task.file={tmp_path}/scan.csv", f"task.wild_type={tmp_path}/wild.fasta", "task.target=score"
    score = evaluate_here(["model=esm2_tiny", "task=mutation_effects", *files])
    (run,) = stored_runs(store)
    assert run.data.metrics["test/spearman"] == pytest.approx(score) and run.data.metrics["data/test"] == 30
