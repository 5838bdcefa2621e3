"""The truth of resuming: stopped anywhere and taken up again, a run ends in the same bits as one that never stopped."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.efficiency.phase import PhaseMeter
from plmft.models.build import build_predictor
from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.spec import OneHotCnnSpec
from plmft.models.tuning import Frozen, Full, LoRA
from plmft.models.weights import Located
from plmft.training.checkpoints import read
from plmft.training.data import PackedData
from plmft.training.fine_tune import fine_tune
from plmft.training.hardware import Device
from plmft.training.interrupts import Preempted
from plmft.training.metering import Metering
from plmft.training.module import FineTuning
from plmft.training.optim import Optim
from plmft.training.result import Result
from tests.integration.test_training import SPEC, by_split, optim

CNN = OneHotCnnSpec("onehot_cnn", channels=8, kernel=3, layers=1, parameters=512, citation="", licence="")
LORA = LoRA(rank=2, alpha=4, dropout=0.2, targets=("attention",))
RESIDUES, SEQUENCES = ResidueHead(0.3), SequenceHead("mean", normalize=True, hidden=8, dropout=0.3)
WAYS = {
    "full": (SPEC, Full(), RESIDUES),
    "lora": (SPEC, LORA, RESIDUES),
    "frozen": (SPEC, Frozen(), RESIDUES),
    "onehot_cnn": (CNN, Full(), RESIDUES),
    "normalised": (SPEC, Full(), SEQUENCES),
}
OPTIONS = optim(epochs=4, warmup_fraction=0.3, decay="cosine", weight_decay=0.1, patience=2)
SCORES = {6: 0.5, 12: 0.9, 18: 0.7, 24: 0.8}  # early stopping counts to 1, and to 2 as the run ends
SEED = 3


class Killed(Exception):
    """Stands for SIGKILL: nothing is written any more."""


@dataclass
class Attempt:
    """What one process came to."""

    steps: list[int] = field(default_factory=list)  # before each training step
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sequences: int = 0
    wall_s: float = 0.0
    said: str = ""
    predictor: Predictor | None = None
    result: Result | None = None

    def clock(self) -> float:
        """A training step takes a second, and nothing else does."""
        return float(len(self.steps))


def records(kind: str) -> dict[str, list[Record]]:
    if kind == "residue_classification":
        return by_split()
    return {s: [replace(r, target=float(np.mean(r.target))) for r in found] for s, found in by_split().items()}


def attempt(
    folder: Path,
    way: str,
    *,
    every_minutes: float = 0.0,
    score: Callable = lambda step: SCORES[step],
    options: Optim = OPTIONS,
) -> Attempt:
    """Train in `folder` as a new process would."""
    spec, tuning, head = WAYS[way]
    kind = "sequence_regression" if head is SEQUENCES else "residue_classification"
    pl.seed_everything(SEED, verbose=False)
    outputs = 1 if head is SEQUENCES else 3
    predictor = build_predictor(spec, Located("random"), tuning=tuning, head=head, kind=kind, outputs=outputs)
    encoded = {split: EncodedSplit(found, spec.tokenizer, kind) for split, found in records(kind).items()}
    data = PackedData(encoded, batch_size=8, tokens_per_batch=500, seed=SEED, optim=options)
    now = Attempt()
    metering = Metering(lambda: PhaseMeter("cpu", clock=now.clock), train_flops=None, test_flops=None)
    ATTEMPTS.append(now)
    console = Console(record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        now.result = fine_tune(
            predictor,
            data,
            optim=options,
            device=Device("cpu", "fp32", None),
            metering=metering,
            score=lambda found: {"accuracy": score(STEP[0])},
            monitor="accuracy",
            folder=folder,
            log=lambda values, step: now.logged.append((step, values)),
            console=console,
            every_minutes=every_minutes,
        )
        now.predictor, now.sequences = predictor, metering._sequences["fit"]
        now.wall_s = now.result.costs["fit"].values["wall_time_s"]
    finally:
        now.said = console.export_text()
    return now


ATTEMPTS: list[Attempt] = []
STEP = [0]


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each attempt counts its training steps."""
    ATTEMPTS.clear()
    training_step, scored = FineTuning.training_step, FineTuning.on_validation_epoch_end

    def counted(module: FineTuning, *batch: Any) -> Any:
        ATTEMPTS[-1].steps.append(module.trainer.global_step)
        return training_step(module, *batch)

    def placed(module: FineTuning) -> None:
        STEP[0] = module.trainer.global_step
        scored(module)

    monkeypatch.setattr(FineTuning, "training_step", counted)
    monkeypatch.setattr(FineTuning, "on_validation_epoch_end", placed)
    yield


@dataclass(frozen=True)
class Disturbance:
    """What happens in a hook of the module at an optimizer step, once it is done or in its midst."""

    hook: str
    at: int
    number: signal.Signals | None = None  # None: a kill

    def happens(self, *_: object) -> None:
        if self.number is None:
            raise Killed
        os.kill(os.getpid(), self.number)


def disturbed(folder: Path, way: str, disturbance: Disturbance, **options: Any) -> Attempt:
    """An attempt that is stopped."""
    usual = getattr(FineTuning, disturbance.hook)

    def hook(module: FineTuning, *args: Any) -> Any:
        if module.trainer.global_step == disturbance.at:
            disturbance.happens()
        return usual(module, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuning, disturbance.hook, hook)
        with pytest.raises(Killed if disturbance.number is None else KeyboardInterrupt):
            attempt(folder, way, **options)
    return ATTEMPTS[-1]


def assert_equal(found: Any, expected: Any, where: str = "") -> None:
    """To the last bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_equal(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for n, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{where}/{n}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and np.array_equal(found, expected), where
    else:
        assert found == expected, where


def state(folder: Path) -> dict[str, Any]:
    """The last one, without what time it took."""
    found = read(max(folder.glob("step-*.ckpt")))
    for rank in found["ranks"]:
        del rank["meter"]
    return found


def assert_same_run(folder: Path, ended: Attempt, whole_folder: Path, whole: Attempt) -> None:
    """Weights, optimizer, random numbers, predictions, history, and each logged metric: the same."""
    assert_equal(ended.predictor.state_dict(), whole.predictor.state_dict())
    assert_equal(state(folder), state(whole_folder))
    for name in ("predictions", "valid", "best_step", "steps", "stopped_early"):
        assert_equal(getattr(ended.result, name), getattr(whole.result, name), name)
    assert_equal(ended.result.history.train_loss, whole.result.history.train_loss)
    assert_equal(ended.result.history.valid, whole.result.history.valid)
    assert_equal(ended.logged, whole.logged, "what the last attempt logged is all of it")
    assert (ended.sequences, ended.wall_s) == (whole.sequences, float(whole.result.steps)), "each step counts once"
    kept = [sorted(p.name for p in place.iterdir()) for place in (folder, whole_folder)]
    assert len(kept[0]) == len(kept[1])
    assert [name for name in kept[0] if name[:4] == "best"] == [name for name in kept[1] if name[:4] == "best"]


DISTURBANCES = [
    (Disturbance("training_step", 0), 0),
    (Disturbance("training_step", 3), 0),  # nothing was kept before: again from the beginning
    (Disturbance("training_step", 4, signal.SIGTERM), 5),
    (Disturbance("training_step", 5), 5),
    (Disturbance("training_step", 5, signal.SIGUSR2), 6),  # the epoch's last step: its validation is to come
    (Disturbance("on_validation_epoch_end", 6), 6),
    (Disturbance("validation_step", 6, signal.SIGTERM), 6),
    (Disturbance("training_step", 8), 6),
    (Disturbance("on_validation_epoch_end", 12), 6),
    (Disturbance("validation_step", 12, signal.SIGINT), 12),
    (Disturbance("training_step", 12), 12),
    (Disturbance("training_step", 23, signal.SIGTERM), 24),
    (Disturbance("on_test_epoch_end", 24), 24),
    (Disturbance("test_step", 24, signal.SIGTERM), 24),
]  # and the step that the next attempt begins at


@pytest.mark.parametrize("way", ["full", *(pytest.param(way, marks=pytest.mark.slow) for way in list(WAYS)[1:])])
def test_stopped_anywhere_is_never_stopped(tmp_path: Path, way: str) -> None:
    """By kills, which lose what followed the last state, and by signals, after which nothing is done twice."""
    whole = attempt(tmp_path / "whole", way, every_minutes=1000)
    assert whole.steps == list(range(24)) and "Going on" not in whole.said
    folder, begins = tmp_path / "stopped", 0
    for disturbance, next_begins in DISTURBANCES:
        stopped = disturbed(folder, way, disturbance, every_minutes=1000)
        assert stopped.steps == list(range(begins, begins + len(stopped.steps))), disturbance
        begins = next_begins
    ended = attempt(folder, way, every_minutes=1000)
    assert ended.steps == []
    assert "Going on from step 24 of 24" in ended.said
    assert_same_run(folder, ended, tmp_path / "whole", whole)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_state_after_each_step(tmp_path: Path, way: str) -> None:
    """Killed in a random step, or validation, again and again: only that is lost."""
    whole = attempt(tmp_path / "whole", way)
    random = np.random.default_rng(len(way))
    folder, done, at = tmp_path / "killed", 0, int(random.integers(1, 5))
    while at < 24:
        hook = "on_validation_epoch_end" if at % 6 == 0 else "training_step"
        assert disturbed(folder, way, Disturbance(hook, at)).steps == list(range(done, at))
        done = at - 1 if at % 6 == 0 else at
        at += int(random.integers(1, 5))
    assert_same_run(folder, attempt(folder, way), tmp_path / "whole", whole)


@pytest.mark.slow
def test_early_stopping_counts_on(tmp_path: Path) -> None:
    """Stopped by patience at step 18 of 24, which a second process decides, and a third must not undo."""
    scores = {6: 0.9, 12: 0.8, 18: 0.7}
    whole = attempt(tmp_path / "whole", "frozen", score=scores.get)
    assert whole.result.stopped_early and whole.result.steps == 18
    folder = tmp_path / "stopped"
    disturbed(folder, "frozen", Disturbance("training_step", 14), score=scores.get)
    disturbed(folder, "frozen", Disturbance("on_test_epoch_end", 18), score=scores.get)
    ended = attempt(folder, "frozen", score=scores.get)
    assert ended.steps == []
    assert_same_run(folder, ended, tmp_path / "whole", whole)


@pytest.mark.slow
def test_steps_that_end_within_an_epoch(tmp_path: Path) -> None:
    """The last epoch has 2 steps of 6: stopped at its end, in its validation, and in the test."""
    options = replace(OPTIONS, max_steps=20, patience=None)
    usual = {"every_minutes": 1000, "options": options, "score": {**SCORES, 20: 0.95}.get}
    whole, folder = attempt(tmp_path / "whole", "frozen", **usual), tmp_path / "stopped"
    for hook, at in [("training_step", 18), ("training_step", 19), ("validation_step", 20), ("test_step", 20)]:
        disturbed(folder, "frozen", Disturbance(hook, at, signal.SIGTERM), **usual)
    assert [found.steps for found in ATTEMPTS[1:]] == [list(range(19)), [19], [], []]
    assert_same_run(folder, attempt(folder, "frozen", **usual), tmp_path / "whole", whole)
    assert ATTEMPTS[-1].result.best_step == 20


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_state_is_not_taken_up(tmp_path: Path) -> None:
    """The one before is, with a line; without a whole one the run begins anew."""
    whole = attempt(tmp_path / "whole", "frozen")
    folder = tmp_path / "damaged"
    disturbed(folder, "frozen", Disturbance("training_step", 10))
    damage(folder / "step-00000010.ckpt")
    disturbed(folder, "frozen", Disturbance("training_step", 14))
    assert ATTEMPTS[-1].steps[0] == 9
    assert "step-00000010.ckpt is damaged" in ATTEMPTS[-1].said.replace("\n", "")
    damage(folder / "best-00000012.ckpt")
    again = attempt(folder, "frozen")
    assert again.steps[0] == 0
    assert_same_run(folder, again, tmp_path / "whole", whole)


@pytest.mark.slow
def test_the_best_weights_are_checked_before_they_are_tested(tmp_path: Path) -> None:
    def damaging(step: int) -> float:
        if step == 24:
            damage(tmp_path / "best-00000012.ckpt")
        return SCORES[step]

    with pytest.raises(InputError, match=r"best-00000012.ckpt.* damaged.*checkpoint\.resume=false"):
        attempt(tmp_path, "frozen", score=damaging)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """In the midst of a step, whose outcome is then not kept."""

    class Twice(Disturbance):
        def happens(self, *_: object) -> None:
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Preempted):
        disturbed_by = Twice("training_step", 4, signal.SIGUSR2)
        usual = FineTuning.training_step

        def hook(module: FineTuning, *args: Any) -> Any:
            if module.trainer.global_step == 4:
                disturbed_by.happens()
            return usual(module, *args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FineTuning, "training_step", hook)
            attempt(tmp_path, "frozen")
    assert {path.stem for path in tmp_path.iterdir()} == {"step-00000003", "step-00000004"}
