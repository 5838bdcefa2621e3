"""What a run took, by axis. Frozen tuning takes two phases: the backbone's pass over the sequences, and the fit.

A run that read vectors which an earlier run had computed did not pay for them: its time, memory, energy and money are
not those of its configuration, and count as not measured.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from plmft.page.runs import EVALUATION, Scored

EMBED = "cost/embed/"


@dataclass(frozen=True)
class Cost:
    """One axis of cost. read: its value of a run, None where it was not measured. more_is_better: of a rate."""

    key: str
    label: str
    unit: str
    read: Callable[[Scored], float | None]
    more_is_better: bool = False


def reads_cache(run: Scored) -> bool:
    """Whether some of its vectors were computed by an earlier run."""
    computed, wanted = run.costs.get(f"{EMBED}sequences_computed"), run.costs.get(f"{EMBED}sequences")
    return computed is not None and wanted is not None and computed < wanted


def _of_training(name: str, joined: Callable[[Iterable[float]], float] = sum) -> Callable[[Scored], float | None]:
    """Of both phases; None where a phase that was made has no such figure."""

    def read(run: Scored) -> float | None:
        embeds = any(key.startswith(EMBED) for key in run.costs)
        found = [run.costs.get(f"{phase}{name}") for phase in ("cost/", *([EMBED] if embeds else []))]
        return None if reads_cache(run) or None in found else joined(found)

    return read


def _training_time(run: Scored) -> float | None:
    """0 where nothing was trained; None of an evaluation of a model whose training isn't known."""
    if run.kind != "training" and run.trained is None:
        return None
    return _of_training("wall_time_s")(run) if run.metrics.get("data/train") else 0.0


def _scoring_time(run: Scored) -> float | None:
    """None of a run that scored kept vectors: its head's pass alone was timed."""
    kept = run.kind != EVALUATION and f"{EMBED}cache_gb" in run.costs
    return None if kept else run.costs.get("cost/test/wall_time_s")


def _named(name: str, of: str = "costs") -> Callable[[Scored], float | None]:
    return lambda run: getattr(run, of).get(name)


COSTS = (
    Cost("train_s", "training time", "s", _training_time),
    Cost("step_ms", "step time p50", "ms", _named("cost/step_time_ms_p50")),
    Cost("gpu_gb", "peak memory, accelerator", "GB", _of_training("peak_memory_gb", max)),
    Cost("host_gb", "peak memory, host", "GB", _of_training("peak_host_memory_gb", max)),
    Cost("energy_j", "energy of training", "J", _of_training("energy_j")),
    Cost("usd", "price of training", "USD", _of_training("usd")),
    Cost("score_s", "scoring of the test set", "s", _scoring_time),
    Cost("trainable", "trained parameters", "", _named("model/parameters_trainable", "metrics")),
    Cost("train_n", "training records", "", _named("data/train", "metrics")),
)
BY_KEY = {cost.key: cost for cost in COSTS}
