"""Out of memory in training: noted, and the run goes on to what a smaller token budget gives; `auto` chooses one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from plmft import InputError
from plmft.data.packing import PackedBatch
from plmft.data.records import DataSet
from plmft.models.backbone import EsmBackbone
from plmft.models.tuning import Full
from plmft.training import auto_tokens
from plmft.training.auto_tokens import UNPLANNED, tokens_for
from plmft.training.hardware import Device, Hardware
from tests.integration.test_training import SPEC, TASK, by_split, optim, train, weights

CPU = Device("cpu", "bf16", None)


def scarce(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """From now on a forward pass in training of more than `most` tokens finds no memory."""
    forward = EsmBackbone.forward

    def limited(self: EsmBackbone, batch: PackedBatch) -> torch.Tensor:
        if self.training and sum(batch.lengths) > most:
            raise MemoryError("no more")
        return forward(self, batch)

    monkeypatch.setattr(EsmBackbone, "forward", limited)


def test_training_goes_on_in_finer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = optim(max_steps=3, lr=1e-3)
    expected, _ = train(tmp_path / "a", options=options)
    scarce(monkeypatch, 600)
    found, result = train(tmp_path / "b", options=options)
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-4, atol=1e-5)
    (note,) = result.notes
    assert "Out of memory" in note and "hardware.tokens_per_batch=" in note and result.steps == 3


def test_the_second_time_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scarce(monkeypatch, 100)
    with pytest.raises(InputError, match=r"Out of memory in a training step.*plmft\.doctor"):
        train(tmp_path)


def job(**changed: object) -> SimpleNamespace:
    hardware = Hardware("cpu", "bf16", "auto", None)
    usual = {"model": SPEC, "task": TASK, "tuning": Full(), "optim": optim(), "hardware": hardware}
    return SimpleNamespace(**{**usual, "batch_size": 16, "seed": 0, **changed})


def test_auto_plans_for_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DataSet("planted", {split: tuple(records) for split, records in by_split().items()}, "", "")
    monkeypatch.setattr(auto_tokens, "available_bytes", lambda: 64e9)
    tokens, told = tokens_for(job(), dataset, CPU)
    assert tokens == 2048 and "hardware.tokens_per_batch=auto: 2,048" in told and "64.0 GB that are free." in told
    monkeypatch.setattr(auto_tokens, "available_bytes", lambda: 1e6)
    tokens, told = tokens_for(job(), dataset, CPU)
    assert tokens == 1024 and "may not fit" in told
    monkeypatch.setattr(auto_tokens, "available_bytes", lambda: None)
    assert tokens_for(job(), dataset, CPU)[0] == 1024
    direct = job(model=SimpleNamespace(name="onehot_linear"))
    assert tokens_for(direct, dataset, CPU)[0] == UNPLANNED
