"""Read a PyTorch file (.bin, .pt), which is a pickle, without running anything that is in it.

`weights_only` admits tensors and plain containers alone. It was beaten before PyTorch 2.6 (CVE-2025-32434) and before
2.10 (CVE-2026-24747), so older versions refuse.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from plmft import InputError

SAFE_SINCE = (2, 10)


def read_pickle(path: Path, allowed: tuple[type, ...] = ()) -> Any:
    """What torch.save wrote: tensors on the CPU (mapped from the file where its format allows) in plain containers.

    Args:
        allowed: classes that may be in it besides tensors and containers.
    Raises: InputError: PyTorch before 2.10; the file holds code or other objects; it can't be read.
    """
    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < SAFE_SINCE:
        raise InputError(
            f"{path}: PyTorch {torch.__version__} can be made to run code by such a file. "
            "Install PyTorch 2.10 or newer, or give a safetensors checkpoint."
        )
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        held = f"code ({named[1]})" if named else "something other than tensors, which may be code"
        raise InputError(
            f"{path} is refused, because it holds {held}; nothing of it was run. Give a safetensors checkpoint."
        ) from None
    except Exception as error:  # a damaged file fails in ways that no list of exceptions covers
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(
            f"{path} can't be read as a PyTorch file ({reason}). It may be cut off: get it again."
        ) from None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A state dict: names and tensors, nothing else.

    Raises: InputError: as `read_pickle`, or the file holds something else.
    """
    state = read_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise InputError(f"{path} is not a table of names and tensors. Save the network's state_dict().")
    return state
