"""benchmarks.bulk: what it measures on, and how it sums up."""

import json
import subprocess
import sys

import pytest

from benchmarks import bulk
from benchmarks.bulk import CHUNK, Watch, _ratios, material
from benchmarks.material import Row
from benchmarks.workers import ROOT
from tests.conftest import AMINO_ACIDS


def test_sequences_are_all_different_and_as_long_as_the_real_ones(monkeypatch) -> None:
    rows = [Row(f"r{n}", AMINO_ACIDS * n, 0.0) for n in range(2, 12)]
    monkeypatch.setattr(bulk, "structures", lambda: (rows, "rows"))
    sequences, what = material(200)
    assert len(set(sequences)) == 200 and what == "rows; residues shuffled"
    assert {len(s) for s in sequences} == {len(row.sequence) for row in rows}
    assert all(sorted(s) == sorted(AMINO_ACIDS * (len(s) // 20)) for s in sequences)
    assert material(200)[0] == sequences != material(200, seed=1)[0]
    assert sorted(map(len, material(10)[0])) == [len(row.sequence) for row in rows]  # each once, if there are enough


def test_memory_is_told_by_quarter_of_the_work() -> None:
    watch = Watch()
    watch.done, watch.resident_gb = [0, CHUNK, 3 * CHUNK, 4 * CHUNK], [1.0, 2.0, 4.0, 3.0]
    assert watch.quarters(4 * CHUNK) == [1.0, 2.0, None, 4.0]


def test_ratios_are_of_one_round_each() -> None:
    def side(*seconds: float) -> list[dict]:
        return [{"seconds": s, "cpu_s": 2 * s, "residues": 100} for s in seconds]

    answers = {"bare": side(1.0, 10.0), "embed": side(2.0, 20.0), "fair-esm": [{"seconds": 8.0, "residues": 100}] * 2}
    found = _ratios(answers, "embed")
    assert found["embed_over_bare_wall"] == found["embed_over_bare_cpu"] == "0.50 (0.50 to 0.50)"
    assert found["embed_over_fair-esm_wall"] == "2.20 (0.40 to 4.00)"
    assert "embed_over_fair-esm_cpu" not in found and found["fair-esm_residues_per_s"] == 12.5


@pytest.mark.slow
@pytest.mark.parametrize("command", ["embed", "predict"])
def test_a_job_beside_its_bare_model(command) -> None:
    words = ["speed", "--command", command, "--model", "esm2_tiny", "--sequences", "20", "--rounds", "1", "--alone"]
    ran = [sys.executable, "-m", "benchmarks.bulk", *words, "--threads", "1"]
    found = json.loads(subprocess.run(ran, capture_output=True, cwd=ROOT, timeout=110, check=True).stdout)
    assert found["sequences"] == 20 and found["residues"] > 20
    assert found["bare_residues_per_s"] > 0 < found[f"{command}_residues_per_s"]
    assert f"{command}_over_bare_wall" in found
