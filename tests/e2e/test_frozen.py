"""Frozen tuning: the command computes a backbone's vectors once, and later runs find them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft.data.records import IGNORE, Record
from tests.e2e import checkpoints
from tests.e2e.command import TINY, run_folder, stored_runs

FROZEN = (*TINY[1:-1], "optim.epochs=2", "tuning=frozen", "task.head.dropout=0.1", "hardware.precision=fp32")


def summary(store: Path) -> dict:
    return json.loads((run_folder(store) / "summary.json").read_text())


def computed(store: Path) -> float:
    """Sequences that the newest run passed through the backbone for its cache."""
    return summary(store)["cost"]["cost/embed/sequences_computed"]


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_comes_to_the_same(command: Callable, store: Path, tmp_path: Path) -> None:
    from plmft.models.tuned import load

    choose = checkpoints.folder(tmp_path / "model", "esm2")
    said = command(*choose, "model.context=1022", *FROZEN).succeeded()
    first, sequences = summary(store), computed(store)
    assert sequences == 16 and "Embeddings: 16 sequences computed, 0 of 16 from the cache" in said
    assert "16 of 16 sequences computed, the others cached" in said
    said = command(*choose, "model.context=1022", *FROZEN).succeeded()
    second = summary(store)
    assert computed(store) == 0 and "Embeddings: 0 sequences computed, 16 of 16 from the cache" in said
    assert second["metrics"] == first["metrics"]
    names = ("cost/embed/sequences", "cost/embed/cache_gb", "cost/embed/wall_time_s")
    logged = stored_runs(store)[-1].data.metrics
    assert all(second["cost"][name] == logged[name] > 0 for name in names)
    assert second["cost"]["cost/embed/cache_gb"] == first["cost"]["cost/embed/cache_gb"]
    assert second["cost"]["cost/model_flops"] < 0.1 * first["cost"]["cost/embed/model_flops"]  # the head's alone

    table = pd.read_parquet(run_folder(store) / "predictions.parquet")
    model = load(run_folder(store) / "model")  # backbone and head, without a cache
    records = [Record(str(i), s, np.full(len(s), IGNORE), "test") for i, s in enumerate(table.sequence)]
    for found, wanted in zip(model.predict_records(records, 4096), table.probabilities, strict=True):
        np.testing.assert_allclose(found.ravel(), wanted, atol=2e-3)  # half precision's rounding

    command(*choose, "model.context=1022", *FROZEN, "seed=1", "task.seed=0", "optim.lr=0.1").succeeded()
    assert computed(store) == 0, "another seed and learning rate, the same backbone and sequences"
