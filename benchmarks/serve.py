"""A worker's loop: a JSON job a line comes in, a JSON answer a line goes out. Runs without plmft, in any environment.

A worker lives as long as its row, so that imports and loading are paid once and rounds of two sides can alternate.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Job = Callable[..., dict[str, Any]]


def serve(jobs: dict[str, Job]) -> None:
    """Answer jobs from stdin until it closes. What the work prints goes to stderr, so that answers stay readable."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = jobs[asked.pop("job")](**asked)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def peak_host_gb() -> float:
    """The process's largest resident set so far (VmHWM), in 10⁹ bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("/proc/self/status tells no VmHWM.")


def measured(marks: list[float], residues: list[int], warmup: int) -> dict[str, Any]:
    """Time and residues of the steps after the warm-up.

    Args:
        marks: (steps,) seconds at which each step ended. residues: (steps,) that each processed.
        warmup: steps that are left out, at least one: the first has no step before it.
    """
    if len(marks) != len(residues) or not 0 < warmup < len(marks):
        raise ValueError(f"{len(marks)} marks, {len(residues)} steps, {warmup} of warm-up.")
    return {
        "seconds": marks[-1] - marks[warmup - 1],
        "residues": sum(residues[warmup:]),
        "step_s": [after - before for before, after in zip(marks[warmup - 1 :], marks[warmup:], strict=False)],
    }
