"""In what type a model computes: autocast by the precision's name, and frozen weights held in bfloat16.

Autocast rounds every weight of a linear layer to bfloat16 at each use. A weight that does not learn can be held so, in
half the memory: training gives the same to the last bit. (Not so predictions beside LoRA, whose product is added to the
weights before they are rounded, and DoRA, whose norms are of the rounded weights.)
"""

import torch
from torch import nn

AUTOCAST = {"bf16": torch.bfloat16, "bf16_weights": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device_type: str) -> torch.autocast:
    """The context that a run of this precision computes in; fp32 and tf32 cast nothing, nor does fp16 on a CPU."""
    dtype = AUTOCAST.get(precision)
    enabled = dtype is not None and not (dtype is torch.float16 and device_type == "cpu")
    return torch.autocast(device_type, dtype=dtype if enabled else torch.bfloat16, enabled=enabled)


def hold_frozen_in_bf16(backbone: nn.Module) -> None:
    """Round the weights of linear layers that don't learn, in place. Compute with it under bfloat16 autocast alone, or
    call `hold_for` first.

    Norms, embeddings and rotary frequencies stay in float32: autocast does not round them, and a rounded frequency
    turns far residues by a wrong angle. Weights that learn stay in float32, which is what the optimizer moves.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            for weights in module.parameters(recurse=False):
                if weights.is_floating_point() and not weights.requires_grad:
                    weights.data = weights.data.to(torch.bfloat16)


def hold_for(precision: str, module: nn.Module) -> None:
    """Make ready to compute in `precision`, in place: unless that is in bfloat16, what is held so becomes float32, the
    same values.
    """
    if AUTOCAST.get(precision) is not torch.bfloat16:
        module.float()
