"""Checkpoints on disk: written whole or not at all, never read without their digest, and no more of them than needed.

`step-00000120.ckpt` holds the state after optimizer step 120, `best-00000100.ckpt` what was best on the validation
split until then (see resuming.py); a file of the same name that ends in `.sha256` holds its digest. Sharded ones are
folders with a file for each rank (see sharded_checkpoints.py).
A checkpoint is written beside its place and moved there when it and its digest are on the disk, so that neither a full
disk nor a kill, nor a machine that goes down, leaves half of one. Costs the checkpoint's size in host memory, and a
pass over it to digest it, some 1 GB/s.
"""

import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from plmft import InputError

NAME = re.compile(r"(step|best)-(\d{8})(\.ckpt)?")
KEPT = 2  # states


class WholeCheckpoints(TorchCheckpointIO):
    """How Lightning writes and reads them. Paths come without `.ckpt`, which a sharded checkpoint does not have."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: None = None) -> None:
        """Raises: OSError: no room, or no right to write; what was there before stays."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_with_digest(path.with_name(f"{path.name}.ckpt"), checkpoint)

    def load_checkpoint(self, path: str | Path, map_location: None = None, weights_only: None = None) -> dict[str, Any]:
        """On the host, where the whole of it may have room."""
        return read(Path(path))


def write_with_digest(path: Path, checkpoint: dict[str, Any]) -> None:
    """Put the file and its digest in place once both are on the disk.

    Raises: OSError: no room, or no right to write; what was there before stays.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)  # into memory, because into a file it hides why it failed
    content = buffer.getbuffer()
    part, digest = path.with_name(f"{path.name}.part"), path.with_suffix(".sha256")
    digest_part = digest.with_name(f"{digest.name}.part")
    try:
        _write_to_disk(part, content)
        _write_to_disk(digest_part, hashlib.sha256(content).hexdigest().encode())
        os.replace(digest_part, digest)
        sync_folder(path.parent)
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
        digest_part.unlink(missing_ok=True)


def _write_to_disk(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Names in it, too, survive a machine that goes down."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of one file, or of a folder with a file for each rank."""
    if path.is_dir():
        from plmft.training import sharded_checkpoints

        return sharded_checkpoints.read(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def is_whole(path: Path) -> bool:
    """Whether it is what was written, to the last bit."""
    if path.is_dir():
        from plmft.training.sharded_checkpoints import files_of

        files = files_of(path)
        return files is not None and all(map(is_whole, files))
    try:
        kept = path.with_suffix(".sha256").read_text(errors="replace").strip()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == kept
    except FileNotFoundError:
        return False


class Checkpoints:
    """Those of one run, in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def at(self, kind: str, step: int) -> Path:
        """What WholeCheckpoints and sharded_checkpoints.write take. kind: step or best."""
        return self._folder / f"{kind}-{step:08d}"

    def _all(self, kind: str) -> dict[int, Path]:
        """By step, ascending."""
        found = {}
        for path in self._folder.glob(f"{kind}-*"):
            named = NAME.fullmatch(path.name)
            if named and (named[3] or path.is_dir()):
                found[int(named[2])] = path
        return dict(sorted(found.items()))

    def newest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest state that is whole, and whose best checkpoint is; None: there is none.

        Args: warn: takes a line about each that is not.
        """
        for step, path in reversed(self._all("step").items()):
            best = self._best(step)
            broken = next((p for p in (path, best) if p is not None and not is_whole(p)), None)
            if broken is None:
                return path
            warn(f"{broken} is damaged: its digest is another. Training goes on from the state before step {step}.")
        return None

    def _best(self, step: int) -> Path | None:
        """What was best when the state of this step was written."""
        return next((path for at, path in reversed(self._all("best").items()) if at <= step), None)

    def best(self, step: int) -> dict[str, Any]:
        """The best checkpoint of this step. Raises: InputError: it is damaged, or no longer there."""
        path = self._all("best").get(step)
        if path is None or not is_whole(path):
            raise InputError(
                f"{path or self.at('best', step)}: the best weights are {'damaged' if path else 'gone'}. Look after "
                "the disk, and run again with checkpoint.resume=false."
            )
        return read(path)

    def tidy(self) -> None:
        """Remove what no state that is kept asks for: older states, what was best before them, and what a kill left."""
        states = list(self._all("step").items())[-KEPT:]
        kept = {path for _, path in states}
        if states:
            oldest = states[0][0]
            kept |= {path for step, path in self._all("best").items() if step > oldest} | {self._best(oldest)}
        else:
            kept |= set(self._all("best").values())
        names = {path.name for path in kept if path} | {path.with_suffix(".sha256").name for path in kept if path}
        for path in self._folder.glob("*"):
            ours = NAME.match(path.name)
            if ours and path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
