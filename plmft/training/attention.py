"""Contacts by regression on attention maps, as a run: fit to a few proteins, no training."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from plmft import InputError
from plmft.data.records import DataSet, Record
from plmft.efficiency.phase import PhaseMeter
from plmft.models.attention_regression import ContactRegression, corrected_maps, fit_contact_regression
from plmft.models.build import build_backbone
from plmft.models.spec import TransformerSpec
from plmft.models.tensors import write_tensors
from plmft.models.weights import Located
from plmft.training.hardware import Device
from plmft.training.phases import Phases
from plmft.training.result import Result
from plmft.training.watching import Log

if TYPE_CHECKING:
    from plmft.training.job import Job


class AttentionLearner:
    """Keeps the weights of the maps in attention_regression.safetensors; there is no tuned model to save.

    Raises: InputError: the model has no attention, or the backbone was to be tuned.
    """

    predictor = None

    def __init__(self, job: "Job", located: Located, dataset: DataSet, device: Device) -> None:
        if not isinstance(job.model, TransformerSpec):
            raise InputError(f"model={job.model.name}: it has no attention maps. Choose a transformer.")
        if job.tuning.name != "frozen":
            raise InputError(f"tuning={job.tuning.name}: nothing of the backbone learns from its maps. Set frozen.")
        self._job, self._dataset, self._device = job, dataset, device
        self._backbone = build_backbone(job.model, located).eval().to(device.torch_type)
        maps = job.model.layers * job.model.heads
        total = sum(p.numel() for p in self._backbone.parameters())
        self.parameters = {"total": total + maps + 1, "trainable": maps + 1}

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Fit to `proteins` of the training split, drawn by the run's seed, and predict the others."""
        job, train = self._job, self._dataset.splits["train"]
        head, usd = job.task.head, job.hardware.usd_per_hour
        phases = Phases(lambda: PhaseMeter(self._device.torch_type, usd_per_hour=usd), console)
        drawn = np.random.default_rng(job.seed).permutation(len(train))[: head.proteins]
        chosen = [train[i] for i in drawn]
        with phases.phase("fit"):
            maps = [self._maps(record) for record in phases.each("fit", chosen)]
            fitted = fit_contact_regression(
                maps, [record.target for record in chosen], strength=head.strength, seed=job.seed
            )
        valid = [fitted.predict(self._maps(record)) for record in self._dataset.splits["valid"]]
        predictions = {}
        with phases.phase("test"):
            for split, records in self._dataset.tests.items():
                predictions[split] = [fitted.predict(self._maps(record)) for record in phases.each(split, records)]
        _save(fitted, folder / "attention_regression.safetensors")
        used = int((fitted.weights != 0).sum())
        note = (
            f"Logistic regression on {len(chosen)} proteins; {used} of {len(fitted.weights)} attention maps are used."
        )
        return Result(predictions, valid, phases.costs, notes=(note,))

    def _maps(self, record: Record) -> np.ndarray:
        return corrected_maps(self._backbone, record, self._job.model.tokenizer)


def _save(fitted: ContactRegression, file: Path) -> None:
    write_tensors({"weights": torch.tensor(fitted.weights), "intercept": torch.tensor([fitted.intercept])}, file)
