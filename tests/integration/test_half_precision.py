"""fp16 with a scaled loss, through Lightning: on a CPU, where PyTorch has a scaler too, though a run refuses it."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from plmft.data.packing import EncodedSplit, StepBatch
from plmft.models.build import build_predictor
from plmft.models.tokenizer import ESM
from plmft.models.tuning import LoRA
from plmft.models.weights import Located
from plmft.training.data import PackedData
from plmft.training.module import FineTuning
from tests.integration.test_training import LORA, SPEC, TASK, by_split, optim


class Watch(pl.Callback):
    """Losses, adapter weights and scales by step."""

    def __init__(self, scaler: torch.amp.GradScaler | None) -> None:
        self.scaler, self.losses, self.weights, self.scales = scaler, [], [], []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: FineTuning, outputs: dict, batch: StepBatch, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].item())
        learnt = [p.detach().flatten() for p in module.predictor.parameters() if p.requires_grad]
        self.weights.append(torch.cat(learnt).clone())
        if self.scaler is not None:
            self.scales.append(self.scaler.get_scale())


def train(scaler: torch.amp.GradScaler | None, *, tuning: LoRA = LORA, budget: int = 4000) -> Watch:
    pl.seed_everything(0, verbose=False)
    predictor = build_predictor(SPEC, Located("random"), tuning=tuning, head=TASK.head, kind=TASK.kind, outputs=3)
    encoded = {split: EncodedSplit(records, ESM, TASK.kind) for split, records in by_split().items()}
    options = optim(epochs=1, lr=0.001)
    data = PackedData(encoded, batch_size=8, tokens_per_batch=budget, seed=0, optim=options)
    module = FineTuning(predictor, options, total_steps=6, score=lambda found: {"accuracy": 0.0}, monitor="accuracy")
    watch = Watch(scaler)
    plugins = [] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, plugins=plugins, callbacks=[watch], logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return watch


@pytest.mark.parametrize("budget", [4000, 600], ids=["whole", "cut"])
def test_fp16_learns_as_fp32_does(budget: int) -> None:
    exact = train(None, budget=budget)
    half = train(torch.amp.GradScaler("cpu", init_scale=2.0**12), budget=budget)
    np.testing.assert_allclose(half.losses, exact.losses, rtol=2e-3)
    moved = exact.weights[-1] - exact.weights[0]
    assert torch.nn.functional.cosine_similarity(half.weights[-1] - half.weights[0], moved, dim=0) > 0.98
    assert half.scales == [2.0**12] * 6


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    half = train(torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-14))
    assert half.scales == [2.0**26] + [2.0**12] * 5  # the first two overflow
    assert torch.equal(half.weights[0], half.weights[1]) and not torch.equal(half.weights[1], half.weights[2])
    assert all(torch.isfinite(weights).all() for weights in half.weights)
