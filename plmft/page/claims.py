"""What the review claims, each figure beside ours: the same model and quantity, and which conditions differ.

claims.csv holds the 604 figures of the 55 tables of a review of protein language models as facts, with the conditions
that it states. The review says of itself that it synthesises its tables from other publications, without sources for
the single figures; so a claim is something to test, never a target. A ratio is the claim divided by ours.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from plmft.page.figures import figure
from plmft.page.runs import Benchmark, Found, Row, Scored

TABLE = Path(__file__).with_name("claims.csv")
NAMES = {"esm1b_650m": "esm1b"}  # the claims' slug to conf/model's name, where they differ
TASKS = {  # the claims' task to ours; what is not here has no task of the same data
    "fluorescence": "fluorescence",
    "stability": "stability",
    "fold_classification": "homology",
    "remote_homology": "homology",
    "secondary_structure": "secondary_structure",
    "contact_prediction": "contacts",
    "subcellular_localization": "localization",
    "thermostability": "thermostability",
    "binding_site": "binding",
    "dms_mutation_effect": "mutation_effects",
    "mlm_perplexity": "perplexity",
}
METRICS = {"q3": "accuracy"}  # the claims' metric to ours, where the name differs
PHASES = ("inference", "training")
TRAINS = ("training", "fine_tuned")  # modes of claims that a run of full tuning stands beside
MODES = {"zero_shot": ("none",), "frozen": ("frozen",), "fine_tuned": ("full", "lora", "dora", "last_layers", "bias")}
JOULES_IN_KWH = 3.6e6
TUNED_ON = 50_000  # sequences, once: what the claims' hours are for
UNITS = {"billion": 1e-9, "million": 1e-6}  # of parameters
PERCENT = 100.0


@dataclass(frozen=True)
class Claim:
    """One figure of the review.

    Args: value: in `unit`; qualifier: ~ < > + as written. batch, length: None where the table does not state them.
    """

    table: str
    model: str
    task: str
    metric: str
    value: float
    qualifier: str
    unit: str
    hardware: str
    batch: float | None
    length: float | None
    precision: str
    mode: str
    note: str

    @property
    def text(self) -> str:
        """As the page writes it."""
        unit = "" if self.unit in ("rho", "fraction") else self.unit
        sign = self.qualifier if self.qualifier != "+" else ""
        return f"{sign}{figure(self.value)}{self.qualifier if self.qualifier == '+' else ''} {unit}".strip()

    @property
    def conditions(self) -> str:
        """As stated; what is not stated is not there."""
        sizes = [f"{name} {value:g}" for name, value in (("batch", self.batch), ("L", self.length)) if value]
        return ", ".join(filter(None, [self.hardware, *sizes, self.precision, self.mode]))


@dataclass(frozen=True)
class Ours:
    """A figure of ours in the claim's unit, its run, its conditions, and in what they differ from the claim's."""

    value: float
    run: str
    conditions: str
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Beside:
    """A claim and the nearest figure of ours; None: none of the same model and quantity."""

    claim: Claim
    ours: Ours | None

    @property
    def ratio(self) -> float | None:
        """Claim divided by ours."""
        return self.claim.value / self.ours.value if self.ours and self.ours.value else None


@cache
def load() -> tuple[Claim, ...]:
    """All claims."""
    with TABLE.open(newline="", encoding="utf-8") as handle:
        return tuple(_claim(line) for line in csv.DictReader(handle))


def _claim(line: dict[str, str]) -> Claim:
    numbers = {name: float(text) if (text := line.pop(name)) else None for name in ("value", "batch", "length")}
    return Claim(**line, **numbers)


def _column(name: str, factor: float = 1.0) -> Callable[[Row], float | None]:
    return lambda row: row[name] * factor if isinstance(row.get(name), float) else None


def _ms_per_sequence(row: Row) -> float | None:
    rate = row.get("sequences_per_s")
    if isinstance(rate, float) and rate > 0:
        return 1000 / rate
    time, batch = row.get("step_time_ms_p50"), row.get("batch", 1.0)
    return time / batch if isinstance(time, float) and isinstance(batch, float) else None


def _memory(row: Row) -> float | None:
    """Of an accelerator; of a CPU what the process holds above its libraries."""
    value = row.get("peak_memory_gb", row.get("peak_above_libraries_gb"))
    return value if isinstance(value, float) else None


def hours_of_tuning(row: Row) -> float | None:
    """On TUNED_ON sequences, once. The projection grows with both, but for a frozen backbone, which reads each once."""
    hours, sequences, epochs = (row.get(name) for name in ("hours_projected", "for_sequences", "for_epochs"))
    known = all(isinstance(value, float) and value > 0 for value in (hours, sequences, epochs))
    return hours / sequences / epochs * TUNED_ON if known and row.get("tuning") != "frozen" else None


def _rate(row: Row) -> float | None:
    time = _ms_per_sequence(row)
    return 1000 / time if time else None


FACTS = ("parameters", "embedding_dim", "vocab_size", "context_length", "model_size_gb")  # of a checkpoint
PROJECTED = ("train_steps_per_day", "finetune_hours")
INFERENCE = ("latency", "throughput")
# The claims' metric to the protocols that measure it, and how a row gives it in the claims' unit.
QUANTITIES: dict[str, tuple[tuple[str, ...], Callable[[Row], float | None]]] = {
    "inference_seqs_per_s": (INFERENCE, _rate),
    "inference_ms_per_seq": (INFERENCE, _ms_per_sequence),
    "inference_s_per_1k_seqs": (INFERENCE, _ms_per_sequence),
    "inference_s_per_seq": (INFERENCE, lambda row: (t := _ms_per_sequence(row)) and t / 1000),
    "train_tokens_per_s": (("training", "scaling"), _column("residues_per_s")),
    "train_steps_per_day": (("training",), _column("steps_per_day_projected", 1e-3)),
    "finetune_hours": (("training",), hours_of_tuning),
    "loader_samples_per_s": (("loading",), _column("sequences_per_s")),
    "scaling_efficiency": (("scaling",), _column("efficiency", PERCENT)),
    "energy_kwh_per_1k": (("energy",), _column("energy_j_per_1k_sequences", 1 / JOULES_IN_KWH)),
    "usd_per_1m_seqs": (("cloud",), _column("usd_per_1m_sequences")),
    "usd_per_1m_residues": (("cloud",), _column("usd_per_1m_residues")),
    "peak_memory_gb": (("memory",), _memory),
    "model_size_gb": (("identity",), _column("file_bytes", 1e-9)),
    "parameters": (("identity",), _column("parameters")),
    "embedding_dim": (("identity",), _column("width")),
    "vocab_size": (("identity",), _column("vocabulary")),
    "context_length": (("identity",), _column("positions")),
}


def beside(found: Found) -> list[Beside]:
    """Each claim with the nearest figure of ours."""
    return [Beside(claim, nearest(claim, found)) for claim in load()]


def nearest(claim: Claim, found: Found) -> Ours | None:
    """The figure whose conditions differ least; of several, the newest."""
    pairs = list(_accuracies(claim, found.scored) if claim.task in TASKS else _costs(claim, found.benchmarks))
    return min(reversed(pairs), key=lambda ours: len(ours.differs), default=None)


def _accuracies(claim: Claim, runs: Sequence[Scored]) -> Iterator[Ours]:
    """Of pretrained models alone: the claims are of such."""
    name, metric = NAMES.get(claim.model, claim.model), METRICS.get(claim.metric, claim.metric)
    for run in runs:
        value = run.metrics.get(f"test/{metric}")
        baseline = name.startswith("onehot")
        if run.task != TASKS[claim.task] or run.model != name or value is None or (run.is_random and not baseline):
            continue
        if claim.mode in MODES and run.tuning not in MODES[claim.mode]:
            continue
        differs = ("a part of the records",) if run.subset else ()
        factor = PERCENT if claim.unit == "percent" else 1.0
        count = run.metrics.get("data/test")
        conditions = run.tuning if count is None else f"{run.tuning}, test n {count:,.0f}"
        yield Ours(value * factor, run.run_id, conditions, differs)


def _costs(claim: Claim, benchmarks: Sequence[Benchmark]) -> Iterator[Ours]:
    if claim.metric not in QUANTITIES or claim.task:
        return
    protocols, read = QUANTITIES[claim.metric]
    name = NAMES.get(claim.model, claim.model)
    for run in benchmarks:
        for row in run.rows if run.protocol in protocols else ():
            value = read(row)
            if value is not None and row.get("model", run.model) == name and _same_phase(claim, row):
                value *= UNITS.get(claim.unit, 1.0)
                yield Ours(value, run.run_id, conditions_of(row), tuple(_differs(claim, row)))


def _same_phase(claim: Claim, row: Row) -> bool:
    """Inference beside inference; training beside training, of all weights."""
    mode = row.get("mode")
    if claim.mode in TRAINS:
        return mode != "inference" and row.get("tuning", "full") == "full"
    return mode not in PHASES or claim.mode not in PHASES or mode == claim.mode


def conditions_of(row: Row) -> str:
    """The conditions of a row as text."""
    words = (("devices", "devices"), ("batch", "batch"), ("length", "L"))
    sizes = [f"{word} {row[name]:g}" for name, word in words if _is(row, name)]
    return ", ".join([*(str(row[n]) for n in ("device",) if row.get(n)), *sizes, *_texts(row)])


def _texts(row: Row) -> list[str]:
    names = ("precision", "implementation", "mode", "tuning", "stage", "loader", "variant", "rung")
    return [str(row[name]) for name in names if row.get(name) not in (None, "", "none")]


def _is(row: Row, name: str) -> bool:
    return isinstance(row.get(name), float)


def _differs(claim: Claim, row: Row) -> Iterator[str]:
    """What the claim states and the row has otherwise; then what the claim does not state."""
    if claim.metric in FACTS:
        if str(row.get("weights", "")).startswith("random"):
            yield "no checkpoint was read: sizes as its card has them"
        return
    if claim.metric in PROJECTED:
        yield "ours is projected from the step time" + (", for one epoch" if claim.metric == "finetune_hours" else "")
    if "peak_above_libraries_gb" in row and "peak_memory_gb" not in row and claim.metric == "peak_memory_gb":
        yield "host memory, not an accelerator's"
    elif not claim.hardware:
        yield "device not stated"
    elif not same_device(claim.hardware, str(row.get("device", ""))):
        yield "device"
    for name, stated in (("batch", claim.batch), ("length", claim.length)):
        if stated is None:
            yield f"{name} not stated"
        elif row.get(name) != stated:
            yield name
    if claim.precision and claim.precision != row.get("precision"):
        yield "precision"


def same_device(stated: str, device: str) -> bool:
    """Whether the card that a claim names is the one that a run names: `rtx_a6000-48gb` is in `NVIDIA RTX A6000`."""
    card = re.search(r"a6000|a100|v100|h100|h200|a10g|t4|l40s|l4|4090|3090", stated.lower())
    return bool(card and card.group() in device.lower())
