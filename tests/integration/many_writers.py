"""Many processes that log a run each to one store at the same instant; and all that each of them wrote.

    python -m tests.integration.many_writers STORE FOLDER 32

One process imports, then forks the writers, which costs one import and makes them meet harder than real starts would.
A writer's output goes to FOLDER/<writer>.txt, its exit code to the launcher, which ends with the number that failed.
"""

import os
import sys
from pathlib import Path

EXPERIMENT = "many"
STEPS = 40
Rows = dict[tuple[str, int], float]  # (metric, step) to value


def name(writer: int) -> str:
    """Of the writer's run."""
    return f"writer-{writer:02d}"


def step_metrics(writer: int, step: int) -> dict[str, float]:
    """What is logged at each step, as training logs it."""
    names = ("train/loss", "train/lr", "train/grad_norm", "train/residues_per_s", "train/step_time_s")
    return {name: writer + step / 1000 + i for i, name in enumerate(names)}


def end_metrics(writer: int) -> dict[str, float]:
    """What is logged once."""
    return {f"test/metric_{i}": writer + i / 100 for i in range(60)}


def rows(writer: int) -> Rows:
    """All metric rows."""
    found = {(key, step): value for step in range(STEPS) for key, value in step_metrics(writer, step).items()}
    return found | {(key, STEPS): value for key, value in end_metrics(writer).items()}


def params(writer: int) -> dict[str, str]:
    """As many as a config has; more than one request holds."""
    return {f"group.option_{i}": f"{writer}-{i}" for i in range(110)}


def tags(writer: int) -> dict[str, str]:
    """Those of the beginning and one of the end."""
    return {f"tag_{i}": f"{writer}-{i}" for i in range(30)}


def files(writer: int) -> dict[str, str]:
    """Artifacts by name."""
    return {f"{stem}.csv": f"{stem} of {writer}\n" * 200 for stem in ("config", "leaks", "predictions", "summary")}


def write(uri: str, folder: Path, writer: int) -> None:
    """One short run."""
    from plmft.tracking.run import Run

    mine = folder / "work" / name(writer)
    mine.mkdir(parents=True)
    run = Run.start(
        uri,
        experiment=EXPERIMENT,
        name=name(writer),
        runs=folder,
        tags=tags(writer),
        params=params(writer),
        folder=mine,
    )
    for step in range(STEPS):
        run.metrics(step_metrics(writer, step), step)
    for file, text in files(writer).items():
        (mine / file).write_text(text)
        run.artifact(mine / file)
    run.dataset("planted", "d" * 64, "generated", {"train": 10, "test": 5})
    run.metrics(end_metrics(writer), STEPS)
    run.tags({"ended": str(writer)})
    run.end("FINISHED", wait_s=200.0)
    assert run.unsent == 0, run.note


def _fork(uri: str, folder: Path, writer: int, gate: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        output = os.open(folder / f"{writer}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(gate[1])
        os.read(gate[0], 1)  # ends for all at once, when the launcher closes its side, too
        write(uri, folder, writer)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main(uri: str, folder: Path, writers: int) -> int:
    """Returns how many failed."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking  # noqa: F401

    import plmft.tracking.run  # noqa: F401

    gate = os.pipe()
    children = [_fork(uri, folder, writer, gate) for writer in range(writers)]
    os.close(gate[1])
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
