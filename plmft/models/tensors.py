"""Write tensors to a file, for backbones, heads, adapters and regressions alike. Costs one copy to the host."""

import os
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


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
