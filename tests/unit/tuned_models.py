"""Small models of each family, tuned for a few steps and saved; used by the tests of tuning."""

from pathlib import Path

import numpy as np
import torch

from plmft.models.build import build_predictor
from plmft.models.head_spec import Head, ResidueHead, SequenceHead
from plmft.models.precision import autocast, hold_frozen_in_bf16
from plmft.models.predictor import Predictor
from plmft.models.spec import OneHotCnnSpec, Spec, TransformerSpec
from plmft.models.tuned import Description, save
from plmft.models.tuning import LoRA, Tuning
from plmft.models.weights import Located
from plmft.training.optim import Optim
from tests.unit.networks import packed

LORA = LoRA(rank=2, alpha=4, dropout=0.0, targets=("attention", "feedforward"))
HEADS = {"sequence_regression": SequenceHead("mean", False, 8, 0.0), "residue_classification": ResidueHead(0.0)}
RANDOM = Located("random")


def spec(family: str = "esm2") -> Spec:
    if family == "onehot_cnn":
        return OneHotCnnSpec("cnn", 16, 5, 2, 21 * 16 * 5 + 16 + 16 * 16 * 5 + 16, "", "")
    vocabulary, positions = (30, 62) if family == "bert" else (33, 64)
    # per layer: four projections, two feed-forward matrices, two norms; around them: embeddings and norms
    layer = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    around = {"esm2": 64, "esm1b": positions * 32 + 128, "bert": (positions + 2) * 32 + 64}[family]
    parameters = 2 * layer + vocabulary * 32 + around
    return TransformerSpec(
        "small", family, 2, 32, 4, 64, vocabulary, 60, positions, parameters, None, None, "", "", init="random"
    )


def predictor_of(family: str, tuning: Tuning, kind: str) -> Predictor:
    torch.manual_seed(0)
    outputs = 1 if kind == "sequence_regression" else 3
    return build_predictor(spec(family), RANDOM, tuning=tuning, head=HEADS[kind], kind=kind, outputs=outputs)


def train(
    predictor: Predictor, rng: np.random.Generator, family: str, steps: int = 30, lr: float = 0.02
) -> list[float]:
    _, batch = packed(rng, family, [5, 30, 12, 44], predictor.kind)
    optimizer, _ = Optim(lr, 1, None, 0.0, 0.0, "constant", 10.0, None).build(predictor, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = predictor.loss_sum(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def saved(
    folder: Path,
    family: str,
    tuning: Tuning,
    kind: str,
    rng: np.random.Generator,
    located: Located = RANDOM,
    of: Spec | None = None,
    precision: str = "fp32",
) -> tuple[Predictor, Description]:
    predictor = predictor_of(family, tuning, kind)
    if precision == "bf16_weights":
        hold_frozen_in_bf16(predictor.backbone)
    with autocast(precision, "cpu"):
        train(predictor, rng, family, steps=5)
    if kind == "sequence_regression":
        predictor.fit_scale([1.0, 4.0, 5.0])
    classes = () if kind == "sequence_regression" else ("H", "E", "C")
    head: Head = HEADS[kind]
    description = Description(of or spec(family), tuning, head, "demo", kind, classes, "unit", precision=precision)
    save(predictor, description, located, folder)
    return predictor, description
