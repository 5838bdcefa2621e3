"""The latency protocol: which cells, what it tells of each, and that the rivals compute the same."""

import dataclasses

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.bench.forward import forward_of
from plmft.bench.latency import Latency, beside
from plmft.bench.material import encoded, fixed_sequences
from plmft.efficiency.flops import Peak
from plmft.training.run_flops import backbone_flops
from tests.unit.bench_parts import small_bench
from tests.unit.small_models import small

QUICK = Latency(
    lengths=(8, 12),
    batches=(1, 2),
    precisions=("fp32",),
    implementations=("packed", "sdpa"),
    beside=None,
    blocks=1,
    block_s=0.001,
    least_calls=1,
    most_s=10.0,
    warmup_s=0.001,
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def peak(monkeypatch):
    """A measured product takes 0.3 s."""
    monkeypatch.setattr("plmft.efficiency.flops.find_peak", lambda *_: Peak(1e15, "typed"))


def test_every_cell_is_a_row_with_its_rates(bench):
    rows = list(QUICK.measure(bench))
    cells = [(row["length"], row["batch"], row["implementation"]) for row in rows]
    assert cells == [(n, b, way) for n in (8, 12) for b in (1, 2) for way in ("packed", "sdpa")]
    for row in rows:
        batch, length = row["batch"], row["length"]
        seconds = row.get("step_time_ms_p50", row["step_time_ms_mean"]) / 1e3
        assert row["tokens"] == batch * (length + 2)
        assert row["sequences_per_s"] == pytest.approx(batch / seconds)
        assert row["residues_per_s"] == pytest.approx(batch * length / seconds)
        assert row["model_flops"] == backbone_flops(bench.spec, [length + 2] * batch)
        assert row["mfu"] == pytest.approx(row["model_flops"] / seconds / 1e15)
        assert row["tokenize_ms_p50"] > 0
        assert "transfer_ms_p50" not in row  # the model computes where the tokens are
    assert {row["attention"] for row in rows} == {"matmul by sequence", "transformers sdpa"}


@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("second", ["LMNPQ", "LMNPQRSTV"])
def test_transformers_own_pass_gives_the_same_vectors(bench, way, second):
    backbone = bench.backbone()
    batch = encoded(bench.spec, ["ACDEFGHIK", second]).pack(np.arange(2))
    packed = forward_of(bench, backbone, "packed", "fp32")(batch)
    padded = forward_of(bench, backbone, way, "fp32")(batch)
    mask = batch.padded()[1]
    torch.testing.assert_close(padded[mask], packed, rtol=1e-4, atol=1e-4)


def test_what_the_device_lacks_is_a_row_with_the_reason(bench):
    rows = list(dataclasses.replace(QUICK, precisions=("fp16",)).measure(bench))
    assert [set(row) - {"note"} for row in rows] == [
        {"model", "weights", "device", "threads", "precision", "implementation"}
    ] * 2
    assert all("needs a GPU" in row["note"] for row in rows)


def test_more_than_the_position_table_has_is_a_row_with_the_reason(bench):
    protocol = dataclasses.replace(QUICK, lengths=(20, 8), batches=(1,), implementations=("packed",))
    short = dataclasses.replace(bench, spec=small("esm1b", init="random", context=10))
    rows = list(protocol.measure(short))
    assert rows[0]["note"] == "small takes at most 10 residues"
    assert "step_time_ms_mean" in rows[1]


def test_a_step_faster_than_the_peak_is_told(bench, monkeypatch):
    monkeypatch.setattr("plmft.efficiency.flops.find_peak", lambda *_: Peak(1.0, "too low"))
    (row, *_) = QUICK.measure(bench)
    assert "faster than the device's peak (too low)" in row["note"]


def test_beside_gives_both_models_and_their_ratio(bench):
    protocol = dataclasses.replace(
        QUICK, lengths=(64,), batches=(1,), implementations=("packed",), beside="esm2_8m", blocks=3
    )
    first, second = protocol.measure(bench)
    assert (first["model"], second["model"]) == ("esm2_tiny", "esm2_8m")
    assert first["beside"] == "esm2_8m"
    assert first["speed_over_beside_low"] <= first["speed_over_beside"] <= first["speed_over_beside_high"]
    assert first["speed_over_beside"] > 1  # 8 million weights against some 100,000
    assert "speed_over_beside" not in second


def test_beside_what_has_no_backbone(bench):
    with pytest.raises(InputError, match=r"protocol\.beside=majority: it has no backbone"):
        beside(bench, "majority")
    with pytest.raises(InputError, match=r"^protocol\.beside=esm3: there is no such model"):
        beside(bench, "esm3")


def test_sequences_of_a_cell_are_those_of_the_seed():
    assert fixed_sequences(2, 5, 0) == fixed_sequences(2, 5, 0) != fixed_sequences(2, 5, 1)
