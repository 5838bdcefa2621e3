"""Measure in a process of its own, so that a peak is that cell's and a process that the system kills costs one row.

Costs a start of Python with torch (some seconds) for each process; one process takes many cells unless told otherwise.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from plmft import InputError
from plmft.bench.protocol import Bench, Row
from plmft.efficiency.out_of_memory import OUT_OF_MEMORY, is_out_of_memory, memory_note, says_out_of_memory

LOG = "apart.log"  # in the run's folder


def apart(
    bench: Bench, function: str, cells: Iterable[Mapping[str, object]], *, fresh: bool = False
) -> Iterator[tuple[dict[str, Any], Row]]:
    """Each cell with what `function(bench, **cell)` gave for it, in another process.

    A cell that fails gives {"note": why}, its note beginning with "out of memory" where that was the reason; the next
    one gets a new process.

    Args:
        function: its full name, as plmft.bench.memory.measure_cell; its result must be plain values.
        cells: arguments of plain values. fresh: a process for each cell.
    """
    worker: _Worker | None = None
    try:
        for cell in cells:
            worker = worker or _Worker(bench)
            row = worker.measure(function, dict(cell))
            yield dict(cell), row
            if fresh or not worker.usable:
                worker.stop()
                worker = None
    finally:
        if worker is not None:
            worker.stop()


class _Worker:
    """The other process: a line of JSON in, a line out. It ends when its stdin does."""

    def __init__(self, bench: Bench) -> None:
        self._log = bench.folder / LOG
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "plmft.bench.apart"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.usable = True
        setup = {"config": bench.config, "weights": bench.weights, "runs": str(bench.runs)}
        self._tell(setup | {"folder": str(bench.folder), "precision": bench.device.precision})

    def measure(self, function: str, cell: dict[str, Any]) -> Row:
        self._tell({"function": function, "cell": cell})
        answer = self._process.stdout.readline()
        if answer.endswith("\n"):
            told = json.loads(answer)
            self.usable = told["usable"]
            return told["row"]
        self.usable = False
        return {"note": self._why()}

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it is gone: the answer that does not come tells
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _why(self) -> str:
        code = self._process.wait()
        if code == -9:
            return f"{OUT_OF_MEMORY}: the system killed the process"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        lines = said.splitlines() or ["it said nothing"]
        if says_out_of_memory(lines[-1]):
            return f"{OUT_OF_MEMORY}: {lines[-1]}"
        with self._log.open("a") as log:
            log.write(said + "\n")
        return f"the process ended with code {code}: {lines[-1]} (all it said: {LOG})"

    def stop(self) -> None:
        """End it, at once."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(BrokenPipeError):
                stream.close()


def _serve() -> None:
    """The worker's side. What libraries print goes to stderr: stdout is for answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with suppress(OSError):  # on Linux: of all processes, this one is to be killed first
        Path("/proc/self/oom_score_adj").write_text("1000")
    bench = _bench(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        asked = json.loads(line)
        module, _, name = asked["function"].rpartition(".")
        usable = True
        try:
            row = getattr(importlib.import_module(module), name)(bench, **asked["cell"])
        except InputError as error:
            row = {"note": str(error)}
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            row, usable = {"note": memory_note(error)}, False
        answers.write(json.dumps({"row": row, "usable": usable}) + "\n")
        answers.flush()


def _bench(setup: dict[str, Any]) -> Bench:
    from plmft.config.compose import parts_of
    from plmft.efficiency.allocator import bound_kernel_caches

    bound_kernel_caches()
    parts = parts_of(setup["config"])
    hardware = replace(parts["hardware"], precision=setup["precision"])
    return Bench(
        parts=parts,
        config=setup["config"],
        spec=parts["model"],
        device=hardware.resolve(),
        runs=Path(setup["runs"]),
        folder=Path(setup["folder"]),
        seed=parts["seed"],
        usd_per_hour=hardware.usd_per_hour,
        weights=setup["weights"],
    )


if __name__ == "__main__":
    _serve()
