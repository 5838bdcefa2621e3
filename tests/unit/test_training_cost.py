"""A run's FLOPs from its parts, against PyTorch's counter over the packed model itself."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from plmft.efficiency.flops import linear_forward_flops
from plmft.models.tuning import Bias, Frozen, Full, LastLayers, LoRA, Tuning
from plmft.training.cost import make_metering
from plmft.training.hardware import Device
from tests.unit.networks import packed
from tests.unit.tuned_models import HEADS, predictor_of, spec

KIND = "residue_classification"
RANK = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ("attention", "feedforward")}
LENGTHS = [7, 30, 12, 44]


def added(out: list[int], first: list[int], second: list[int], **options: object) -> int:
    """FLOPs of a product that is added in place, by the shapes; PyTorch's counter knows only the one out of place."""
    return 2 * first[0] * first[1] * second[1]


def counted(tuning: Tuning) -> int:
    predictor = predictor_of("esm2", tuning, KIND)
    _, batch = packed(np.random.default_rng(0), "esm2", LENGTHS, KIND)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added})
    with counter:
        predictor.loss_sum(batch).backward()
    return counter.get_total_flops()


def metering(tuning: Tuning, cached: bool = False):
    return make_metering(spec(), tuning, HEADS[KIND], 3, Device("cpu", "fp32", None), None, cached=cached)


@pytest.mark.parametrize(
    "tuning",
    [Full(), Frozen(), LastLayers(1), Bias(), LoRA(**RANK), LoRA(**RANK, layers=1)],
    ids=lambda t: f"{t.name}-{getattr(t, 'layers', None)}",
)
def test_the_formula_is_what_the_model_computes(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for gradients that the lowest products which learn have no use for, which the formula counts."""
    monkeypatch.setattr("plmft.models.kernels.load", lambda: None)  # the counter sees PyTorch's products alone
    tokens, width = [length + 2 for length in LENGTHS], spec().width
    unneeded = {
        "frozen": linear_forward_flops([(width, 3)], sum(tokens)),  # of what the head reads
        "lora": linear_forward_flops(3 * [(width, width), (width, 2)], sum(tokens)),  # of what query, key, value read
    }.get(tuning.name, 0)
    assert counted(tuning) == pytest.approx(metering(tuning)._train_flops(tokens) - unneeded, rel=1e-12)


def test_cached_vectors_cost_the_head_alone() -> None:
    tokens = [length + 2 for length in LENGTHS]
    cached = metering(Frozen(), cached=True)
    head = 2 * sum(tokens) * spec().width * 3
    assert cached._train_flops(tokens) == 3 * head and cached._test_flops(tokens) == head
    assert metering(Frozen())._test_flops(tokens) > 10 * head
