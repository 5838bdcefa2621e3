"""Runs as the store gives them, made without a store; and their predictions."""

from pathlib import Path

import numpy as np
import pandas as pd

from plmft.page.runs import Benchmark, Scored


def scored(run_id: str, value: float, **changes: object) -> Scored:
    """A finished training run of fluorescence: 100 s of training, 2 GB of the host, 1,000 records."""
    known = {
        "experiment": "1",
        "kind": "training",
        "task": "fluorescence",
        "model": "esm2_8m",
        "tuning": "full",
        "seed": "0",
        "weights": "facebook/esm2_t6_8M_UR50D",
        "device": "cpu",
        "precision": "fp32",
        "primary": "spearman",
        "subset": False,
        "synthetic": False,
        "settings": (),
    } | changes
    metrics = {"test/spearman": value, "data/train": 1000.0, "data/test": 100.0}
    costs = {"cost/wall_time_s": 100.0, "cost/peak_host_memory_gb": 2.0}
    metrics |= known.pop("metrics", {})
    costs |= known.pop("costs", {})
    return Scored(run_id=run_id, metrics=metrics, costs={k: v for k, v in costs.items() if v is not None}, **known)


def benchmark(protocol: str, *rows: dict[str, object], run_id: str = "bench", device: str = "cpu") -> Benchmark:
    """A benchmark run with these rows."""
    model = str(rows[0].get("model", "esm2_8m"))
    return Benchmark(run_id, "2", protocol, model, "random (seed 0)", device, "finished", rows)


def predictions(file: Path, noise: float, *, seed: int = 0, count: int = 300, order: int = 0) -> Path:
    """A regression's predictions.parquet: measured plus noise, in any order."""
    rng = np.random.default_rng(0)
    measured = rng.normal(size=count)
    predicted = measured + noise * np.random.default_rng(seed).normal(size=count)
    table = pd.DataFrame({"id": [f"p{i}" for i in range(count)], "sequence": ["MKV"] * count})
    table["measured"], table["predicted"] = measured, predicted
    table.sample(frac=1, random_state=order).to_parquet(file, index=False)
    return file
