"""What a user chooses about data. Light, so that a config is checked in under a second."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from plmft.data.task import DataPlace


@dataclass(frozen=True)
class Data:
    """Where data lie, and what happens to sequences longer than the model's context."""

    dir: str | None
    length_policy: Literal["refuse", "crop", "window"]

    def place(self, runs: Path) -> DataPlace:
        """The user's folder (data.dir, else PLMFT_DATA) and the cache for downloads under `runs`."""
        folder = self.dir or os.environ.get("PLMFT_DATA")
        return DataPlace(Path(folder).expanduser() if folder else None, runs / "cache" / "data")


@dataclass(frozen=True)
class Limit:
    """How many records of each split are used; None is all."""

    train: Annotated[int, Gt(0)] | None
    valid: Annotated[int, Gt(0)] | None
    test: Annotated[int, Gt(0)] | None
