"""What several ranks cost together: each device and each residue counted once."""

import pytest

from plmft.efficiency.phase import PhaseCost
from plmft.efficiency.ranks import RankCost, join_ranks


def report(has_devices: bool = True, sequences: int = 100, source: str = "GPU", **values: float) -> RankCost:
    notes = {} if "energy_j" in values else {"energy_j": f"no counter of {source}"}
    return RankCost(PhaseCost(values, notes, source), sequences, has_devices)


def test_one_process_is_told_as_it_is() -> None:
    alone = report(residues_per_s=10.0)
    assert join_ranks([alone]) is alone.cost


def test_throughput_and_energy_are_sums_and_times_and_peaks_the_highest() -> None:
    joined = join_ranks(
        [
            report(
                source="gpu0", residues_per_s=100.0, energy_j=5.0, peak_memory_gb=2.0, wall_time_s=9.0, usd=1.0, mfu=0.4
            ),
            report(
                source="gpu1", residues_per_s=50.0, energy_j=7.0, peak_memory_gb=3.0, wall_time_s=8.0, usd=0.9, mfu=0.2
            ),
        ]
    )
    assert joined.values == pytest.approx(
        {
            "residues_per_s": 150.0,
            "energy_j": 12.0,
            "peak_memory_gb": 3.0,
            "wall_time_s": 9.0,
            "usd": 1.0,
            "mfu": 0.3,
            "energy_j_per_1k_sequences": 60.0,
            "usd_per_1m_sequences": 5000.0,
        }
    )
    assert joined.energy_source == "gpu0 + gpu1"


def test_a_rank_without_devices_of_its_own_adds_no_energy_and_hides_none() -> None:
    joined = join_ranks([report(source="package", energy_j=5.0), report(has_devices=False, source="none")])
    assert joined.values["energy_j"] == 5.0 and joined.energy_source == "package"


def test_energy_is_absent_where_a_device_is_not_measured() -> None:
    joined = join_ranks([report(source="gpu0", energy_j=5.0), report(source="gpu1")])
    assert "energy_j" not in joined.values and "energy_j_per_1k_sequences" not in joined.values
    assert joined.notes["energy_j"] == "no counter of gpu1"


def test_a_figure_that_one_rank_lacks_is_of_the_others() -> None:
    joined = join_ranks([report(residues_per_s=10.0, step_time_ms_p50=3.0), report()])
    assert joined.values["residues_per_s"] == 10.0 and joined.values["step_time_ms_p50"] == 3.0
