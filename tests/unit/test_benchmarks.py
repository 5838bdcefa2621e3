"""The comparison's own parts: what is timed, which batches the peer is given, what the page says."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report, serve, workers
from benchmarks.compare import Entry, Goal, Row, entry, faster, interleave
from benchmarks.material import Row as Protein
from benchmarks.material import in_steps, typical, write
from benchmarks.peers import ROWS
from plmft.data.packing import EncodedSplit
from plmft.data.records import AMINO_ACIDS, Record, build_dataset
from plmft.data.sampler import TrainingSteps
from plmft.models.tokenizer import ESM

ROOT = Path(__file__).parents[2]


def proteins(count: int, seed: int = 0) -> list[Protein]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 60, count)
    made = ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in lengths]
    return [Protein(f"p{i}", sequence, "H" * len(sequence)) for i, sequence in enumerate(made)]


def test_only_steps_after_the_warm_up_are_timed() -> None:
    found = serve.measured([10.0, 11.0, 13.0, 16.0], [5, 7, 11, 13], warmup=2)
    assert found == {"seconds": 5.0, "residues": 24, "step_s": [2.0, 3.0]}


@pytest.mark.parametrize("warmup", [0, 4])
def test_a_warm_up_that_leaves_nothing_to_time_is_refused(warmup: int) -> None:
    with pytest.raises(ValueError, match="of warm-up"):
        serve.measured([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1], warmup)


def test_the_peer_gets_the_batches_that_plmft_trains_on() -> None:
    """Against the loader itself: the same sequences in every optimizer step."""
    rows = proteins(21)
    records = [Record(r.id, r.sequence, float(i), "train") for i, r in enumerate(rows)]
    data = build_dataset("any", "sequence_regression", records, source="here", needs=("train",))
    train = data.splits["train"]
    steps = TrainingSteps(EncodedSplit(train, ESM, "sequence_regression"), batch_size=8, tokens_per_batch=100, seed=3)
    batches = in_steps(rows, 8, 3)
    assert [len(batch) for batch in batches] == [8, 8, 5]
    for number, batch in enumerate(batches):
        numbers = [int(i) for micro in steps[(0, number)].micro for i in micro.index]
        assert [row.sequence for row in batch] == [train[i].sequence for i in numbers]


def test_a_typical_draw_is_as_long_and_uneven_as_the_whole() -> None:
    rows = proteins(800)
    drawn = typical(rows, 6, 8, 0)
    assert len({row.id for row in drawn}) == 48
    mean, whole = (np.mean([len(r.sequence) for r in part]) for part in (drawn, rows))
    padded = np.mean([max(len(r.sequence) for r in batch) for batch in in_steps(drawn, 8, 0)])
    chance = np.mean([max(len(r.sequence) for r in batch) for batch in in_steps(rows, 8, 0)])
    assert mean == pytest.approx(whole, rel=0.1) and padded == pytest.approx(chance, rel=0.1)


def test_both_sides_read_the_same_material(tmp_path: Path) -> None:
    rows = proteins(6)
    made = write(tmp_path, "m", "residue", {"train": rows[:4], "valid": rows[4:5], "test": rows[5:]})
    table = [line.split(",") for line in made.table.read_text().splitlines()[1:]]
    lines = [json.loads(line) for line in made.lines.read_text().splitlines()]
    assert [tuple(line[key] for key in ("id", "sequence", "target", "split")) for line in lines] == list(
        map(tuple, table)
    )
    assert made.sequences == [row.sequence for row in rows[:4]] and made.residues == sum(map(len, made.sequences))


def test_sides_take_turns_and_the_order_turns_around() -> None:
    asked = []
    sides = {name: lambda name=name: asked.append(name) or {"name": name} for name in "ab"}
    answers = interleave(sides, 3)
    assert asked == ["a", "b", "b", "a", "a", "b"] and [len(found) for found in answers.values()] == [3, 3]


def test_a_ratio_is_the_median_over_rounds_and_is_held_against_its_goal() -> None:
    ours = [{"residues": 100, "seconds": s} for s in (1.0, 2.0, 4.0)]
    theirs = [{"residues": 50, "seconds": s} for s in (2.0, 2.0, 2.0)]
    values = faster({"ours": ours, "theirs": theirs}, "ours", "theirs")
    assert values == [4.0, 2.0, 1.0]
    line = entry("speed", "8M", values, Goal(2.0, True), plmft="a", peer="b")
    assert (line.value, line.low, line.high, line.goal, line.reached) == (2.0, 1.0, 4.0, "≥ 2×", True)
    assert entry("", "", values, Goal(1.9, False), plmft="", peer="").reached is False
    assert (Goal(0.03, False, "%").text(), Goal(8, False, "s").text()) == ("≤ 3%", "≤ 8 s")


def record(name: str, **values: object) -> Row:
    return Row.of(json.loads(json.dumps(Row(name, **values).record())))  # as it comes back from the disk


def test_the_page_tells_what_was_reached_what_was_missed_and_what_failed() -> None:
    speed = Entry("speed", "8M", "400 residues/s", "100 residues/s", 4.0, 3.5, 4.5, "×", "≥ 4×", True)
    memory = Entry("memory", "8M", "2 GB", "3 GB", 0.667, 0.667, 0.667, "×", "≤ 0.6×", False)
    other = Entry("without the kernel", "8M", "1", "2", 3.0, 3.0, 3.0)
    rows = [
        record("full", entries=[speed, memory, other], text=["What was measured."], finished="today", seconds=3.0),
        record("lora", error="RuntimeError: it | broke"),
    ]
    page = report.page(rows, {"machine": "a CPU", "warm-up steps": "2"})
    assert "| machine | a CPU |" in page and "What was measured." in page
    assert "| speed | 8M | 400 residues/s | 100 residues/s | **4.00×** (3.50× to 4.50×) | ≥ 4× | yes |" in page
    assert "| memory | 8M | 2 GB | 3 GB | **0.67×** | ≤ 0.6× | no |" in page
    assert "Not reached: memory, 8M: 0.67×, goal ≤ 0.6×." in page
    assert "| LoRA | | | | not measured: RuntimeError: it / broke | | no |" in page
    goals = page.split("## Goals")[1].split("## Full")[0]
    assert "without the kernel" not in goals and "**3.00×**" in page


def test_rows_of_another_run_are_told() -> None:
    rows = [record("full", run="9:00"), record("lora", run="10:00"), record("bound", run="9:00")]
    about = {"warm-up steps": "2"}
    told = "Measured in 2 runs: lora in the run of 10:00; full tuning, share of the machine's bound in the run of 9:00."
    assert told in report.page(rows, about) and "Measured in" not in report.page(rows[::2], about)


def test_every_row_has_a_title_and_every_note_a_row() -> None:
    assert set(report.TITLES) == set(ROWS) >= set(report.NOTES)


def test_all_sides_run_in_the_same_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MALLOC_ARENA_MAX", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "PLMFT_KERNEL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    theirs = workers.environment(2)
    ours = workers.environment(2, tmp_path, kernel=False)
    assert theirs["OMP_NUM_THREADS"] == "2"
    assert not {"MALLOC_ARENA_MAX", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "PLMFT_KERNEL"} & set(theirs)
    assert ours == theirs | {"PLMFT_RUNS": str(tmp_path), "PLMFT_KERNEL": "0"}


ECHO = """
from benchmarks.serve import serve
def double(value):
    print("a line that is no answer")
    return {"value": 2 * value}
def fail():
    raise ValueError("no such thing")
def die():
    import os, sys
    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)
def hang():
    import time
    time.sleep(60)
serve({"double": double, "fail": fail, "die": die, "hang": hang})
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> workers.Worker:
    (tmp_path / "echo_jobs.py").write_text(ECHO)
    monkeypatch.setattr(workers, "ROOT", tmp_path)
    monkeypatch.setattr(workers, "environment", lambda *_: os.environ | {"PYTHONPATH": str(ROOT)})
    worker = workers.Worker(Path(sys.executable), "echo_jobs", threads=1, log=tmp_path / "log")
    yield worker
    worker.close()


def test_a_worker_answers_on_after_a_job_that_failed(echo: workers.Worker) -> None:
    assert echo.ask("double", value=4) == {"value": 8}
    with pytest.raises(RuntimeError, match="echo_jobs, fail: ValueError: no such thing"):
        echo.ask("fail")
    assert [echo.ask("double", value=i)["value"] for i in range(3)] == [0, 2, 4]


def test_a_worker_that_dies_is_told_with_its_last_words(echo: workers.Worker) -> None:
    for _ in itertools.repeat(None, 2):
        with pytest.raises(RuntimeError, match=r"die: the process ended \(the last words\)"):
            echo.ask("die")


def test_a_worker_that_hangs_is_ended(echo: workers.Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert echo.ask("double", value=1) == {"value": 2}
    monkeypatch.setattr(workers, "LIMIT_S", 0.2)
    with pytest.raises(RuntimeError, match="hang: the process ended"):
        echo.ask("hang")


def test_peers_that_cannot_be_run_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(workers.PeersMissing, match="--peers-python /nowhere/python: there is no such program"):
        workers.peers_python("/nowhere/python")


def test_a_peers_environment_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        made.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    first = workers.peers_python(None)
    assert len(made) == 2 and workers.peers_python(None) == first and len(made) == 2


def test_a_failed_installation_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: No matching distribution for torch\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(workers.PeersMissing, match=r"ERROR: No matching distribution for torch.*--peers-python"):
        workers.peers_python(None)
    assert not list((tmp_path / "plmft-benchmarks").iterdir())
