"""Ways to make a tuned model smaller or faster, by name; each takes the model and gives what predicts with it.

A lab's own way is a function from module to module, named by its full name (`mylab.pruning.halve`): it takes the
Predictor, whose `backbone` and `head` are ordinary modules, and returns it changed.
"""

import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft import InputError
from plmft.bench import compress_int8 as quantized
from plmft.bench import compress_prune as pruned
from plmft.data.packing import PackedBatch
from plmft.models.four_bits import PackedLinear
from plmft.models.precision import autocast, hold_frozen_in_bf16
from plmft.models.predictor import Predictor
from plmft.models.tuned import Tuned

Predict = Callable[[PackedBatch], list[np.ndarray]]


@dataclass(frozen=True)
class Given:
    """What a variant is made from.

    Args:
        model: the tuned model's folder. tuned: with its adapters merged, in evaluation mode, on the device.
        calibration: labelled batches on the device, never of a test split.
        folder: for files; it is removed afterwards.
        threads: of a CPU, for engines other than PyTorch.
    """

    model: Path
    tuned: Tuned
    calibration: Sequence[PackedBatch]
    folder: Path
    threads: int


@dataclass(frozen=True)
class Compressed:
    """What predicts, as Predictor.predict does, and the bytes of its weights on disk."""

    predict: Predict
    disk_bytes: int


@dataclass(frozen=True)
class Variant:
    """A way. method: what it does, for the row. precision: what it computes in."""

    method: str
    precision: str
    make: Callable[[Given], Compressed]


def variant(name: str) -> Variant:
    """A way by its name, or a lab's own by its full name. Raises: InputError: there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    module, _, function = name.rpartition(".")
    if not module:
        raise InputError(
            f"protocol.variants: there is no {name!r}. Known: {', '.join(VARIANTS)}; or the full name of a function "
            "that takes a Predictor and returns it, as mylab.pruning.halve."
        )
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"protocol.variants: {name} can't be imported ({error}).") from None
    return Variant(f"{name} (own)", "fp32", partial(_by_module, lambda given: own(given.tuned.predictor)))


def state_bytes(module: nn.Module) -> int:
    """The size of the weights' file as torch.save writes it; what is made of others again is not counted."""
    state = module.state_dict()
    for name, part in module.named_modules():
        if isinstance(part, PackedLinear):
            state[f"{name}.scales"] = part.scales
    held = io.BytesIO()
    torch.save(state, held)
    return held.tell()


def _by_module(change: Callable[[Given], Predictor], given: Given, precision: str = "fp32") -> Compressed:
    predictor = change(given).eval()
    size = state_bytes(predictor)
    device = predictor.target_mean.device.type

    def predict(batch: PackedBatch) -> list[np.ndarray]:
        with autocast(precision, device):
            return predictor.predict(batch)

    return Compressed(predict, size)


def _as_it_is(given: Given) -> Predictor:
    return given.tuned.predictor


def _in_bf16(given: Given) -> Predictor:
    predictor = given.tuned.predictor
    hold_frozen_in_bf16(predictor.backbone.requires_grad_(False))
    return predictor


class _Half(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.half(), self.weight, self.bias)


def _in_fp16(given: Given) -> Predictor:
    for _, _, linear in quantized.encoder_layers(given.tuned.predictor):
        linear.half()
        linear.__class__ = _Half
    return given.tuned.predictor


def _calibrated(given: Given) -> Sequence[PackedBatch]:
    if not given.calibration:
        raise InputError("the task has neither validation nor training records to choose by")
    return given.calibration


def _of_module(change: Callable[[Given], Predictor], precision: str = "fp32") -> Callable[[Given], Compressed]:
    return partial(_by_module, change, precision=precision)


def _by_ort(bits: str) -> Callable[[Given], Compressed]:
    def make(given: Given) -> Compressed:
        from plmft.bench.compress_ort import compressed

        if bits == "static":
            _calibrated(given)
        return compressed(given, bits)

    return make


VARIANTS: dict[str, Variant] = {
    "fp32": Variant("as tuned, in float32", "fp32", _of_module(_as_it_is)),
    "bf16": Variant("linear weights and products in bfloat16", "bf16", _of_module(_in_bf16, "bf16_weights")),
    "fp16": Variant("linear weights and products in float16", "fp16", _of_module(_in_fp16)),
    "int8_dynamic": Variant(
        "linear weights int8, activations int8 with a scale for each call (torch.ao; torchao on a GPU)",
        "int8",
        _of_module(lambda given: quantized.int8_dynamic(given.tuned.predictor)),
    ),
    "int8_static": Variant(
        "linear weights int8, activations int8 with scales from calibration (oneDNN)",
        "int8",
        _of_module(lambda given: quantized.int8_static(given.tuned.predictor, _calibrated(given))),
    ),
    "int4": Variant(
        f"linear weights in 4 bits, a scale for each {quantized.GROUP} (torchao), products in bfloat16",
        "int4",
        _of_module(lambda given: quantized.int4(given.tuned.predictor)),
    ),
    "nf4": Variant(
        "linear weights in NF4 (bitsandbytes), unpacked for each product",
        "nf4",
        _of_module(lambda given: quantized.nf4(given.tuned.predictor)),
    ),
    "prune_50": Variant(
        "the smaller half of each linear layer's weights is 0; zeros are stored and multiplied",
        "fp32",
        _of_module(lambda given: pruned.magnitude(given.tuned.predictor)),
    ),
    "prune_2_4": Variant(
        "two of four neighbouring weights are 0; stored and multiplied on a CPU, compressed on a GPU",
        "fp32",
        _of_module(lambda given: pruned.two_of_four(given.tuned.predictor)),
    ),
    "heads_75": Variant(
        "the quarter of the heads that the loss hangs on least is cut out",
        "fp32",
        _of_module(lambda given: pruned.heads(given.tuned.predictor, _calibrated(given))),
    ),
    "layers_75": Variant(
        "the quarter of the layers that change their input least is left out",
        "fp32",
        _of_module(lambda given: pruned.layers_dropped(given.tuned.predictor, _calibrated(given))),
    ),
    "ort_fp32": Variant("ONNX Runtime", "fp32", _by_ort("fp32")),
    "ort_int8": Variant("ONNX Runtime, int8 with a scale for each call", "int8", _by_ort("dynamic")),
    "ort_int8_static": Variant("ONNX Runtime, int8 with scales from calibration", "int8", _by_ort("static")),
}
