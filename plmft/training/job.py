"""One run from its parts to its figures: prepare, learn, test, record.

All that can fail by a user's mistake is found before a model is built or a run is opened.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from rich.console import Console

from plmft import InputError
from plmft.data.leaks import LeakReport, leak_report
from plmft.data.options import Data, Limit
from plmft.data.records import DataSet, build_dataset, fit_to_context, limit
from plmft.data.task import Loaded, Task
from plmft.models.direct_spec import DirectSpec
from plmft.models.loss_spec import Loss
from plmft.models.spec import Spec
from plmft.models.tuning import Tuning
from plmft.models.weights import Located, locate
from plmft.tracking.lineage import environment_tags, flatten, scrub
from plmft.tracking.options import Tracking, check_writable, runs_dir
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from plmft.tracking.sweep import child_tags
from plmft.training.beginning import counts_of, say_beginning, weights_named
from plmft.training.hardware import Device, Hardware
from plmft.training.learning import Learner, make_learner
from plmft.training.optim import Optim
from plmft.training.outcome import show
from plmft.training.recording import record

RESERVE_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """The parts of one run, and the config that they were made from."""

    model: Spec | DirectSpec
    task: Task
    tuning: Tuning
    loss: Loss
    optim: Optim
    hardware: Hardware
    tracking: Tracking
    data: Data
    limit: Limit
    seed: int
    batch_size: int
    config: dict[str, Any]

    def run(self, console: Console) -> float | None:
        """Learn and test; returns the primary metric on the test split.

        Raises: InputError: a user's mistake. KeyboardInterrupt: the run is marked KILLED, its last checkpoint kept.
        """
        runs = runs_dir()
        check_writable(runs)
        check_server(self.tracking.address(runs))
        loaded = self.task.read(self.data.place(runs))
        job = replace(self, task=replace(self.task, classes=loaded.classes or self.task.classes))
        return job._run(runs, loaded, console)

    def _run(self, runs: Path, loaded: Loaded, console: Console) -> float | None:
        dataset = self._dataset(loaded)
        device = self.hardware.resolve()
        located = locate(self.model)
        leaks = leak_report(dataset.splits) if dataset.splits["train"] else None
        notes = [*loaded.notes, *(leaks.lines() if leaks else ())]
        say_beginning(self, console, dataset, device, located, notes)
        pl.seed_everything(self.seed, verbose=False)
        learner = make_learner(self, located, dataset, device)
        name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{self.model.name}-{self.tuning.name}-s{self.seed}"
        tracked = self._start(runs, name, dataset, device, located)
        folder = runs / "work" / name
        with _ended(tracked, console, folder):
            folder.mkdir(parents=True)
            with _reserve(folder):
                self._record_beginning(tracked, dataset, leaks, learner, folder)
                result = learner.learn(folder, tracked.metrics, console)
                outcome = record(self, learner, dataset, leaks, located, result, folder, tracked)
        title = f"{self.model.name} ({weights_named(self.model, located)}), {self.tuning.name}: {self.task.name}"
        show(console, self.task, title, outcome)
        console.print(f"Files: {folder}\nCompare runs: {tracked.url_hint}", highlight=False, soft_wrap=True)
        return outcome.metrics.get(f"test/{self.task.primary_metric}")

    def _dataset(self, loaded: Loaded) -> DataSet:
        task = self.task
        whole = build_dataset(
            task.name,
            task.kind,
            loaded.records,
            source=loaded.source,
            n_classes=len(task.classes),
            needs=task.needs,
        )
        limits = {"train": self.limit.train, "valid": self.limit.valid, "test": self.limit.test}
        if task.kind == "contacts" and self.data.length_policy == "window":
            raise InputError("data.length_policy=window: contacts reach across windows. Set refuse or crop.")
        if task.kind == "variant_scoring" and self.data.length_policy == "crop":
            raise InputError("data.length_policy=crop: it would cut off mutated positions. Set window or refuse.")
        used = limit(whole, limits, self.seed)
        return fit_to_context(used, self.model.context, self.data.length_policy, self.model.name)

    def _start(self, runs: Path, name: str, dataset: DataSet, device: Device, located: Located) -> Run:
        tags = {
            **environment_tags(),
            "model": self.model.name,
            "task": self.task.name,
            "tuning": self.tuning.name,
            "weights": located.source,
            "model_revision": located.revision or "",
            "data_digest": dataset.digest,
            "device": device.name or "cpu",
            "precision": device.precision,
            "subset": str(dataset.subset).lower(),
            "synthetic_data": str(self.task.synthetic).lower(),
            "primary_metric": self.task.primary_metric,
            **child_tags(),
        }
        return Run.start(
            self.tracking.address(runs),
            experiment=self.task.name,
            name=name,
            runs=runs,
            tags={name: value for name, value in tags.items() if value},
            params=flatten(scrub(self.config)),
        )

    def _record_beginning(
        self, tracked: Run, dataset: DataSet, leaks: LeakReport | None, learner: Learner, folder: Path
    ) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(scrub(self.config), sort_keys=False))
        tracked.artifact(folder / "config.yaml")
        sizes = {f"model/parameters_{name}": n for name, n in learner.parameters.items()}
        tracked.metrics({**sizes, **counts_of(dataset, leaks)}, 0)
        if leaks is not None:
            (folder / "leaks.csv").write_text(leaks.table())
            tracked.artifact(folder / "leaks.csv")
        tracked.dataset(self.task.name, dataset.digest, dataset.source, dataset.counts)


@contextmanager
def _reserve(folder: Path) -> Iterator[None]:
    """Hold a little of the disk until the end, so that on a full one the store can still be told how the run ended."""
    with tempfile.TemporaryFile(dir=folder) as file:  # has no name: a kill frees it too
        file.write(bytes(RESERVE_BYTES))
        file.flush()
        yield


@contextmanager
def _ended(tracked: Run, console: Console, folder: Path) -> Iterator[None]:
    """End the tracked run with the status that the work came to."""
    try:
        yield
    except KeyboardInterrupt:
        tracked.end("KILLED")
        last = folder / "checkpoints" / "last.ckpt"
        told = f"the last state is {last}" if last.is_file() else "nothing was trained yet"
        console.print(f"Interrupted; {told}.", highlight=False, soft_wrap=True)
        raise
    except OSError as error:
        tracked.end("FAILED")
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise InputError(
                f"{folder}: {error.strerror}. What was written before is kept. Make room, and run again."
            ) from error
        raise
    except BaseException:
        tracked.end("FAILED")
        raise
    tracked.end("FINISHED")
