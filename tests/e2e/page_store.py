"""A store with runs of two tasks and a benchmark, as plmft leaves them, without training any."""

from pathlib import Path

from tests.unit.page_runs import predictions

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001080600000 01f15c4890000000d49444154789c6360f8cfc0000000030001"
    "1e92f6f50000000049454e44ae426082".replace(" ", "")
)
ROWS = """model,weights,device,precision,implementation,batch,length,step_time_ms_p50,sequences_per_s,note
esm2_650m,random (seed 0),cpu,fp32,sdpa,1,512,900,1.1,
esm2_650m,random (seed 0),cpu,bf16,packed,1,512,450,2.2,
esm2_650m,random (seed 0),cpu,bf16,packed,8,512,,,would not fit
"""
# task, model, tuning, seed, noise of its predictions, seconds of training, GB
RUNS = (
    ("fluorescence", "esm2_8m", "full", "0", 0.5, 400.0, 3.0),
    ("fluorescence", "esm2_8m", "full", "1", 0.55, 410.0, 3.0),
    ("fluorescence", "esm2_8m", "lora", "0", 0.52, 150.0, 2.0),
    ("fluorescence", "esm2_8m", "frozen", "0", 1.2, 20.0, 1.2),
    ("fluorescence", "onehot_cnn", "full", "0", 0.9, 90.0, 0.8),
    ("stability", "esm2_8m", "lora", "0", 1.0, 70.0, 1.5),
    ("stability", "onehot_linear", "full", "0", 1.05, 2.0, 0.5),
)


def fill(runs: Path) -> list[str]:
    """Ids of the runs, in their order; the benchmark's is the last."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    made = {
        name: client.create_experiment(name, artifact_location=str(runs / "artifacts" / name.replace("/", "-")))
        for name in ("fluorescence", "stability", "benchmark/latency")
    }
    ids = [_scored(client, made[run[0]], run, runs) for run in RUNS]
    failed = client.create_run(made["stability"], tags={"task": "stability", "primary_metric": "spearman"})
    client.set_terminated(failed.info.run_id, "FAILED")
    return [*ids, _benchmark(client, made["benchmark/latency"], runs)]


def _scored(client, experiment: str, run: tuple, runs: Path) -> str:
    from mlflow.entities import Metric, Param, RunTag
    from scipy.stats import spearmanr

    from plmft.page.significance import predictions_of

    task, model, tuning, seed, noise, seconds, memory = run
    weights = "random" if model.startswith("onehot") else "facebook/esm2_t6_8M_UR50D"
    run_id = client.create_run(experiment).info.run_id
    file = predictions(runs / "predictions.parquet", noise, seed=hash_of(run), count=200)
    table = predictions_of(file)
    value = float(spearmanr(table["measured"], table["predicted"]).statistic)
    metrics = {
        "test/spearman": value,
        "test/spearman_ci_low": value - 0.06,
        "test/spearman_ci_high": value + 0.05,
        "data/train": 1000.0,
        "data/test": 200.0,
        "cost/wall_time_s": seconds,
        "cost/peak_host_memory_gb": memory,
        "model/parameters_trainable": 1e5,
    }
    tags = {
        "task": task, "model": model, "tuning": tuning, "primary_metric": "spearman", "device": "cpu",
        "weights": weights, "precision": "fp32", "energy_source": "no RAPL on this machine",
    }  # fmt: skip
    client.log_batch(
        run_id,
        metrics=[Metric(name, number, 0, 0) for name, number in metrics.items()],
        params=[Param("seed", seed)],
        tags=[RunTag(name, text) for name, text in tags.items()],
    )
    client.log_artifact(run_id, str(file))
    if tuning == "frozen":
        (runs / "embedding_pca.png").write_bytes(PNG)
        client.log_artifact(run_id, str(runs / "embedding_pca.png"))
    client.set_terminated(run_id, "FINISHED")
    return run_id


def hash_of(run: tuple) -> int:
    """The same in every process, another for each run."""
    return 1 + RUNS.index(run)


def _benchmark(client, experiment: str, runs: Path) -> str:
    tags = {"plmft.kind": "benchmark", "plmft.protocol": "latency", "model": "esm2_650m", "device": "cpu"}
    run_id = client.create_run(experiment, tags=tags | {"weights": "random (seed 0)"}).info.run_id
    (runs / "rows.csv").write_text(ROWS)
    client.log_artifact(run_id, str(runs / "rows.csv"))
    client.set_terminated(run_id, "FINISHED")
    return run_id
