"""Adapters (LoRA and DoRA) in PEFT's own layout on disk, and merged into the weights beside them for inference.

Merged, (W + s·BA) x stands for W x + s·B(A x): equal to about 1e-5 in float32, and as fast as without adapters.
"""

from pathlib import Path

import torch
from torch import nn

from plmft import InputError
from plmft.models.four_bits import PackedLinear
from plmft.models.tensors import AGAIN, read_tensors_of_model, write_tensors

PEFT_PREFIX = "base_model.model."


def save_adapter(network: nn.Module, folder: Path) -> None:
    """Write into `folder`, which is created, what `PeftModel.from_pretrained` opens."""
    from peft import get_peft_model_state_dict

    folder.mkdir()
    state = get_peft_model_state_dict(network)
    write_tensors({PEFT_PREFIX + name: value for name, value in state.items()}, folder / "adapter_model.safetensors")
    network.peft_config["default"].save_pretrained(folder)


def load_adapter(network: nn.Module, folder: Path) -> None:
    """Fill the adapters of a network that has them. Raises: InputError: they are missing, damaged or of others."""
    from peft import set_peft_model_state_dict

    file = folder / "adapter_model.safetensors"
    state = {name.removeprefix(PEFT_PREFIX): value for name, value in read_tensors_of_model(file).items()}
    try:
        outcome = set_peft_model_state_dict(network, state)
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip().rstrip(".")
        raise InputError(f"{file}: the adapter does not fit ({told}). {AGAIN}") from None
    lacking = [name for name in outcome.missing_keys if "lora_" in name]
    if lacking or outcome.unexpected_keys:
        raise InputError(
            f"{file}: the adapter does not fit. Missing: {lacking}. Unexpected: {outcome.unexpected_keys}. {AGAIN}"
        )


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Put a plain float32 linear layer in the place of each adapted one, in place; PEFT's traces go."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _merged(module))
    del network.peft_config


def _merged(layer: nn.Module) -> nn.Linear:
    (adapter,) = layer.active_adapters
    base = layer.get_base_layer()
    plain = base.unpacked(torch.float32) if isinstance(base, PackedLinear) else base.weight.float()
    weight = plain + layer.get_delta_weight(adapter).float()
    if adapter in layer.lora_magnitude_vector:  # DoRA learns the lengths of the rows apart from their directions
        lengths = torch.linalg.norm(weight, dim=1)
        weight = weight * (layer.lora_magnitude_vector[adapter].weight / lengths)[:, None]
    merged = nn.Linear(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
    merged.weight = nn.Parameter(weight, requires_grad=False)
    if base.bias is not None:
        merged.bias = nn.Parameter(base.bias.float(), requires_grad=False)
    return merged
