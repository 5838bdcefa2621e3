"""Baselines that are fitted without gradient steps, as a run: counts of the training split, and linear models.

They run on the CPU whatever the hardware. No tuned model is saved: fitting again takes seconds. Of the options of a
run, `optim`, `batch_size` and `task.head` have no effect on them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from plmft import InputError
from plmft.data.records import DataSet, Record
from plmft.efficiency.phase import PhaseCost, PhaseMeter
from plmft.efficiency.steps import StepMeter, WallClock
from plmft.metrics.baselines import baseline_predictions
from plmft.metrics.evaluate import LOWER_IS_BETTER
from plmft.models.direct_spec import OneHotLinearSpec
from plmft.models.linear_baseline import choose_features, fit_linear
from plmft.training.result import Result
from plmft.training.scoring import score
from plmft.training.watching import Log

if TYPE_CHECKING:
    from plmft.training.job import Job

Predict = Callable[[Sequence[Record]], list[np.ndarray]]


class DirectLearner:
    """Fits the model of a DirectSpec.

    Raises: InputError: the task has nothing to fit to, or the model is not offered for its kind.
    """

    predictor = None

    def __init__(self, job: "Job", dataset: DataSet) -> None:
        self._job, self._dataset, task = job, dataset, job.task
        if not dataset.splits["train"]:
            raise InputError(f"model={job.model.name}: {task.name} has no training split to fit it to. Choose another.")
        self.parameters = {"total": 0, "trainable": 0}  # frequencies are no weights
        if isinstance(job.model, OneHotLinearSpec):
            everything = [record for records in dataset.splits.values() for record in records]
            self._features = choose_features(task.kind, everything, dataset.splits["train"], job.model.window)
            count = (self._features.columns + 1) * task.outputs
            self.parameters = {"total": count, "trainable": count}

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Fit to the training split, and predict the others."""
        splits, tests, costs = self._dataset.splits, self._dataset.tests, {}
        with self._phase(costs, "fit", splits["train"]):
            predict, notes = self._fit()
        valid = predict(splits["valid"]) if splits["valid"] else None
        with self._phase(costs, "test", [record for records in tests.values() for record in records]):
            predictions = {split: predict(records) for split, records in tests.items()}
        return Result(predictions, valid, costs, notes=notes)

    def _fit(self) -> tuple[Predict, tuple[str, ...]]:
        job, train, valid = self._job, self._dataset.splits["train"], self._dataset.splits["valid"]
        task = job.task
        if not isinstance(job.model, OneHotLinearSpec):
            return lambda records: baseline_predictions(task.kind, train, records, len(task.classes)), ()
        fitted = fit_linear(
            task.kind,
            self._features,
            train,
            valid,
            len(task.classes),
            penalties=job.model.penalties,
            score=lambda found: self._score(valid, found),
            class_weights=job.loss.weights(task.kind, [record.target for record in train], task.outputs),
        )
        return fitted.predict, fitted.notes

    def _score(self, valid: Sequence[Record], predictions: list[np.ndarray]) -> float | None:
        task = self._job.task
        found = score(task, valid, predictions, seed=self._job.seed, intervals=False).get(task.primary_metric)
        return -found if found is not None and task.primary_metric in LOWER_IS_BETTER else found

    @contextmanager
    def _phase(self, costs: dict[str, PhaseCost], name: str, records: Sequence[Record]) -> Iterator[None]:
        """A phase whose one step is all that is done in it."""
        steps = StepMeter(WallClock(), warmup_steps=0)
        meter = PhaseMeter("cpu", usd_per_hour=self._job.hardware.usd_per_hour, steps=steps)
        meter.begin()
        steps.step_begin()
        yield
        residues = sum(len(sequence) for record in records for sequence in record.sequences)
        count = sum(len(record.sequences) for record in records)
        steps.step_end(residues=residues, sequences=count, tokens=residues)
        costs[name] = meter.end()
