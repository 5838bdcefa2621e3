"""Ways to compute a forward pass that are compared: plmft's packed one and transformers' own, over the same weights."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from plmft import InputError
from plmft.bench.protocol import Bench
from plmft.models.spec import TransformerSpec

if TYPE_CHECKING:
    from torch import Tensor

    from plmft.data.packing import PackedBatch
    from plmft.models.build import Backbone

Implementation = Literal["packed", "compiled", "sdpa", "eager"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "bf16_weights"]
Forward = Callable[["PackedBatch"], "Tensor"]


def attention_told(bench: Bench, implementation: Implementation, precision: str) -> str:
    """Which attention computes, for a row."""
    from plmft.models.attention import implementation as packed_one

    if not isinstance(bench.spec, TransformerSpec):
        return "none"
    if implementation in ("packed", "compiled"):
        arithmetic = "bf16" if precision == "bf16_weights" else precision
        return packed_one(bench.device.torch_type, arithmetic)
    return f"transformers {implementation}"


def refused(bench: Bench, implementation: Implementation, precision: str) -> str | None:
    """Why a way can't be measured here; None: it can."""
    if implementation != "packed" and not isinstance(bench.spec, TransformerSpec):
        return f"{implementation}: {bench.spec.name} is no transformer and has one implementation"
    if precision == "bf16_weights" and not isinstance(bench.spec, TransformerSpec):
        return f"bf16_weights: {bench.spec.name} has no layers that are held so"
    try:
        bench.at(precision)
    except InputError as error:
        return str(error)
    return None


def caution(bench: Bench, precision: str) -> str | None:
    """What to know about a precision here."""
    from plmft.training.hardware import _cpu_has_bf16

    if bench.device.kind == "cpu" and precision.startswith("bf16") and not _cpu_has_bf16():
        return "this CPU has no bf16 arithmetic: it is imitated"
    return None


def forward_of(
    bench: Bench, backbone: "Backbone", implementation: Implementation, precision: str, *, waits: bool = True
) -> Forward:
    """A call that gives (T, D) or, by transformers, (N, L, D) vectors of a batch on the device, without a graph.

    `compiled` compiles the backbone's layers for good: give it one of its own.

    Args: backbone: of `bench.backbone(precision)`. waits: return once the device has computed.
    """
    import torch

    from plmft.models.precision import autocast

    device_type = torch.device(bench.where).type
    bench.at(precision)  # tells PyTorch whether fp32 products may be TF32
    wait = torch.cuda.synchronize if waits and device_type == "cuda" else None
    if implementation == "compiled":
        backbone.compile_layers()
    run = _by_transformers(backbone, implementation) if implementation in ("sdpa", "eager") else backbone

    @torch.inference_mode()
    def forward(batch: "PackedBatch") -> "Tensor":
        with autocast(precision, device_type):
            found = run(batch)
        if wait is not None:
            wait()
        return found

    return forward


def _by_transformers(backbone: "Backbone", implementation: Implementation) -> Forward:
    """The published forward pass, over rectangles; a mask is given where there is padding, as by a user.

    A batch's rectangle is made when it comes for the first time in a row.
    """
    network = backbone.network
    last: list[object] = [None, None, None]

    def run(batch: "PackedBatch") -> "Tensor":
        if last[0] is not batch:
            tokens, mask = batch.padded(network.config.pad_token_id)
            last[:] = batch, tokens, mask.long() if len(set(batch.lengths)) > 1 else None
        network.set_attn_implementation(implementation)
        return network(input_ids=last[1], attention_mask=last[2]).last_hidden_state

    return run
