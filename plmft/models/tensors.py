"""Tensors of backbones, heads, adapters and regressions in a file. Writing costs one copy to the host."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from plmft import InputError

AGAIN = "Get the model's folder again, or name another one."  # of what is wrong with it


def write_tensors(state: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file.

    Raises: RuntimeError: an empty tensor. OSError: no room, or no right to write; safetensors tells it as text alone.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise RuntimeError(f"{empty[0]} and {len(empty) - 1} more are empty: gather the weights before they are saved.")
    try:
        save_file(tensors, file, metadata={"format": "pt"})
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(file)) from error
        raise


def read_tensors_of_model(file: Path) -> dict[str, Tensor]:
    """Of a tuned model's file. Raises: InputError: it is missing, or damaged."""
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        told = f"can't be read ({error}): it may be cut off" if file.exists() else "is missing"
        raise InputError(f"{file} {told}. {AGAIN}") from None
