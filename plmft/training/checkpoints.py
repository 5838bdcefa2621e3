"""Write a checkpoint beside its place and move it there whole: neither a full disk nor a kill leaves half of one.

Lightning writes into the system's temporary folder, from where a move to another file system is a copy that can break
off. Costs the checkpoint's size in host memory, as Lightning's own way does.
"""

import io
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Saves a checkpoint at once or not at all; the one that was there before stays until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Raises: OSError: no room, or no right to write."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # into memory, because into a file it hides why it failed
        part = Path(f"{path}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(buffer.getbuffer())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
