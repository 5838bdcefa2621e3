"""Linear layers that share an input, as one matrix product; LoRA adapters beside them without leaving half precision.

PEFT's own forward pass casts the input to the adapter's float32 and back, adds out of place and keeps a graph for each
step; on a CPU that costs what LoRA saves. Layers of another kind (DoRA, 4-bit, sharded weights) are simply called.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def project(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """The outputs of linear layers side by side. x: (T, inputs); returns (T, sum of outputs)."""
    if all(type(layer) is nn.Linear for layer in layers) and not _sharded(layers):
        return F.linear(x, *_joined(layers))
    if all(_is_plain_lora(layer) for layer in layers) and not _sharded([m for l in layers for m in l.modules()]):
        return _lora(layers, x)
    if len(layers) == 1:
        return layers[0](x)
    return torch.cat([layer(x) for layer in layers], dim=-1)


def _sharded(layers: Sequence[nn.Module]) -> bool:
    """DeepSpeed ZeRO-3 gives a weight out in its layer's own call only."""
    return any(hasattr(p, "ds_id") for layer in layers for p in layer.parameters(recurse=False))


def _joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    return torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])


def _is_plain_lora(layer: nn.Module) -> bool:
    """One active adapter of PEFT's usual kind on a plain layer, whose dropout does nothing now."""
    if not hasattr(layer, "lora_A") or type(layer.base_layer) is not nn.Linear:
        return False
    if layer.disable_adapters or layer.merged or layer.lora_variant or layer.active_adapters != ["default"]:
        return False
    dropout, down, up = (part["default"] for part in (layer.lora_dropout, layer.lora_A, layer.lora_B))
    quiet = isinstance(dropout, nn.Identity) or not layer.training
    return quiet and type(down) is nn.Linear and type(up) is nn.Linear and up.bias is None


def _lora(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    weight, bias = _joined([layer.base_layer for layer in layers])
    down = [layer.lora_A["default"].weight for layer in layers]
    up = [layer.lora_B["default"].weight for layer in layers]
    scale = layers[0].scaling["default"]
    if not torch.is_grad_enabled():
        merged = weight + scale * torch.cat([wide @ narrow for wide, narrow in zip(up, down, strict=True)])
        return F.linear(x, merged, bias)
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    inputs = [x, weight, bias, torch.cat(down), *up]
    return LoraProduct.apply(scale, *(tensor.to(dtype) for tensor in inputs))


class LoraProduct(torch.autograd.Function):
    """x Wᵀ + b, plus for each part of the outputs scale · x Aᵀ Bᵀ, added in place. W and b do not learn."""

    @staticmethod
    def forward(ctx: Any, scale: float, x: Tensor, weight: Tensor, bias: Tensor, down: Tensor, *up: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            low = F.linear(x, down)
            out = F.linear(x, weight, bias)
            for part, narrow, wide in _parts(out, low, up):
                part.addmm_(narrow, wide.T, alpha=scale)
        ctx.save_for_backward(x, weight, down, low, *up)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, low, *up = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            narrowed = torch.cat([part @ wide for part, _, wide in _parts(gradient, low, up)], dim=1).mul_(ctx.scale)
            of_up = [(part.T @ narrow).mul_(ctx.scale) for part, narrow, _ in _parts(gradient, low, up)]
            of_x = (gradient @ weight).addmm_(narrowed, down) if ctx.needs_input_grad[1] else None
            return None, of_x, None, None, narrowed.T @ x, *of_up


def _parts(wide: Tensor, narrow: Tensor, up: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each adapter: its columns of the outputs, its columns of the low-rank vectors, its B."""
    outputs, ranks = [matrix.shape[0] for matrix in up], [matrix.shape[1] for matrix in up]
    return list(zip(wide.split(outputs, 1), narrow.split(ranks, 1), up, strict=True))
