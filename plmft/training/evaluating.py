"""Score a tuned model again: on its own test sets, or on another task of the same kind. It has one phase, the test.

The same batches, precision and scores as at the end of training, so that a run's own test comes out the same to the
last bit on the same machine. Of several processes each holds a replica and takes its share of the batches.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from plmft import InputError
from plmft.data.known_classes import in_known_classes
from plmft.data.options import Data, Limit
from plmft.data.prepare import prepare
from plmft.data.records import DataSet
from plmft.data.stored_records import on_disk
from plmft.data.task import Loaded, Task
from plmft.efficiency.allocator import keep_freed_memory
from plmft.models.tuned import Tuned, load
from plmft.models.windows import Windows
from plmft.tracking.claims import Claim, claim, config_key, key_of
from plmft.tracking.lineage import mask
from plmft.tracking.options import Tracking, check_writable, runs_dir
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from plmft.training.distributed import joined
from plmft.training.evaluated import Evaluated
from plmft.training.evaluation_pass import EvaluationPass, on_device
from plmft.training.evaluation_record import record, record_beginning, start
from plmft.training.gradient_steps import check_positions
from plmft.training.hardware import Device, Hardware
from plmft.training.outcome import show

TOKENS = 4096  # for hardware.tokens_per_batch=auto: the plan is one of training
KILLED_S = 10.0  # to tell the store of it: who stops a run soon kills it


@dataclass(frozen=True)
class Evaluation:
    """One evaluation, and the config that its parts were made from.

    Args: records: which ones are scored: those of the test splits, or all as one test set.
    """

    evaluated: Evaluated
    task: Task
    hardware: Hardware
    tracking: Tracking
    data: Data
    limit: Limit
    seed: int
    records: Literal["test", "all"]
    config: dict[str, Any]

    def run(self, console: Console) -> float | None:
        """Returns the primary metric on the test split. Raises: InputError: a user's mistake."""
        runs = runs_dir()
        with joined(self.hardware) as ranks:
            console = console if ranks.first else Console(quiet=True)
            with ranks.first_alone():
                check_writable(runs)
                if not self.tracking.offline_ok:
                    check_server(self.tracking.address(runs))
                tuned = load(self.evaluated.folder)
                task, dataset, notes = self._read(runs, tuned)
            device, precision, line = self._device()
            notes += line
            if device.kind == "cpu":
                keep_freed_memory()
            tuned = on_device(tuned, device, self.hardware, precision)
            self._say(console, task, tuned, dataset, device, notes)
            hardware = self.hardware
            if hardware.tokens_per_batch == "auto":
                hardware = replace(hardware, tokens_per_batch=TOKENS)
            evaluate = EvaluationPass(tuned, device, hardware, ranks, runs / "cache" / "tokens", console)
            if not ranks.first:
                evaluate.run(dataset.tests)
                return None
            claimed = self._claim(runs, dataset)
            claimed.folder.mkdir(parents=True, exist_ok=True)
            tracked = start(self, runs, claimed, task, tuned, dataset, device)
            with _ended(tracked, claimed, console):
                record_beginning(self, tracked, task, dataset, claimed)
                result = evaluate.run(dataset.tests)
                outcome = record(self, tracked, task, tuned, dataset, result, claimed)
                tracked.settle()
        shown = task if task.unit == tuned.description.unit else replace(task, unit="")  # errors then have none
        show(console, shown, f"{self._model_named}, evaluated: {task.name}", outcome)
        lines = (f"Files: {claimed.folder}", f"Compare runs: {tracked.url_hint}", *filter(None, [tracked.note]))
        console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
        return outcome.metrics.get(f"test/{task.primary_metric}")

    @property
    def _model_named(self) -> str:
        made = self.evaluated.parts
        weights = "random weights" if self.evaluated.weights == "random" else f"weights: {self.evaluated.weights}"
        return f"{made['model']['name']} ({weights}), tuned on {self.evaluated.task}"

    def _read(self, runs: Path, tuned: Tuned) -> tuple[Task, DataSet, tuple[str, ...]]:
        """The task in the model's classes, its records, which are on disk by then, and what to tell."""
        made, task = tuned.description, self.task
        loaded = task.read(replace(self.data.place(runs), purpose=self.records))
        records = loaded.records
        if made.classes:
            named = loaded.classes or task.classes
            records = in_known_classes(records, made.kind, named, made.classes, task.name)
        if self.records == "all":
            records = [replace(record, split="test") for record in records]
        task = replace(task, classes=made.classes, needs=("test",))
        spec = made.spec
        loaded = Loaded(records, loaded.source, made.classes or None, loaded.notes)
        dataset = prepare(task, loaded, self.data, self.limit, context=spec.context, model=spec.name, seed=self.seed)
        check_positions(
            made.head, dataset.tests.values(), "The run brings its head: choose other records, or another run."
        )
        if dataset.windowed and tuned.predictor.windows is None:
            tuned.predictor.windows = Windows.of(spec.context, spec.tokenizer)
        notes = [*loaded.notes, *self._cautions(task, dataset, made.unit)]
        return task, on_disk(dataset, runs / "cache"), tuple(notes)

    def _cautions(self, task: Task, dataset: DataSet, unit: str) -> Iterator[str]:
        if self.records == "all":
            yield f"records=all: all {len(dataset.splits['test']):,} records are scored as one test set."
        if task.unit != unit:
            yield (
                f"The model predicts in {unit or 'no unit'}, {task.name} is measured in {task.unit or 'no unit'}: "
                "correlations can be read, errors can't."
            )
        own = self.evaluated.own_test().get("data_digest")
        if own != dataset.digest:
            what = "are not known here" if own is None else "are others"
            yield f"The run's own records {what}: whether it was trained on some of these is not checked."

    def _device(self) -> tuple[Device, str, tuple[str, ...]]:
        """Where, and in which precision: the run's own, unless another is asked for or the device lacks it."""
        own = self.evaluated.parts["precision"]
        if self.hardware.precision != "auto":
            device = self.hardware.resolve()
            return device, device.precision, ()
        try:
            return replace(self.hardware, precision=own).resolve(), own, ()
        except InputError:
            device = self.hardware.resolve()
            told = f"The run computed in {own}, which this device lacks: evaluated in {device.precision}."
            return device, device.precision, (told,)

    def _say(
        self, console: Console, task: Task, tuned: Tuned, dataset: DataSet, device: Device, notes: tuple[str, ...]
    ) -> None:
        counts = ", ".join(f"{split} {len(records):,}" for split, records in dataset.tests.items())
        subset = " (a subset: limit is set)" if dataset.subset else ""
        processes = self.hardware.devices * self.hardware.nodes
        where = f"{processes} x {device.name or 'CPU'}" if processes > 1 else device.name or "CPU"
        lines = [
            f"{task.name}: {counts} records{subset} from {dataset.source}",
            *notes,
            f"{self._model_named}; {where}, {tuned.description.precision}",
        ]
        console.print(mask("\n".join(lines)), highlight=False, soft_wrap=True, markup=False)

    def _claim(self, runs: Path, dataset: DataSet) -> Claim:
        model = self.evaluated.folder
        written = (model / "head.safetensors").stat().st_mtime_ns
        key = key_of(["evaluation", config_key(self.config), dataset.digest, str(model.resolve()), written])
        name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-evaluate-{self.evaluated.parts['model']['name']}"
        return claim(runs, key, name)


@contextmanager
def _ended(tracked: Run, claimed: Claim, console: Console) -> Iterator[None]:
    """End the tracked run with the status that the work came to."""
    try:
        yield
        tracked.end("FINISHED")
        claimed.finish()
    except KeyboardInterrupt as interrupt:
        tracked.end("KILLED", wait_s=KILLED_S)
        console.print("Interrupted: the same command begins the evaluation again.")
        interrupt.told = True
        raise
    except OSError as error:
        tracked.end("FAILED")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(f"{claimed.folder}: {error.strerror}. Make room, and run again.") from error
        raise
    except BaseException:
        tracked.end("FAILED")
        raise
    finally:
        claimed.release()
