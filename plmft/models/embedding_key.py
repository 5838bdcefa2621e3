"""What names a cache of embeddings: all that a vector depends on, its sequence aside.

Weights are known by their tensors, not by a file or a name: a copy of a checkpoint finds the same cache, and no other
model does, whatever its folder is called. Costs about 1 s a GB of weights, once a run.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import torch
from torch import nn

LAYOUT = 1  # raise it when files change, or what a backbone computes


@dataclass(frozen=True)
class CacheKey:
    """All that a vector depends on, its sequence aside.

    Args:
        weights: digest of the backbone's tensors. architecture: what they don't tell, such as the number of heads.
        tokenizer: its digest.
        precision: of the forward pass. stored: type of the vectors on disk.
        pooling: residues, or how a sequence's vector is made of them.
        windows: residues of a window, where sequences beyond the model's context are read in windows.
    """

    weights: str
    architecture: str
    tokenizer: str
    precision: str
    pooling: str
    windows: int | None
    stored: str
    layer: str = "last"
    layout: int = LAYOUT

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def weights_digest(backbone: nn.Module) -> str:
    """SHA-256 over all tensors with their names, adapters included, wherever they came from. About 1 s a GB."""
    total = hashlib.sha256()
    for name, tensor in sorted(backbone.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def architecture_digest(backbone: nn.Module) -> str:
    """SHA-256 over what the modules say of themselves, and a transformer's settings."""
    config = getattr(getattr(backbone, "network", None), "config", None)
    plain = {k: v for k, v in config.to_dict().items() if isinstance(v, int | float | str)} if config else {}
    settings = {k: v for k, v in plain.items() if k not in ("transformers_version", "_name_or_path", "dtype")}
    return hashlib.sha256(f"{backbone!r} {sorted(settings.items())}".encode()).hexdigest()
