"""Starts the command again and again, each time in a process of its own, and kills it: `python -m tests.e2e.attempts`.

What takes seconds is to import; here it is done once, and each process is a fork of this one, which has run nothing.
A line of JSON on stdin is one attempt: {"overrides": [...], "log": file, "kill": [[name, n, when], ...], "after_s": 1}.
It is killed by what comes first: after a number of seconds, or at the n-th call of one of the functions in CALLS,
before it, after it, or in its midst (half of a file written). The answer is a line with the exit code, -9 where it was
killed, and how often each of them was called.
"""

import atexit
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

# what a run does, in the order in which it first does it
CALLS = {
    "build": "plmft.training.job:make_learner",
    "claim": "plmft.training.job:claim",
    "open": "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.create_run",
    "params": "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.log_batch",
    "step": "plmft.training.module:FineTuning.training_step",
    "state": "plmft.training.checkpoints:write_with_digest",
    "file": "plmft.training.checkpoints:_write_to_disk",
    "rename": "os:replace",
    "validation": "plmft.training.module:FineTuning.on_validation_epoch_end",
    "test": "plmft.training.module:FineTuning.on_test_epoch_end",
    "record": "plmft.training.job:record",
    "predictions": "plmft.training.recording:write_predictions",
    "model": "plmft.training.recording:save",
    "summary": "plmft.training.recording:write_summary",
    "end": "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore.update_run_info",
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(path: Any, content: Any) -> None:
    path.write_bytes(bytes(content)[: len(content) // 2])
    die()


def watch(name: str, place: str, kills: dict[tuple[str, int], str], count: Callable[[str], int]) -> None:
    """Count the calls of a function, and die at one of them."""
    module, _, path = place.partition(":")
    *owners, last = path.split(".")
    holder = importlib.import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    usual = getattr(holder, last)

    def counted(*args: Any, **options: Any) -> Any:
        when = kills.get((name, count(name)))
        if when == "before":
            die()
        if when == "midst":
            half_written(*args)
        result = usual(*args, **options)
        if when == "after":
            die()
        return result

    setattr(holder, last, counted)


def run(command: dict[str, Any], told: int) -> None:
    """One attempt, in its process."""
    counts: Counter[str] = Counter()

    def count(name: str) -> int:
        counts[name] += 1
        os.write(told, f"{name}\n".encode())
        return counts[name]

    kills = {(name, n): when for name, n, when in command["kill"]}
    for name, place in CALLS.items():
        watch(name, place, kills, count)
    sys.argv = ["train", *command["overrides"]]
    from plmft.train import main

    code = 0
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def attempt(command: dict[str, Any]) -> dict[str, Any]:
    """Start a process, and wait for its end, or kill it."""
    reader, writer = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run(command, writer)
    os.close(writer)
    if command["after_s"] is not None:
        time.sleep(command["after_s"])
        os.kill(child, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
    with os.fdopen(reader) as pipe:
        called = Counter(pipe.read().split())  # until the process is gone
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "called": called, "seconds": time.monotonic() - started}


def main() -> None:
    for place in ("plmft.train:main", *CALLS.values()):
        importlib.import_module(place.partition(":")[0])
    for line in sys.stdin:
        print(json.dumps(attempt(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
