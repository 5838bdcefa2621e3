"""How a run learns: by gradient steps, in closed form, or not at all. Each way ends in a Result."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from plmft import InputError
from plmft.data.records import DataSet
from plmft.models.direct_spec import DirectSpec
from plmft.models.head_spec import AttentionRegression, Perplexity, VariantScores
from plmft.models.predictor import Predictor
from plmft.models.weights import Located
from plmft.training.attention import AttentionLearner
from plmft.training.direct import DirectLearner
from plmft.training.gradient_steps import GradientSteps
from plmft.training.hardware import Device
from plmft.training.result import Result
from plmft.training.watching import Log
from plmft.training.zero_shot import ZeroShotLearner

if TYPE_CHECKING:
    from plmft.training.job import Job


class Learner(Protocol):
    """A way to learn, ready to start.

    Args:
        parameters: numbers of weights, `total` and `trainable`.
        predictor: what is saved as the tuned model; None: there is nothing to save.
    """

    parameters: dict[str, int]
    predictor: Predictor | None

    def learn(self, folder: Path, log: Log, console: Console) -> Result:
        """Learn and predict the test splits."""
        ...


def make_learner(job: "Job", located: Located, dataset: DataSet, device: Device) -> Learner:
    """The way to learn that model, tuning and task ask for.

    Raises: InputError: the parts don't fit one another.
    """
    if isinstance(job.model, DirectSpec):
        return DirectLearner(job, dataset)
    untrained = isinstance(job.task.head, VariantScores | Perplexity)
    if untrained and job.tuning.name != "none":
        raise InputError(f"tuning={job.tuning.name}: {job.task.name} scores the model as it is. Set tuning=none.")
    if job.tuning.name == "none" and not untrained:
        raise InputError(f"tuning=none: {job.task.name} needs a head that learns. Set frozen, lora or full.")
    if untrained:
        return ZeroShotLearner(job, located, dataset, device)
    if isinstance(job.task.head, AttentionRegression):
        return AttentionLearner(job, located, dataset, device)
    return GradientSteps(job, located, dataset, device)
