"""What tracking costs a training loop, with its MLflow server there and away.

    python -m benchmarks.tracking_outage [--steps 400] [--pairs 5]

One loop of steps of some ms of matrix products tells three metrics a step. Blocks of steps alternate between a run
whose server answers, one whose server is gone, and no run at all, so that a noisy machine disturbs all alike. Printed:
the median microseconds in `Run.metrics` and their share of the median step, by block kind, and the median step times
beside each other; the sending threads' share of a core; and what an append costs where a step is next to nothing.
"""

import argparse
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from plmft.tracking.run import Run

WIDTH = 512  # a step is two products of this size: some ms on a core, as an ESM-2 8M step of few sequences or less
Tell = Callable[[int], None]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="of a block")
    parser.add_argument("--pairs", type=int, default=5, help="blocks of each kind")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch), chosen.steps, chosen.pairs)


def measure(folder: Path, steps: int, pairs: int) -> None:
    """Serve, run the blocks, and print."""
    port = _free_port()
    server = _serve(folder, port)
    try:
        uri = f"http://127.0.0.1:{port}"
        here = _run(uri, folder / "here")
        away = _run("http://127.0.0.1:9", folder / "away", offline_ok=True)  # nobody listens
        tells = {"no tracking": lambda step: None, "server there": _teller(here), "server away": _teller(away)}
        others, begun = time.process_time() - time.thread_time(), time.perf_counter()
        found = _blocks(tells, steps, pairs)
        others = time.process_time() - time.thread_time() - others
        for name, (step_us, told_us) in found.items():
            share = 100 * told_us / step_us
            print(f"{name:14} step {step_us:9.1f} us   in Run.metrics {told_us:6.1f} us   {share:.3f} %")
        share = 100 * others / (time.perf_counter() - begun)
        print(f"both sending threads: {share:.2f} % of one core")
        print(f"an append, steps of nothing: {_append_us(here):.1f} us, {_append_us(away):.1f} us while away")
        here.end("FINISHED")
        away.end("FINISHED", wait_s=1)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # its workers too
        server.wait()


def _blocks(tells: dict[str, Tell], steps: int, pairs: int) -> dict[str, tuple[float, float]]:
    """Median microseconds of a step, and of telling in it, by kind; kinds alternate."""
    whole: dict[str, list[float]] = {name: [] for name in tells}
    telling: dict[str, list[float]] = {name: [] for name in tells}
    weights, counted = torch.randn(WIDTH, WIDTH), itertools.count()
    for _ in range(pairs):
        for name, tell in tells.items():
            for _ in range(steps):
                begun = time.perf_counter()
                torch.relu(weights @ weights) @ weights
                computed = time.perf_counter()
                tell(next(counted))
                ended = time.perf_counter()
                whole[name].append(1e6 * (ended - begun))
                telling[name].append(1e6 * (ended - computed))
    return {name: (statistics.median(whole[name]), statistics.median(telling[name])) for name in tells}


def _append_us(run: Run, count: int = 5000) -> float:
    tell, begun = _teller(run), time.perf_counter()
    for step in range(10**6, 10**6 + count):
        tell(step)
    return 1e6 * (time.perf_counter() - begun) / count


def _teller(run: Run) -> Tell:
    return lambda step: run.metrics({"train/loss": 1 / (step + 1), "train/lr": 1e-4, "train/residues": 1e3}, step)


def _run(uri: str, folder: Path, offline_ok: bool = False) -> Run:
    given = {"tags": {}, "params": {}, "runs": folder, "folder": folder, "offline_ok": offline_ok}
    return Run.start(uri, experiment="outage", name="outage", **given)


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _serve(folder: Path, port: int) -> subprocess.Popen:
    import requests

    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/kept"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    while process.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok:
                return process
        except requests.RequestException:
            time.sleep(0.2)
    raise SystemExit("mlflow server did not start")


if __name__ == "__main__":
    main()
