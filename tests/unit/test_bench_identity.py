"""P-ID, the ladder and the loaders: what they compute on is what they say."""

import itertools
from dataclasses import replace

import pytest
import torch

from plmft import InputError
from plmft.bench.identity import Identity, directions
from plmft.bench.kernels import LADDER, Kernels, figures, measure_rung, plan_of
from plmft.bench.loaders import Source
from plmft.bench.loading import cpu_seconds
from plmft.bench.loading import figures as loading_figures
from plmft.bench.predicting import packed_batches
from plmft.bench.rectangle import Rectangles
from plmft.models import kernels
from plmft.models.backbone import EsmBackbone
from plmft.models.weights import load, locate, save_network
from tests.unit.bench_parts import small_bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return small_bench(tmp_path_factory.mktemp("bench"), "protocol=loading")


def test_an_encoder_reads_in_both_directions_and_is_its_card(bench):
    (row,) = Identity(16).measure(bench)
    assert (row["bidirectional"], row["card"]) == ("true", "agrees")
    assert (row["parameters"], row["layers"], row["width"], row["vocabulary"]) == (102_208.0, 2.0, 64.0, 33.0)
    assert "positions" not in row  # ESM-2 has no table of them
    assert "file_bytes" not in row
    assert row["note"] == "no weights are published for this model"


def test_a_model_that_looks_back_alone_is_told(bench):
    class Causal(torch.nn.Module):
        def forward(self, batch):
            return batch.tokens.float().cumsum(0)[:, None]

    before, after = directions(bench, Causal(), 16)
    assert before == 0
    assert after > 0


def test_a_checkpoints_files_are_read(bench, tmp_path):
    torch.manual_seed(1)
    save_network(load(bench.spec, locate(bench.spec)), tmp_path)
    spec = replace(bench.spec, init="pretrained", path=str(tmp_path))
    (row,) = Identity(8).measure(replace(bench, spec=spec))
    assert row["file_bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert row["parameters_in_files"] >= row["parameters"]
    assert row["types_in_files"] == "float32"
    assert "note" not in row


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rectangles_compute_what_packed_layers_do(bench, attention):
    torch.manual_seed(0)
    network = load(bench.spec, locate(bench.spec)).eval()
    (batch,) = packed_batches(bench, ["MKVLAGERTY", "ACD", "WWWKK"], 100)
    with torch.inference_mode():
        padded = Rectangles(network, attention)(batch)
        torch.testing.assert_close(EsmBackbone(network)(batch), padded, rtol=1e-5, atol=1e-5)


def test_each_rung_keeps_what_the_one_below_has(bench):
    plans = [plan_of(rung, bench) for rung in LADDER]
    assert (plans[0].precision, plans[0].attention) == ("fp32", "eager")
    for lower, upper in itertools.pairwise(plans):
        assert upper.packed >= lower.packed
        assert upper.fused >= lower.fused
    assert plans[-1].checkpointing
    assert (plans[5].reason is None) == (kernels.find() is not None)  # a machine may have it built


@pytest.mark.parametrize("rung", ["sdpa", "checkpointing"])
def test_a_rung_trains_and_is_metered(bench, rung):
    row = measure_rung(bench, rung, 2, 12, 12, 1)
    assert row["step_time_ms_p50"] > 0
    assert row["padding_fraction"] == 0  # of one length


def test_padding_is_counted_where_it_is_computed(bench):
    real = measure_rung(bench, "sdpa", 3, "real", 60, 1)
    assert 0 <= real["padding_fraction"] < 1
    assert measure_rung(bench, "packed", 3, "real", 60, 1)["padding_fraction"] == 0


def test_rungs_are_compared_within_a_round():
    def timed(ms):
        return {"step_time_ms_p50": ms, "peak_host_memory_gb": 2.0}

    row = figures([timed(10.0), timed(50.0)], [timed(20.0), timed(100.0)])
    assert row["times_as_fast"] == 2.0
    assert row["of_the_memory"] == 1.0
    failed = figures([{"note": "out of memory: killed"}], [timed(1.0)])
    assert failed == {"note": "out of memory: killed"}


def test_the_ladder_is_of_transformers(tmp_path):
    bench = small_bench(tmp_path, "protocol=kernels", "model=onehot_cnn", "tuning=full")
    assert isinstance(bench.parts["protocol"], Kernels)
    with pytest.raises(InputError, match="the ladder is one of transformers"):
        next(bench.parts["protocol"].measure(bench))


@pytest.mark.parametrize("name", ["packed", "packed_bucketed", "padded", "padded_bucketed"])
def test_every_loader_gives_each_protein_once_an_epoch(bench, name):
    source = Source(bench, 30, 4)
    expected, found = sum(len(s) for s in bench.sequences(30)), []
    for batch in source.endless(name, 0):
        found.append(batch)
        if sum(b.sequences for b in found) >= 30:
            break
    assert sum(batch.sequences for batch in found) == 30
    assert sum(batch.residues for batch in found) == expected
    specials, padding = 2 * 30, sum(batch.padding for batch in found)
    assert sum(batch.tokens.numel() for batch in found) == expected + specials + padding
    assert (padding > 0) == name.startswith("padded")


def test_rates_of_processes_add_up():
    one = {"sequences": 10.0, "residues": 100.0, "tokens": 120.0, "padding": 12.0, "cpu_s": 1.0, "wall_s": 2.0}
    row = loading_figures([one, one])
    assert (row["sequences_per_s"], row["cpu_cores_busy"]) == (10.0, 1.0)
    assert row["cpu_s_per_1k_sequences"] == 100.0
    assert row["padding_fraction"] == pytest.approx(0.1)


def test_cpu_time_grows_with_work():
    before = cpu_seconds()
    while cpu_seconds() - before < 0.02:
        pass
    assert cpu_seconds() > before
