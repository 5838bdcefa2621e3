"""One run from its parts to its figures: prepare, build, train, test, record.

All that can fail by a user's mistake is found in `prepare`, before a model is built or a run is opened.
"""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from rich.console import Console

from plmft import InputError
from plmft.data.options import Data, Limit
from plmft.data.packing import EncodedSplit
from plmft.data.records import DataSet, Record, build_dataset, fit_to_context, limit
from plmft.data.task import Task
from plmft.models.build import build_predictor
from plmft.models.predictor import Predictor, parameter_counts
from plmft.models.spec import Spec
from plmft.models.tuned import Description, save
from plmft.models.tuning import Tuning
from plmft.models.weights import Located, locate
from plmft.tracking.lineage import environment_tags, flatten, scrub
from plmft.tracking.options import Tracking, check_writable, runs_dir
from plmft.tracking.run import Run
from plmft.tracking.store import check_server
from plmft.training.cost import make_metering
from plmft.training.data import PackedData
from plmft.training.figures import figures
from plmft.training.fine_tune import FineTuned, fine_tune
from plmft.training.hardware import Device, Hardware
from plmft.training.optim import Optim
from plmft.training.outcome import Outcome, named_costs, show, write_predictions, write_summary
from plmft.training.scoring import baseline_metrics, metrics_of_test, score

RESERVE_BYTES = 1 << 20


@dataclass(frozen=True)
class Job:
    """The parts of one run, and the config that they were made from."""

    model: Spec
    task: Task
    tuning: Tuning
    optim: Optim
    hardware: Hardware
    tracking: Tracking
    data: Data
    limit: Limit
    seed: int
    batch_size: int
    config: dict[str, Any]

    def run(self, console: Console) -> float | None:
        """Train and test; returns the primary metric on the test split.

        Raises: InputError: a user's mistake. KeyboardInterrupt: the run is marked KILLED, its last checkpoint kept.
        """
        runs = runs_dir()
        check_writable(runs)
        check_server(self.tracking.address(runs))
        dataset = self._dataset(runs)
        device = self.hardware.resolve()
        located = locate(self.model)
        self._say_beginning(console, dataset, device, located)
        pl.seed_everything(self.seed, verbose=False)
        predictor = self._predictor(located, dataset)
        name = f"{datetime.now():%Y%m%d-%H%M%S-%f}-{self.model.name}-{self.tuning.name}-s{self.seed}"
        tracked = self._start(runs, name, dataset, device, located)
        folder = runs / "work" / name
        with _ended(tracked, console, folder):
            folder.mkdir(parents=True)
            with _reserve(folder):
                self._record_beginning(tracked, dataset, predictor)
                result = self._fine_tune(predictor, dataset, device, folder, tracked, console)
                outcome = self._record(predictor, dataset, located, result, folder, tracked)
        show(
            console,
            self.task,
            f"{self.model.name} ({self._weights(located)}), {self.tuning.name}: {self.task.name}",
            outcome,
        )
        console.print(f"Files: {folder}\nCompare runs: {tracked.url_hint}", highlight=False, soft_wrap=True)
        return outcome.metrics.get(f"test/{self.task.primary_metric}")

    def _dataset(self, runs: Path) -> DataSet:
        records, source = self.task.read(self.data.place(runs))
        whole = build_dataset(self.task.name, self.task.kind, records, source=source, n_classes=len(self.task.classes))
        limits = {"train": self.limit.train, "valid": self.limit.valid, "test": self.limit.test}
        used = limit(whole, limits, self.seed)
        return fit_to_context(used, self.model.context, self.data.length_policy, self.model.name)

    def _predictor(self, located: Located, dataset: DataSet) -> Predictor:
        predictor = build_predictor(
            self.model, located, tuning=self.tuning, head=self.task.head, kind=self.task.kind, outputs=self.task.outputs
        )
        if self.task.kind == "sequence_regression":
            predictor.fit_scale([record.target for record in dataset.splits["train"]])
        return predictor

    def _weights(self, located: Located) -> str:
        return "random weights" if located.source == "random" else f"weights: {located.source}"

    def _say_beginning(self, console: Console, dataset: DataSet, device: Device, located: Located) -> None:
        def say(text: str) -> None:
            console.print(text, highlight=False, soft_wrap=True)

        counts = " / ".join(f"{n:,}" for n in dataset.counts.values())
        subset = " (a subset: limit is set)" if dataset.subset else ""
        say(f"{self.task.name}: {counts} records (train / valid / test){subset} from {dataset.source}")
        shared = {pair: n for pair, n in dataset.shared_sequences.items() if n}
        if shared:
            told = ", ".join(f"{pair} {n}" for pair, n in shared.items())
            say(f"The same sequence stands in two splits: {told}. Kept, as published.")
        if dataset.cropped:
            told = ", ".join(f"{split} {n}" for split, n in dataset.cropped.items())
            say(f"Cropped to {self.model.context} residues: {told}")
        where = device.name or "CPU"
        say(f"{self.model.name}: {self._weights(located)}; {self.tuning.name}; {where}, {device.precision}")

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
        }
        return Run.start(
            self.tracking.address(runs),
            experiment=self.task.name,
            name=name,
            runs=runs,
            tags={name: value for name, value in tags.items() if value},
            params=flatten(scrub(self.config)),
        )

    def _record_beginning(self, tracked: Run, dataset: DataSet, predictor: Predictor) -> None:
        shared = {f"shared_{pair.replace('/', '_')}": n for pair, n in dataset.shared_sequences.items()}
        cropped = {f"cropped_{split}": n for split, n in dataset.cropped.items()}
        sizes = {f"model/parameters_{name}": n for name, n in parameter_counts(predictor).items()}
        counts = {f"data/{name}": n for name, n in {**dataset.counts, **shared, **cropped}.items()}
        tracked.metrics({**sizes, **counts}, 0)
        tracked.dataset(self.task.name, dataset.digest, dataset.source, dataset.counts)

    def _fine_tune(
        self, predictor: Predictor, dataset: DataSet, device: Device, folder: Path, tracked: Run, console: Console
    ) -> FineTuned:
        (folder / "config.yaml").write_text(yaml.safe_dump(scrub(self.config), sort_keys=False))
        tracked.artifact(folder / "config.yaml")
        encoded = {
            split: EncodedSplit(records, self.model.tokenizer, self.task.kind)
            for split, records in dataset.splits.items()
        }
        data = PackedData(
            encoded,
            batch_size=self.batch_size,
            tokens_per_batch=self.hardware.tokens_per_batch,
            seed=self.seed,
            optim=self.optim,
        )
        return fine_tune(
            predictor,
            data,
            optim=self.optim,
            device=device,
            metering=make_metering(
                self.model, self.tuning, self.task.head, self.task.outputs, device, self.hardware.usd_per_hour
            ),
            score=lambda found: score(self.task, dataset.splits["valid"], found, seed=self.seed, intervals=False),
            monitor=self.task.primary_metric,
            folder=folder / "checkpoints",
            log=tracked.metrics,
            console=console,
        )

    def _record(
        self, predictor: Predictor, dataset: DataSet, located: Located, result: FineTuned, folder: Path, tracked: Run
    ) -> Outcome:
        test = dataset.splits["test"]
        cost, notes = named_costs(result.costs)
        metrics = {
            **{f"data/{split}": float(n) for split, n in dataset.counts.items()},
            **{f"model/parameters_{name}": float(n) for name, n in parameter_counts(predictor).items()},
            **metrics_of_test(self.task, test, result.predictions, self.seed),
            **baseline_metrics(self.task, dataset.splits["train"], test, self.seed),
            "best_step": float(result.best_step),
            "steps": float(result.steps),
        }
        outcome = Outcome(metrics, cost, notes)
        step = result.steps
        tracked.metrics({**metrics, **cost}, step)
        tracked.tags({"energy_source": result.costs["fit"].energy_source})
        self._save_files(predictor, located, result, test, metrics, folder, tracked)
        about = {
            "run_id": tracked.id,
            "run_name": folder.name,
            "model": self.model.name,
            "task": self.task.name,
            "tuning": self.tuning.name,
            "weights": located.source,
            "seed": self.seed,
            "subset": dataset.subset,
            "stopped_early": result.stopped_early,
            "data_digest": dataset.digest,
            "energy_source": result.costs["fit"].energy_source,
        }
        write_summary(folder / "summary.json", about, outcome)
        tracked.artifact(folder / "summary.json")
        return outcome

    def _save_files(
        self,
        predictor: Predictor,
        located: Located,
        result: FineTuned,
        test: tuple[Record, ...],
        metrics: dict[str, float],
        folder: Path,
        tracked: Run,
    ) -> None:
        write_predictions(folder / "predictions.parquet", self.task, test, result.predictions)
        tracked.artifact(folder / "predictions.parquet")
        for name, figure in figures(self.task, test, result, metrics):
            tracked.figure(figure, name)
        description = Description(
            self.model, self.tuning, self.task.head, self.task.name, self.task.kind, self.task.classes, self.task.unit
        )
        save(predictor.to("cpu"), description, located, folder / "model")
        tracked.model(folder / "model", [record.sequence for record in test[:2]], self.task.kind)


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
