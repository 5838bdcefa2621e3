"""A language model scored as it is: variants by likelihood, sequences by perplexity. It has one phase, the test."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from plmft.data.records import DataSet, Record
from plmft.efficiency.phase import PhaseMeter
from plmft.models.head_spec import Perplexity
from plmft.models.masked_lm import build_masked_lm
from plmft.models.precision import autocast
from plmft.models.predictor import parameter_counts
from plmft.models.weights import Located
from plmft.models.zero_shot import LikelihoodReader, marginals, masked_log_likelihoods, residue_log_likelihoods
from plmft.training.hardware import Device
from plmft.training.phases import Phases
from plmft.training.result import Result
from plmft.training.watching import Log

if TYPE_CHECKING:
    from plmft.training.job import Job


class ZeroShotLearner:
    """Learns nothing; there is no model to save.

    Raises: InputError: the model is no language model, or its checkpoint lacks the head.
    """

    predictor = None

    def __init__(self, job: "Job", located: Located, dataset: DataSet, device: Device) -> None:
        self._job, self._dataset, self._device = job, dataset, device
        self._model = build_masked_lm(job.model, located).requires_grad_(False).to(device.torch_type)
        self.parameters = parameter_counts(self._model)

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Score the test splits. A step of the meter is a pass of the model."""
        job = self._job
        usd = job.hardware.usd_per_hour
        phases = Phases(lambda: PhaseMeter(self._device.torch_type, usd_per_hour=usd), console)
        predictions = {}
        with phases.phase("test"), autocast(self._device.precision, self._device.torch_type):
            reader = LikelihoodReader(
                self._model,
                job.model.tokenizer,
                job.model.context,
                job.hardware.tokens_per_batch,
                tell=phases.passed,
            )
            for split, records in self._dataset.tests.items():
                if isinstance(job.task.head, Perplexity):
                    predictions[split] = list(self._perplexities(reader, records, phases))
                else:
                    predictions[split] = self._variants(reader, records, phases)
        return Result(predictions, None, phases.costs)

    def _variants(self, reader: LikelihoodReader, records: Sequence[Record], phases: Phases) -> list[np.ndarray]:
        method = self._job.task.head.method
        wild_type = records[0].partner
        if method == "pseudo_log_likelihood":
            before = np.nansum(residue_log_likelihoods(reader, wild_type))
            told = phases.saying("variants", records)
            return [np.nansum(residue_log_likelihoods(reader, r.sequence)) - before for r in told]
        mutants = [r.sequence for r in records]
        return list(marginals(reader, wild_type, mutants, masked=method == "masked_marginals"))

    def _perplexities(
        self, reader: LikelihoodReader, records: Sequence[Record], phases: Phases
    ) -> Iterator[np.ndarray]:
        head, seed = self._job.task.head, self._job.seed
        for number, record in enumerate(phases.saying("sequences", records)):
            if head.method == "pseudo":
                yield residue_log_likelihoods(reader, record.sequence)
            else:
                yield masked_log_likelihoods(reader, record.sequence, head.share, np.random.default_rng([seed, number]))
