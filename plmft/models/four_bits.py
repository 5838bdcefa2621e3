"""Linear layers whose frozen weights are held in four bits: NF4 (Dettmers et al. 2023), packed by bitsandbytes.

Blocks of 64 weights share one float32 scale, so a weight takes 4.5 bits. The scales are not quantised themselves, which
would save another 0.4: so packing what was unpacked gives the same bits again, and a saved model holds ordinary weights
that any reader opens. Each product unpacks its matrix, the backward pass once more, which costs time to save memory.

Only packing and unpacking are bitsandbytes' own, and those over rows of one block: its products for a CPU round scales
to bfloat16, and where a row is no whole number of blocks it unpacks wrong values (0.50.2).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 64
PROJECTIONS = ("query", "key", "value", "dense")  # the linear layers of transformers' ESM and BERT encoders


class PackedLinear(nn.Linear):
    """A frozen linear layer with two weights in each byte.

    Raises: ImportError: bitsandbytes is not installed. ValueError: the weights are no whole number of blocks.
    """

    def __init__(self, linear: nn.Linear) -> None:
        from bitsandbytes.functional import quantize_4bit

        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        if linear.weight.numel() % BLOCK:
            raise ValueError(f"{linear}: its weights are no whole number of blocks of {BLOCK}.")
        rows = linear.weight.detach().cpu().float().reshape(-1, BLOCK)  # on the CPU: the same bits for any device
        codes, state = quantize_4bit(rows, blocksize=BLOCK, compress_statistics=False, quant_type="nf4")
        self.weight = nn.Parameter(codes, requires_grad=False)  # uint8
        self.bias = linear.bias
        self.register_buffer("scales", state.absmax, persistent=False)  # checkpoints hold what learns
        self.register_buffer("table", state.code, persistent=False)
        self.to(linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in autocast's type where that is on, as nn.Linear."""
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
        return _Product.apply(x, self)

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """(out, in) weights, as its products see them."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        shape = torch.Size((self.weight.numel() * 2 // BLOCK, BLOCK))
        state = QuantState(self.scales, shape, self.table, BLOCK, "nf4", dtype)
        return dequantize_4bit(self.weight.data, state).view(self.out_features, self.in_features)


class _Product(torch.autograd.Function):
    """x Wᵀ + b that keeps neither x, as W does not learn, nor the unpacked W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.unpacked(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.unpacked(gradient.dtype), None


def hold_in_four_bits(network: nn.Module) -> None:
    """Pack the weights of every linear layer of the encoder, in place."""
    for name, module in list(network.encoder.named_modules()):
        parent, _, child = name.rpartition(".")
        if type(module) is nn.Linear and child in PROJECTIONS:
            setattr(network.encoder.get_submodule(parent), child, PackedLinear(module))


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict in float32, with ordinary weights in place of packed ones."""
    state = network.state_dict()
    for name, module in network.named_modules():
        if isinstance(module, PackedLinear):
            state[f"{name}.weight"] = module.unpacked(torch.float32)
    return {name: v.float() if v.is_floating_point() else v for name, v in state.items()}
