"""The doctor: what it prints and how it ends, as a command; its parts on figures that are known."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from plmft import InputError
from plmft.data.options import Data, Limit
from plmft.data.task import DataPlace, NotFetched
from plmft.efficiency.flops import CARDS, peak_flops
from plmft.models.head_spec import ResidueHead
from plmft.models.spec import TransformerSpec
from plmft.models.tuning import Frozen, Full, LoRA
from plmft.tasks.fluorescence import SOURCE
from plmft.tasks.planted_structure import planted_structure
from plmft.training import environment, places
from plmft.training.hardware import Hardware
from plmft.training.optim import Optim
from plmft.training.places import Doctor
from plmft.training.plan_changes import changes, together
from plmft.training.planned_data import TYPICAL, planned_data
from plmft.training.run_plan import FILL, STEP, Parts, Place, choose_tokens, plan_run

SPEC = TransformerSpec("esm2_650m", "esm2", 33, 1280, 20, 5120, 33, 1022, 1026, 651_043_254, "facebook/x", None, "", "")
TASK = planted_structure(ResidueHead(0.0), train=64, valid=8, test=8, seed=0)
HARDWARE = Hardware("gpu", "bf16", 16_384, 2.0)
OPTIM = Optim(1e-4, 3, None, 0.0, 0.0, "constant", 1.0, None)
GB = 1e9


def parts(**changed: object) -> Parts:
    lengths = {"train": [(500,)] * 64, "valid": [(500,)] * 8, "test": [(500,)] * 8}
    return replace(Parts(SPEC, TASK, Full(), OPTIM, HARDWARE, 32, 0, lengths), **changed)


def card(gb: float | None) -> Place:
    return Place("gpu", "card", "bf16", "flash", None if gb is None else gb * GB, "data sheet", 0.6 * GB, "", None)


def doctor(*overrides: str, runs: Path, **changed: str) -> subprocess.CompletedProcess:
    environment_ = {n: v for n, v in os.environ.items() if n not in ("PLMFT_DATA", "HF_HUB_OFFLINE")}
    environment_ |= {"PLMFT_RUNS": str(runs), "HF_HOME": str(runs / "hub"), "OMP_NUM_THREADS": "1"} | changed
    command = [sys.executable, "-m", "plmft.doctor", *overrides]
    return subprocess.run(command, capture_output=True, text=True, env=environment_, timeout=100)


def test_a_large_model_on_a_card_that_is_not_here(tmp_path: Path) -> None:
    done = doctor(
        *("model=esm2_3b", "tuning=lora", "task=planted_structure", "hardware=gpu", "doctor.gpu=H100"),
        *("hardware.usd_per_hour=4", "batch_size=8"),
        runs=tmp_path,
    )
    assert done.returncode == 0 and not done.stderr, done
    for words in ("weights", "gradients", "optimizer", "activations", "of 80.0 GB (data sheet): fits", "USD", "step"):
        assert words in done.stdout, done.stdout
    assert "data sheet, dense bf16: NVIDIA H100" in done.stdout and "an assumption" in done.stdout
    assert "11.3 GB to download" in done.stdout and not list(tmp_path.iterdir())


def test_what_does_not_fit_ends_with_1_and_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    from plmft.doctor import examine

    large = ["model=esm2_3b", "tuning=full", "task=planted_structure", "hardware=gpu", "doctor.gpu=T4"]
    assert examine([*large, "hardware.precision=fp16"]) == 1
    told = capsys.readouterr().out
    for words in ("does NOT fit", "gradient_checkpointing=true", "tuning=lora", "tuning=qlora", "hardware=fsdp"):
        assert words in told, told
    assert "Together these fit" in told or " fits  " in told


def test_data_that_are_missing_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from plmft.doctor import examine

    assert examine(["task=contacts", "model.init=random", "data.dir=" + str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "problem  data:" in told and "no plan without the records' lengths" in told


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["doctor.gpu=H1000"], ["doctor.gpu=H1000", "H100"]),
        (["doctor.memory_gb=-1"], ["doctor.memory_gb=-1", "greater than 0"]),
        (["doctor.memory=80"], ["doctor has no key 'memory'", "memory_gb"]),
        (["model=esm2_9m"], ["Did you mean 'esm2_8m'?"]),
        (["--gpu"], ["key=value"]),
        (["doctor.gpu=H100", "hardware=cpu"], ["doctor.gpu=H100", "Set hardware=gpu"]),
        (["doctor.gpu=V100", "hardware=gpu", "hardware.precision=bf16"], ["V100 has no such arithmetic"]),
    ],
)
def test_mistakes_are_told_in_one_message(
    overrides: list[str], words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from plmft.doctor import main

    monkeypatch.setattr(sys, "argv", ["doctor", "task=planted_structure", *overrides])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("plmft: ") and all(word in told for word in words), told


def test_this_machine_and_a_model_without_formulas(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from plmft.doctor import examine

    monkeypatch.setenv("PLMFT_RUNS", str(tmp_path / "new"))
    small = ["model=esm2_8m", "model.init=random", "tuning=full", "task=planted_structure", "hardware=cpu"]
    began = time.process_time()
    assert examine(small) == 0
    assert time.process_time() - began < 60
    told = capsys.readouterr().out
    assert "of" in told and "(free now): fits" in told and "measured GEMM" in told and not (tmp_path / "new").exists()
    assert examine([*small, "doctor.memory_gb=0.5"]) == 1
    assert "does NOT fit" in capsys.readouterr().out
    assert examine(["model=onehot_cnn", "tuning=full", "task=planted_structure"]) == 0
    assert "no plan is made for onehot_cnn" in capsys.readouterr().out


def test_changes_are_in_order_of_their_price_and_save_what_they_say() -> None:
    found = changes(parts(), card(24))
    before = plan_run(parts(), card(24)).memory.total
    options = [change.options.partition("=")[0] for change in found]
    assert options.index("hardware.tokens_per_batch") < options.index("hardware.gradient_checkpointing")
    assert options.index("hardware.gradient_checkpointing") < options.index("tuning") < options.index("hardware")
    for change in found:
        assert change.plan.memory.total < before
        assert change.plan.memory.total == plan_run(change.parts, change.place).memory.total
    lora = changes(parts(tuning=LoRA(4, 8, 0.0, ("attention",), 7)), card(24))
    assert next(c for c in lora if c.options == "tuning=qlora").parts.tuning.layers == 7
    assert not [c for c in changes(parts(tuning=Frozen()), card(24)) if "checkpointing" in c.options]


def test_changes_together_fit() -> None:
    found = together(parts(), card(6))
    assert found is not None and found.fits and len(found.options.split()) > 1
    assert together(parts(), card(0.7)) is None
    assert all(change.fits for change in changes(parts(), card(None)))


def test_auto_takes_the_most_that_fits_and_never_less_than_the_longest() -> None:
    auto = parts(hardware=replace(HARDWARE, tokens_per_batch="auto"))
    budgets = []
    for gb in (12, 16, 24, 80):
        budget = choose_tokens(auto, card(gb))
        plan = plan_run(auto, card(gb))
        assert plan.tokens_per_batch == budget and budget % STEP == 0
        if budget > STEP:
            assert plan.memory.total <= FILL * gb * GB
        budgets.append(budget)
    assert budgets == sorted(budgets) and budgets[0] < budgets[-1]
    assert budgets[-1] == STEP * -(-32 * 500 // STEP)  # the whole step: more brings nothing
    assert choose_tokens(auto, card(0.1)) == choose_tokens(auto, card(None)) == STEP
    long = replace(auto, lengths={**auto.lengths, "test": [(5000,)]})
    assert choose_tokens(long, card(0.1)) == 5 * STEP
    cpu = replace(card(1000), kind="cpu", kernel="matmul")
    assert choose_tokens(auto, cpu) == 4096


def test_time_follows_from_flops_and_price() -> None:
    from plmft.efficiency.plan_time import Speed
    from plmft.training.run_flops import run_flops

    place = replace(card(80), speed=Speed(1e14, "given"))
    spent = plan_run(parts(), place).duration
    train, forward = run_flops(SPEC, Full(), TASK.head, TASK.outputs)
    assert spent.steps == 6 and spent.step_s == pytest.approx(train([500] * 32) / 1e14)
    passes = (3 * forward([500] * 8) + forward([500] * 8)) / 1e14
    assert spent.hours == pytest.approx((6 * spent.step_s + passes) / 3600)
    assert spent.usd == pytest.approx(2.0 * spent.hours)
    again = parts(hardware=replace(HARDWARE, gradient_checkpointing=True, usd_per_hour=None))
    assert plan_run(again, place).duration.step_s == pytest.approx(spent.step_s * 4 / 3)
    assert plan_run(again, place).duration.usd is None
    assert plan_run(parts(), card(80)).duration is None


def test_every_card_has_memory_and_a_peak() -> None:
    assert set(CARDS) == set(places.GpuName.__args__)
    for name, known in CARDS.items():
        assert known.memory_gb > 0
        assert peak_flops(known.device_name, "fp32") or peak_flops(known.device_name, "bf16"), name
    assert Doctor("T4").place(Hardware("gpu", "auto", 4096, None), 320).precision == "fp32"
    assert Doctor("H100", 40.0).place(Hardware("gpu", "auto", 4096, None), 320).memory_bytes == 40e9
    unknown = Doctor(None, 24.0).place(Hardware("gpu", "auto", 4096, None), 320)
    assert unknown.speed is None and unknown.memory_bytes == 24e9


def test_free_memory_is_what_system_and_control_group_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(places, "CGROUP", tmp_path)
    assert places.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert places.available_bytes() == 4000 * 1024
    for name, text in (("max", "3000000\n"), ("current", "1000000\n"), ("stat", "anon 5\ninactive_file 200000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert places.available_bytes() == 2_200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert places.available_bytes() == 4000 * 1024


def test_data_that_would_be_downloaded_are_not(tmp_path: Path) -> None:
    with pytest.raises(NotFetched, match=r"3 files \(1\.4 MB, 2 of unknown size\) will be downloaded"):
        SOURCE.paths(DataPlace(None, tmp_path, fetch=False))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TYPICAL)
def test_typed_figures_make_records_of_these_means(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLMFT_DATA", raising=False)

    def absent(place: DataPlace) -> None:
        raise NotFetched("3 files will be downloaded.")

    task, typical = replace(TASK, name=name, read=absent), TYPICAL[name]
    spec = replace(SPEC, context=20_000)
    found = planned_data(task, Data(None, "refuse"), Limit(None, None, 5), spec, tmp_path, 0)
    tokens = [n for record in found.lengths["train"] for n in record]
    assert len(tokens) == typical.train and len(found.lengths["test"]) == 5 and not found.read
    assert sum(tokens) / len(tokens) == pytest.approx(typical.mean, rel=0.1)
    assert sum(n * n for n in tokens) / sum(tokens) == pytest.approx(typical.of_token, rel=0.35)


def test_checks_tell_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.check_packages().state == "ok"
    assert environment.check_disk(tmp_path / "runs", 1e9).state == "problem"
    assert environment.check_disk(tmp_path / "runs", 0.0).state == "ok" and not (tmp_path / "runs").exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("plmft.models.hub.cached", lambda spec: None)
    assert environment.check_weights(SPEC).state == "problem"
    assert environment.check_weights(replace(SPEC, init="random")).state == "ok"
    gone = environment.check_weights(replace(SPEC, path=str(tmp_path / "none")))
    assert gone.state == "problem" and "model.path=" in gone.told
    if not places.has_gpu():
        assert "doctor.gpu" in environment.check_device(HARDWARE, False).told
        assert environment.check_device(HARDWARE, True).state == "note"


def test_a_server_that_is_away_is_a_problem(tmp_path: Path) -> None:
    from plmft.tracking.options import Tracking

    check = environment.check_tracking(Tracking("http://127.0.0.1:9"), tmp_path)
    assert check.state == "problem" and "mlflow server" in check.told
    assert environment.check_tracking(Tracking(), tmp_path).state == "ok" and not list(tmp_path.iterdir())


def test_a_precision_that_a_card_lacks() -> None:
    with pytest.raises(InputError, match="V100 has no such arithmetic"):
        Doctor("V100").place(Hardware("gpu", "bf16", 4096, None), 320)
