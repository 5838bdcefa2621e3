"""What a phase cost on all its ranks together. Costs nothing: adds up their reports when the phase has ended."""

from collections.abc import Sequence
from dataclasses import dataclass

from plmft.efficiency.phase import PhaseCost

SUMMED = ("residues_per_s", "sequences_per_s", "model_flops", "energy_j")
MEAN = ("mfu",)  # each rank's is over the peak of its own device


@dataclass(frozen=True)
class RankCost:
    """One rank's report.

    Args:
        sequences: that it processed.
        has_devices: it counts the energy of devices that no other rank counts.
    """

    cost: PhaseCost
    sequences: int
    has_devices: bool


def join_ranks(reports: Sequence[RankCost]) -> PhaseCost:
    """One report of a phase for all ranks, in the order of ranks.

    Throughput, FLOPs and energy are added up; of times, shares, peaks of memory and the price of the machine, the
    highest is told. Energy is absent if it is on any rank that has devices to count. Notes are rank 0's.
    """
    if len(reports) == 1:
        return reports[0].cost
    counting = [report.cost for report in reports if report.has_devices]
    silent = [cost for cost in counting if "energy_j" not in cost.values]
    values: dict[str, float] = {}
    for name in dict.fromkeys(name for report in reports for name in report.cost.values):
        among = counting if name == "energy_j" else [report.cost for report in reports]
        found = [cost.values[name] for cost in among if name in cost.values]
        if name in SUMMED and found:
            values[name] = sum(found)
        elif found:
            values[name] = sum(found) / len(found) if name in MEAN else max(found)
    if silent:
        values.pop("energy_j", None)
    _set_ratios(values, sum(report.sequences for report in reports))
    first = silent[0] if silent else reports[0].cost
    notes = dict(reports[0].cost.notes)
    if silent and "energy_j" in first.notes:
        notes["energy_j"] = first.notes["energy_j"]
    sources = dict.fromkeys(cost.energy_source for cost in counting)
    return PhaseCost(values, notes, first.energy_source if silent else " + ".join(sources))


def _set_ratios(values: dict[str, float], sequences: int) -> None:
    for name, total, per in (
        ("energy_j_per_1k_sequences", "energy_j", 1e3),
        ("usd_per_1m_sequences", "usd", 1e6),
    ):
        values.pop(name, None)
        if total in values and sequences:
            values[name] = values[total] / sequences * per
