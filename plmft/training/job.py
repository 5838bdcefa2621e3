"""One run from its parts to its figures: prepare, learn, test, record.

All that can fail by a user's mistake is found before a model is built or a run is opened.
"""

import errno
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from rich.console import Console

from plmft import InputError
from plmft.data.leak_cache import kept_leak_report
from plmft.data.leaks import LeakReport
from plmft.data.options import Data, Limit
from plmft.data.prepare import prepare
from plmft.data.records import DataSet
from plmft.data.stored_records import on_disk
from plmft.data.task import Task
from plmft.efficiency.allocator import keep_freed_memory
from plmft.efficiency.memory import give_back
from plmft.models.attention import implementation
from plmft.models.direct_spec import DirectSpec
from plmft.models.loss_spec import Loss
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.tuning import Tuning
from plmft.models.weights import Located, locate
from plmft.sweeps.callback import child_tags
from plmft.tracking.claims import Claim, claim, config_key, key_of
from plmft.tracking.differences import say_differences, source_tags
from plmft.tracking.lineage import environment_tags, flatten, scrub
from plmft.tracking.lineage_files import write_lineage
from plmft.tracking.options import Tracking, check_writable, runs_dir
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from plmft.tracking.weights_origin import weights_tags
from plmft.training.auto_tokens import tokens_for
from plmft.training.beginning import counts_of, say_beginning, weights_named
from plmft.training.distributed import Ranks, joined
from plmft.training.hardware import Device, Hardware
from plmft.training.interrupts import Preempted, stop_if_asked
from plmft.training.launching import RankSide
from plmft.training.learning import Learner, make_learner
from plmft.training.optim import Optim
from plmft.training.options import Checkpoint
from plmft.training.outcome import show
from plmft.training.pruning import Pruned
from plmft.training.recording import record

RESERVE_BYTES = 1 << 20
KILLED_S = 10.0  # to tell the store of it: who stops a run soon kills it


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
    checkpoint: Checkpoint
    seed: int
    batch_size: int
    config: dict[str, Any]

    def run(self, console: Console) -> float | None:
        """Learn and test; returns the primary metric on the test split, None where the run was pruned.

        Raises: InputError: a user's mistake. KeyboardInterrupt: the run is marked KILLED, its last checkpoint kept.
        """
        runs = runs_dir()
        with joined(self.hardware) as ranks:
            with ranks.first_alone():
                check_writable(runs)
                if not self.tracking.offline_ok:
                    check_server(self.tracking.address(runs))
                job, dataset, notes = self._read(runs)
            with suppress(Pruned):
                return job._run(runs, dataset, notes, console if ranks.first else Console(quiet=True), ranks)
            return None

    def _read(self, runs: Path) -> tuple["Job", DataSet, tuple[str, ...]]:
        """The job with the classes that the data have, the records, which are on disk by then, and what to tell."""
        loaded = self.task.read(self.data.place(runs))
        job = replace(self, task=replace(self.task, classes=loaded.classes or self.task.classes))
        used = prepare(
            job.task,
            loaded,
            self.data,
            self.limit,
            context=self.model.context,
            model=self.model.name,
            seed=self.seed,
        )
        return job, on_disk(used, runs / "cache"), loaded.notes

    def _run(self, runs: Path, dataset: DataSet, told: Sequence[str], console: Console, ranks: Ranks) -> float | None:
        device = self.hardware.resolve()
        if device.kind == "cpu":
            keep_freed_memory()
        if self.hardware.tokens_per_batch == "auto":
            tokens, line = ranks.broadcast(tokens_for(self, dataset, device))
            job = replace(self, hardware=replace(self.hardware, tokens_per_batch=tokens))
            return job._run(runs, dataset, (*told, line), console, ranks)
        with ranks.first_alone():
            located = locate(self.model)
        leaks = kept_leak_report(dataset, runs / "cache" / "leaks") if dataset.splits["train"] and ranks.first else None
        notes = [*told, *(leaks.lines() if leaks else ())]
        say_beginning(self, console, dataset, device, located, notes)
        pl.seed_everything(self.seed, verbose=False)
        give_back()  # what reading and the search for leaks took
        learner = make_learner(self, located, dataset, device)
        claimed = self._claim(runs, dataset, located) if ranks.first else None
        folder = ranks.broadcast(claimed.folder if claimed else None)
        if claimed is None:
            learner.learn(folder, _unlogged, console)
            return None
        with _opening(claimed):
            tracked = self._start(runs, claimed, dataset, device, located, console)
        with _ended(tracked, console, claimed), _reserve(folder):
            self._record_beginning(tracked, dataset, leaks, learner, folder)
            tracked.metrics({"attempts": claimed.attempt}, claimed.attempt)
            stop_if_asked()
            result = learner.learn(folder, tracked.metrics, console)
            outcome = record(self, learner, dataset, leaks, located, result, claimed, tracked)
            tracked.settle()
        title = f"{self.model.name} ({weights_named(self.model, located)}), {self.tuning.name}: {self.task.name}"
        show(console, self.task, title, outcome)
        lines = (f"Files: {folder}", f"Compare runs: {tracked.url_hint}", *filter(None, [tracked.note]))
        console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
        return outcome.metrics.get(f"test/{self.task.primary_metric}")

    @property
    def _is_transformer(self) -> bool:
        return isinstance(self.model, TransformerSpec)

    def _claim(self, runs: Path, dataset: DataSet, located: Located) -> Claim:
        """The folder to work in: that of an unfinished run of the same config, data and weights, or a new one."""
        weights = weights_tags(located, self.seed, runs / "cache")
        key = key_of([config_key(self.config), dataset.digest, located.source, weights, *source_tags().values()])
        name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{self.model.name}-{self.tuning.name}-s{self.seed}"
        return claim(runs, key, name, resume=self.checkpoint.resume)

    def _start(
        self, runs: Path, claimed: Claim, dataset: DataSet, device: Device, located: Located, console: Console
    ) -> Run:
        tags = self._tags(dataset, device, located) | weights_tags(located, self.seed, runs / "cache")
        say_differences(console, tags, dataset.counts, self.hardware.tokens_per_batch)
        if claimed.attempt > 1:
            told = f"Attempt {claimed.attempt} of a run that did not finish; checkpoint.resume=false begins another"
            console.print(f"{told}: {claimed.folder}", highlight=False, soft_wrap=True, markup=False)
        tags |= {"folder": claimed.folder.name, "attempts": claimed.attempt}
        address = self.tracking.address(runs)
        run = Run.start(
            address,
            experiment=self.task.name,
            name=f"{self.model.name}-{self.tuning.name}-s{self.seed}-{claimed.folder.name[:15]}",
            runs=runs,
            tags={name: value for name, value in tags.items() if value},
            params=flatten(scrub(self.config)) | {"tuning.name": self.tuning.name, "task.name": self.task.name},
            folder=claimed.folder,
            offline_ok=self.tracking.offline_ok,
        )
        side = RankSide.find()
        if side is not None:
            side.opened(address, claimed.folder)
        return run

    def _tags(self, dataset: DataSet, device: Device, located: Located) -> dict[str, object]:
        """What the run is made of, and where it belongs."""
        return {
            **environment_tags(),
            "model": self.model.name,
            "task": self.task.name,
            "tuning": self.tuning.name,
            "weights": located.source,
            "data_digest": dataset.digest,
            "device": device.name or "cpu",
            "precision": device.precision,
            "attention": implementation(device.torch_type, device.arithmetic) if self._is_transformer else "",
            "strategy": self.hardware.strategy if self.hardware.devices * self.hardware.nodes > 1 else "single",
            "devices": self.hardware.devices,
            "world_size": self.hardware.devices * self.hardware.nodes,
            "subset": str(dataset.subset).lower(),
            "synthetic_data": str(self.task.synthetic).lower(),
            "primary_metric": self.task.primary_metric,
            "citation": self.task.citation,
            "licence": self.task.licence,
            "config_key": config_key(self.config),
            **child_tags(),
            **source_tags(),
        }

    def _record_beginning(
        self, tracked: Run, dataset: DataSet, leaks: LeakReport | None, learner: Learner, folder: Path
    ) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(scrub(self.config), sort_keys=False))
        for file in (folder / "config.yaml", *write_lineage(folder)):
            tracked.artifact(file)
        sizes = {f"model/parameters_{name}": n for name, n in learner.parameters.items()}
        sizes["hardware/tokens_per_batch"] = self.hardware.tokens_per_batch  # also where it was chosen
        tracked.metrics({**sizes, **counts_of(dataset, leaks)}, 0)
        if leaks is not None:
            (folder / "leaks.csv").write_text(leaks.table())
            tracked.artifact(folder / "leaks.csv")
        tracked.dataset(self.task.name, dataset.digest, dataset.source, dataset.counts)


def _unlogged(metrics: dict[str, float], step: int) -> None:
    """Rank 0 logs for all."""


@contextmanager
def _opening(claimed: Claim) -> Iterator[None]:
    """Make the run's folder; where the run then cannot be opened, nothing is left of a first attempt."""
    claimed.folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if any(claimed.folder.iterdir()):
            claimed.release()
        else:
            claimed.folder.rmdir()
            claimed.finish()
        raise


@contextmanager
def _reserve(folder: Path) -> Iterator[None]:
    """Hold a little of the disk until the end, so that on a full one the store can still be told how the run ended."""
    with tempfile.TemporaryFile(dir=folder) as file:  # has no name: a kill frees it too
        file.write(bytes(RESERVE_BYTES))
        file.flush()
        yield


@contextmanager
def _ended(tracked: Run, console: Console, claimed: Claim) -> Iterator[None]:
    """End the tracked run with the status that the work came to; one that did not finish can be taken up again."""
    folder, complete = claimed.folder, False
    try:
        yield
        tracked.end("FINISHED")
        complete = True
    except Pruned:
        tracked.tags({"pruned": "true"})
        tracked.end("FINISHED")
        console.print("Pruned: this trial is behind others of its search; it is not tested.")
        claimed.finish()
        raise
    except KeyboardInterrupt as interrupt:
        tracked.end("SCHEDULED" if isinstance(interrupt, Preempted) else "KILLED", wait_s=KILLED_S)
        kept = any((folder / "checkpoints").glob("step-*"))
        told = f"{folder} keeps its state: the same command goes on from there" if kept else "nothing was trained yet"
        console.print(f"Interrupted; {told}.", highlight=False, soft_wrap=True)
        interrupt.told = True
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
    else:
        claimed.finish()
    finally:
        if tracked.note and not complete:  # else it is told last
            console.print(tracked.note, highlight=False, soft_wrap=True, markup=False)
        claimed.release()
