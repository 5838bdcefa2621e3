"""P-USD: USD = hours x price. Measured on this machine; on others projected from their data sheets, and named so.

A projection takes the model's FLOPs, the card's published peak, and the share of a peak that was measured here, where
here is a GPU; from a CPU's share nothing can be told, and the planner's assumption takes its place. The prices are
inputs, with date and source. What reviews printed is checked against itself: rate x hours = total, and so on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from plmft.bench.energy import tokens_per_batch
from plmft.bench.predicting import WARMUP_PASSES, meter_passes, packed_batches
from plmft.bench.protocol import Bench, Row

MILLION = 1e6
HOUR_S = 3600.0
AGREES = 0.02  # figures that differ by less are the same, rounded
Positive = Annotated[float, Gt(0)]


@dataclass(frozen=True)
class Price:
    """What one accelerator of a machine costs.

    Args:
        machine: provider and name. card: its accelerator, by the names of plmft.efficiency.flops.CARDS; null: one that
            is not there. usd_per_hour: of the machine over its accelerators. date: of the price. source: who told it.
    """

    machine: str
    usd_per_hour: Positive
    date: str
    source: str
    card: str | None = None


@dataclass(frozen=True)
class Claim:
    """A printed line of costs; what it leaves out is None.

    Args:
        source: where it is printed. hours, usd_total: for `sequences`. tokens_per_s: or residues, and so their price.
    """

    source: str
    sequences: Positive | None = None
    usd_per_hour: Positive | None = None
    hours: Positive | None = None
    usd_total: Positive | None = None
    sequences_per_s: Positive | None = None
    usd_per_1m_sequences: Positive | None = None
    tokens_per_s: Positive | None = None
    usd_per_1m_tokens: Positive | None = None


@dataclass(frozen=True)
class Cloud:
    """Options of the protocol.

    Args:
        prices: by a short name. claims: lines to check, by a short name.
        sequences: proteins of real lengths that a pass goes over; passes are repeated for `seconds`.
        tokens: of a batch; None: hardware.tokens_per_batch, 16,384 where that is auto.
    """

    prices: dict[str, Any]  # Price; each is checked by its own _target_
    claims: dict[str, Any]  # Claim
    sequences: Annotated[int, Gt(0)]
    seconds: Positive
    tokens: Annotated[int, Gt(0)] | None

    uses: ClassVar[tuple[str, ...]] = ("data",)
    shows: ClassVar[tuple[str, ...]] = (
        "sequences_per_s",
        "sequences_per_s_projected",
        "usd_per_hour",
        "usd_per_1m_sequences",
        "usd_per_1m_sequences_projected",
        "usd_per_1m_residues",
        "usd_per_1m_residues_projected",
        "usd_total_ratio",
        "usd_per_1m_sequences_ratio",
        "sequences_ratio",
        "usd_per_1m_tokens_ratio",
    )

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {
            "money": "hours x price of the whole machine, or its part with one accelerator",
            "batching": "sorted by length, packed, no padding",
            "warmup_passes": WARMUP_PASSES,
            "projection": "published dense peak x utilisation / model FLOPs",
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        """This machine, then a row for each price, then one for each printed claim."""
        sequences = bench.sequences(self.sequences)
        batches = packed_batches(bench, sequences, tokens_per_batch(bench, self.tokens))
        cost = meter_passes(bench, batches, self.seconds, usd_per_hour=bench.usd_per_hour)
        about = {"sequences": self.sequences, "lengths": bench.source_of_sequences}
        yield bench.conditions(basis="measured", machine="this one") | about | _measured(bench, cost.values)
        flops_a_sequence, residues = _per_sequence(bench, sequences)
        for price in self.prices.values():
            row: Row = {"model": bench.spec.name, "weights": bench.weights, "device": price.card or "not known"}
            row |= {"precision": bench.device.precision, "basis": "projected", "machine": price.machine}
            row |= {**about, "price_date": price.date, "price_source": price.source}
            yield row | projected(bench, price, cost.values.get("mfu"), flops_a_sequence, residues)
        for claim in self.claims.values():
            yield {"basis": "printed", "machine": claim.source} | check_claim(claim)


def _measured(bench: Bench, values: Mapping[str, float]) -> Row:
    names = ("sequences_per_s", "residues_per_s", "wall_time_s", "mfu")
    row: Row = {name: values[name] for name in names if name in values}
    if bench.usd_per_hour is None:
        return row | {"note": "usd: no price per hour is set (hardware.usd_per_hour)"}
    return row | money(bench.usd_per_hour, values["sequences_per_s"], values["residues_per_s"])


def money(usd_per_hour: float, sequences_per_s: float, residues_per_s: float, suffix: str = "") -> Row:
    """Hours and USD of a million sequences, and USD of a million residues."""
    return {
        f"hours_per_1m_sequences{suffix}": MILLION / sequences_per_s / HOUR_S,
        "usd_per_hour": usd_per_hour,
        f"usd_per_1m_sequences{suffix}": price(usd_per_hour, sequences_per_s),
        f"usd_per_1m_residues{suffix}": price(usd_per_hour, residues_per_s),
    }


def _per_sequence(bench: Bench, sequences: list[str]) -> tuple[float, float]:
    """Mean FLOPs of a forward pass, and mean residues."""
    from plmft.training.run_flops import backbone_flops

    extra = len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)
    lengths = [len(sequence) + extra for sequence in sequences]
    return backbone_flops(bench.spec, lengths) / len(sequences), sum(map(len, sequences)) / len(sequences)


def projected(bench: Bench, price: Price, mfu: float | None, flops_a_sequence: float, residues: float) -> Row:
    """What one accelerator of the machine is projected to do, at its part of the price.

    Args: mfu: measured here. residues: mean of a sequence.
    """
    from plmft.efficiency.flops import CARDS, peak_flops
    from plmft.efficiency.plan_time import GPU_UTILISATION

    card = None if price.card is None else CARDS.get(price.card)
    if card is None:
        return {
            "usd_per_hour": price.usd_per_hour,
            "note": f"{price.card or price.machine}: no published peak is known to plmft",
        }
    arithmetic = bench.device.arithmetic
    peak = peak_flops(card.device_name, arithmetic) or peak_flops(card.device_name, "fp16")
    if peak is None:
        return {"usd_per_hour": price.usd_per_hour, "note": f"{price.card}: no published peak in {arithmetic}"}
    if bench.device.kind == "gpu" and mfu is not None:
        share, told = mfu, f"utilisation {mfu:.2f}, measured on {bench.device.name}"
    else:
        share, told = (
            GPU_UTILISATION,
            f"utilisation {GPU_UTILISATION}, assumed: none was measured on a GPU",
        )
    rate = peak.flops_per_s * share / flops_a_sequence
    row: Row = {"sequences_per_s_projected": rate, "residues_per_s_projected": rate * residues}
    return row | money(price.usd_per_hour, rate, rate * residues, "_projected") | {"note": f"{told}; {peak.source}"}


def check_claim(claim: Claim) -> Row:
    """What each printed figure should be by the others, and which agree."""
    row: Row = {}
    notes: list[str] = []

    def compare(name: str, printed: float | None, implied: float | None) -> None:
        if printed is None or implied is None:
            return
        row[f"{name}_printed"], row[f"{name}_implied"] = float(printed), float(implied)
        ratio = printed / implied
        row[f"{name}_ratio"] = float(ratio)
        agrees = abs(ratio - 1) <= AGREES
        notes.append(f"{name}: " + ("agrees" if agrees else f"printed {printed:g}, {implied:.4g} by the others"))

    rate, hours, total, count = claim.usd_per_hour, claim.hours, claim.usd_total, claim.sequences
    compare("usd_total", total, None if rate is None or hours is None else rate * hours)
    per_million = None if total is None or count is None else total / count * MILLION
    compare("usd_per_1m_sequences", claim.usd_per_1m_sequences, per_million)
    speed, tokens = claim.sequences_per_s, claim.tokens_per_s
    compare("sequences", count, None if speed is None or hours is None else speed * hours * HOUR_S)
    compare(
        "usd_per_1m_tokens", claim.usd_per_1m_tokens, None if rate is None or tokens is None else price(rate, tokens)
    )
    return row | {"note": "; ".join(notes) or "nothing to compare"}


def price(usd_per_hour: float, per_s: float) -> float:
    """USD of a million."""
    return MILLION / per_s / HOUR_S * usd_per_hour
