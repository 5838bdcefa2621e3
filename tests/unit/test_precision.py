"""Precisions: what each casts, what it must not change, and which machine lacks it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from plmft import InputError
from plmft.data.packing import StepBatch
from plmft.models.precision import autocast, hold_frozen_in_bf16
from plmft.models.predictor import Predictor
from plmft.models.tuned import Tuned, load
from plmft.models.tuning import Bias, DoRA, Frozen, Full, LastLayers, LoRA, Tuning
from plmft.training.hardware import Device, Hardware
from tests.unit.networks import packed
from tests.unit.tuned_models import predictor_of, saved, train

RANK = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ("attention", "feedforward")}
PARTLY = [Frozen(), LoRA(**RANK), LastLayers(1), Bias()]


@pytest.mark.parametrize("tuning", PARTLY, ids=lambda t: t.name)
@pytest.mark.parametrize("family", ["esm2", "bert"])
def test_held_in_bf16_learns_to_the_bit_as_autocast_does(family: str, tuning: Tuning) -> None:
    losses = []
    for held in (False, True):
        predictor = predictor_of(family, tuning, "residue_classification")
        if held:
            hold_frozen_in_bf16(predictor.backbone)
        with autocast("bf16", "cpu"):
            losses.append(train(predictor, np.random.default_rng(0), family, steps=4))
        types = {name: p.dtype for name, p in predictor.named_parameters()}
        assert all(types[name] == torch.float32 for name, p in predictor.named_parameters() if p.requires_grad)
    assert losses[0] == losses[1]


def test_what_is_held_in_bf16(rng: np.random.Generator) -> None:
    """Frozen matrices and their constants; not norms, embeddings, rotary frequencies, adapters or the head."""
    predictor = predictor_of("esm2", LoRA(**RANK), "residue_classification")
    hold_frozen_in_bf16(predictor.backbone)
    for name, module in predictor.named_modules():
        frozen_linear = isinstance(module, nn.Linear) and name.endswith("base_layer")
        for weights in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if weights.is_floating_point():
                assert weights.dtype == (torch.bfloat16 if frozen_linear else torch.float32), name
    full = predictor_of("esm2", Full(), "residue_classification")
    hold_frozen_in_bf16(full.backbone)
    assert {p.dtype for p in full.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "bf16_weights"])
@pytest.mark.parametrize("tuning", [*PARTLY, DoRA(**RANK), Full()], ids=lambda t: t.name)
def test_a_saved_model_predicts_in_the_precision_of_its_run(tmp_path: Path, tuning: Tuning, precision: str) -> None:
    predictor, description = saved(
        tmp_path / "model", "esm2", tuning, "sequence_regression", np.random.default_rng(0), precision=precision
    )
    sequences = ["MKVAWWCD", "ACDEFGHIKLMNPQRSTVWY"]
    expected = Tuned(predictor, description).predict(sequences)
    again = load(tmp_path / "model")
    assert again.predict(sequences) == expected
    assert {p.dtype for p in again.predictor.backbone.parameters()} == {
        p.dtype for p in predictor.backbone.parameters()
    }
    file = tmp_path / "model" / "plmft.json"
    file.write_text(file.read_text().replace(f'"precision": "{precision}"', '"precision": "fp32"'))
    assert load(tmp_path / "model").predict(sequences) != expected


def test_merged_weights_are_summed_in_float32(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    saved(tmp_path / "m", "esm2", LoRA(**RANK), "sequence_regression", rng, precision="bf16_weights")
    merged = load(tmp_path / "m", merge=True)
    assert {p.dtype for p in merged.predictor.parameters()} == {torch.float32}
    sequences = ["MKVAWWCD", "ACDEFGHIKLMNPQRSTVWY"]
    np.testing.assert_allclose(merged.predict(sequences), load(tmp_path / "m").predict(sequences), rtol=0.05, atol=0.05)


def gradients(predictor: Predictor, step: StepBatch, scaler: torch.amp.GradScaler | None) -> dict[str, torch.Tensor]:
    predictor.zero_grad()
    if scaler is None:
        predictor.backward_step(step, lambda loss: loss.backward())
    else:
        optimizer = torch.optim.AdamW([p for p in predictor.parameters() if p.requires_grad], fused=True)
        scale = scaler.scale(torch.ones(()))
        predictor.backward_step(step, lambda loss: scaler.scale(loss).backward(), scale)
        scaler.unscale_(optimizer)
    return {name: p.grad.clone() for name, p in predictor.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("cuts", [[[0, 1, 2, 3]], [[0, 1], [2, 3]]], ids=["whole", "cut"])
@pytest.mark.parametrize("kind", ["sequence_regression", "residue_classification"])
def test_a_scaled_loss_gives_the_same_gradients(kind: str, cuts: list[list[int]], rng: np.random.Generator) -> None:
    """A power of two scales without rounding: also where pooled vectors get their gradients in two passes."""
    split, _ = packed(rng, "esm2", [5, 30, 12, 44], kind)
    micro = tuple(split.pack(np.array(cut)) for cut in cuts)
    step = StepBatch(micro, int(split.target_counts.sum()))
    predictor = predictor_of("esm2", LoRA(**RANK), kind)
    predictor.head.normalize = kind == "sequence_regression"
    usual = gradients(predictor, step, None)
    scaled = gradients(predictor, step, torch.amp.GradScaler("cpu", init_scale=2.0**10))
    for name, gradient in usual.items():
        torch.testing.assert_close(scaled[name], gradient, rtol=1e-6, atol=1e-9)


def hardware(**changes: object) -> Hardware:
    return Hardware(
        **{"accelerator": "cpu", "precision": "auto", "tokens_per_batch": 64, "usd_per_hour": None, **changes}
    )


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_a_cpu_refuses_what_it_lacks(precision: str) -> None:
    with pytest.raises(InputError, match=f"hardware.precision={precision}: needs a GPU.*bf16 or fp32"):
        hardware(precision=precision).resolve()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_weights"])
def test_a_cpu_takes_what_it_has(precision: str) -> None:
    assert hardware(precision=precision).resolve() == Device("cpu", precision, None)


@pytest.mark.parametrize(
    ("precision", "lightning", "arithmetic"),
    [("fp32", "32-true", "fp32"), ("tf32", "32-true", "tf32"), ("bf16", "bf16-mixed", "bf16"),
     ("bf16_weights", "bf16-mixed", "bf16"), ("fp16", "16-mixed", "fp16")],
)  # fmt: skip
def test_names_of_precisions(precision: str, lightning: str, arithmetic: str) -> None:
    device = Device("gpu", precision, "some GPU")
    assert device.lightning_precision == lightning and device.arithmetic == arithmetic


@pytest.fixture
def some_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU is pretended, and PyTorch's settings are put back."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "some GPU")
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolution


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("fp32", False), ("bf16", False)])
def test_tf32_is_on_where_asked_for_and_off_elsewhere(some_gpu: None, precision: str, allowed: bool) -> None:
    torch.set_float32_matmul_precision("highest" if allowed else "high")
    assert hardware(accelerator="gpu", precision=precision).resolve() == Device("gpu", precision, "some GPU")
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    assert torch.backends.cudnn.allow_tf32 is allowed
    assert torch.get_float32_matmul_precision() == ("high" if allowed else "highest")  # Lightning asks for it


def test_an_older_gpu_refuses_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    for precision in ("bf16", "bf16_weights", "tf32"):
        with pytest.raises(InputError, match=f"precision={precision}: this GPU has no such.*fp16 or fp32"):
            hardware(accelerator="gpu", precision=precision).resolve()
