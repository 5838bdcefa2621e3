"""P-NRG and P-USD: joules and money from what was metered, and from nothing else."""

from dataclasses import replace

import pytest

from plmft.bench import energy
from plmft.bench.cloud import Claim, Price, check_claim, money, projected
from plmft.bench.energy import energy_row, idle_power_w
from plmft.bench.predicting import meter_passes, packed_batches
from plmft.efficiency.energy import Energy
from plmft.efficiency.phase import PhaseCost
from plmft.training.hardware import Device
from tests.unit.bench_parts import small_bench

SPEED = {"sequences_per_s": 10.0, "residues_per_s": 3000.0, "wall_time_s": 20.0}


def spent(joules: float, sequences: float = 200.0) -> PhaseCost:
    """What passes over so many sequences cost in 20 s."""
    return PhaseCost(SPEED | {"energy_j": joules, "energy_j_per_1k_sequences": joules / sequences * 1e3}, {}, "nvml:0")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"), "protocol=energy")


def test_idle_energy_is_taken_off_and_told_apart():
    row = energy_row(spent(2000.0), 30.0, 400.0)
    assert row["mean_power_w"] == 100.0
    assert row["net_energy_j"] == 2000.0 - 30.0 * 20.0
    assert row["energy_j_per_1k_sequences"] == pytest.approx(10_000)
    assert row["net_energy_j_per_1k_sequences"] == pytest.approx(7_000)
    assert row["energy_kwh_per_1k_sequences"] == pytest.approx(10_000 / 3.6e6)
    assert row["energy_j_per_residue"] == pytest.approx(2000 / 60_000)
    assert row["energy_source"] == "nvml:0"


def test_power_above_the_limit_is_no_measurement():
    row = energy_row(spent(870_000.0), 30.0, 400.0)
    assert "43500 W is above the limit of 400 W" in row["note"]
    assert not [name for name in row if "energy_j" in name or "kwh" in name]
    assert row["sequences_per_s"] == 10.0


def test_the_cards_limit_is_not_that_of_card_and_host_together():
    both = replace(spent(9_000.0), energy_source="nvml:0 + rapl:0 (RAPL counts the whole package, every process on it)")
    row = energy_row(both, 30.0, 400.0)
    assert row["mean_power_w"] == 450.0 and row["energy_j"] == 9_000.0
    assert "power_limit_w" not in row


def test_each_precision_is_computed_in_itself(bench, monkeypatch):
    """Resolving a device sets how PyTorch multiplies, for the whole process: the last one would hold for all."""
    resolved = []
    at = type(bench).at
    monkeypatch.setattr(type(bench), "at", lambda self, precision: resolved.append(precision) or at(self, precision))
    computed = []
    monkeypatch.setattr(
        energy, "meter_passes", lambda place, *_, **__: computed.append((place.device.precision, resolved[-1])) or
        PhaseCost(SPEED, {"energy_j": "no RAPL"}, "absent: no RAPL"),
    )  # fmt: skip
    list(replace(bench.parts["protocol"], sequences=2, precisions=("fp32", "bf16")).measure(bench))
    assert computed == [("fp32", "fp32"), ("bf16", "bf16")]


def test_without_a_counter_there_is_no_energy_and_a_reason():
    row = energy_row(PhaseCost(SPEED, {"energy_j": "no RAPL"}, "absent: no RAPL"), None, None)
    assert row == SPEED | {"note": "energy: absent: no RAPL"}


def test_a_phase_that_took_less_than_idling_has_no_net_energy():
    row = energy_row(spent(100.0), 30.0, None)
    assert "net_energy_j" not in row
    assert "less power than idling" in row["note"]


class Meter:
    def __init__(self, *energies: Energy) -> None:
        self.energies = list(energies)

    def begin(self, name: str) -> None:
        pass

    def end(self, name: str) -> Energy:
        return self.energies.pop(0)


def test_idle_power_is_the_mean_of_a_window():
    meter = Meter(Energy(None, "none", "too short", window_too_short=True), Energy(90.0, "nvml:0", None))
    assert idle_power_w(meter, 3.0, lambda s: None, iter([5.0, 8.0]).__next__) == 30.0


def test_where_nothing_measures_nobody_waits():
    def sleep(seconds):
        raise AssertionError("slept")

    assert idle_power_w(Meter(Energy(None, "none", "no RAPL")), 3.0, sleep) is None


def test_a_metered_machine_gives_joules_in_the_row(bench, monkeypatch):
    class Powered(Meter):
        def end(self, name):
            return Energy(50.0 if name != energy.IDLE else 0.001, "rapl", None)

    monkeypatch.setattr(energy, "make_meter", lambda bench: Powered())
    row = next(replace(bench.parts["protocol"], sequences=2, seconds=0.01, idle_s=0.01).measure(bench))
    assert row["energy_j"] == 50.0
    assert row["mean_power_w"] == pytest.approx(50.0 / row["wall_time_s"])
    assert row["net_energy_j"] < 50.0


def test_whole_passes_are_metered(bench):
    sequences = ["MKV" * 5, "MK", "ACDEFGH"]
    clock = iter([0.0, 0.0, 0.5, 1.0]).__next__
    cost = meter_passes(bench, packed_batches(bench, sequences, 20), 1.0, usd_per_hour=3.6, clock=clock)
    assert cost.values["usd"] == pytest.approx(cost.values["wall_time_s"] * 1e-3)
    assert cost.values["usd_per_1m_sequences"] == pytest.approx(cost.values["usd"] / 6 * 1e6)  # two passes over three


def test_hours_times_rate_is_the_total():
    row = money(1.212, 19.5, 6825.0)
    assert row["hours_per_1m_sequences"] * row["usd_per_hour"] == pytest.approx(row["usd_per_1m_sequences"])
    assert row["usd_per_1m_residues"] * 350 == pytest.approx(row["usd_per_1m_sequences"])


def test_printed_costs_are_checked_against_each_other():
    row = check_claim(Claim("t50", 1e6, 1.299, 7.5, 9.74, 44.2, 0.97))
    assert row["usd_total_ratio"] == pytest.approx(1.0, abs=0.001)
    assert row["usd_per_1m_sequences_ratio"] == pytest.approx(0.1, abs=0.001)
    assert row["sequences_ratio"] == pytest.approx(1 / 1.193, abs=0.001)
    assert "usd_total: agrees" in row["note"]
    assert "sequences: printed 1e+06, 1.193e+06 by the others" in row["note"]
    tokens = check_claim(Claim("t39", usd_per_hour=1.299, tokens_per_s=12_500, usd_per_1m_tokens=0.45))
    assert tokens["usd_per_1m_tokens_ratio"] == pytest.approx(15.6, abs=0.1)


def test_a_cpus_share_of_its_peak_is_not_taken_to_a_gpu(bench):
    price = Price("cloud", 1.0, "today", "us", card="H100")
    from_cpu = projected(bench, price, 0.9, 1e9, 100.0)
    on_gpu = replace(bench, device=Device("gpu", "bf16", "NVIDIA H200"))
    from_gpu = projected(on_gpu, price, 0.5, 1e9, 100.0)
    assert "0.35, assumed" in from_cpu["note"]
    assert "0.50, measured on NVIDIA H200" in from_gpu["note"]
    assert from_gpu["sequences_per_s_projected"] == pytest.approx(0.5 * 989e12 / 1e9)
    assert from_gpu["usd_per_hour"] == 1.0
    assert not {"sequences_per_s", "usd_per_1m_sequences"} & from_gpu.keys()


def test_a_card_without_a_data_sheet_is_not_projected(bench):
    row = projected(bench, Price("AWS g5.xlarge", 1.006, "today", "us"), 0.5, 1e9, 100.0)
    assert row == {"usd_per_hour": 1.006, "note": "AWS g5.xlarge: no published peak is known to plmft"}
