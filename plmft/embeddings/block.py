"""Vectors of a run of sequences, as every format writes and reads them."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Per = Literal["sequence", "residue"]


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Args:
        about: all that the vectors depend on; plain JSON.
        layers: K, ascending. width: D of each. dtype: of the vectors on disk.
        per: one vector a sequence, or one a residue.
        sequences, rows: how many, in the whole file; rows are sequences or residues.
    """

    about: dict[str, Any]
    layers: tuple[int, ...]
    width: int
    dtype: str
    per: Per
    sequences: int
    rows: int

    @property
    def names(self) -> list[str]:
        """Of the layers, in a file."""
        return [layer_name(layer) for layer in self.layers]


@dataclass(frozen=True)
class Block:
    """N sequences in the order of the input.

    Args:
        numbers: (N,) int64, 0-based positions in the input. ids: N. lengths: (N,) int64 residues that were read.
        vectors: (rows, K, D); rows are N, or the residues of all sequences end to end.
    """

    numbers: np.ndarray
    ids: list[str]
    lengths: np.ndarray
    vectors: np.ndarray


def layer_name(layer: int) -> str:
    """Of a dataset, column or tensor."""
    return "layer_last" if layer < 0 else f"layer_{layer}"


def starts(lengths: np.ndarray, per: Per) -> np.ndarray:
    """(N+1,) int64: the row in which each sequence begins; the last is the number of rows."""
    rows = lengths if per == "residue" else np.ones_like(lengths)
    return np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)


def side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    """(rows, K, D) of K arrays (rows, D); empty where none is wanted."""
    if len(columns) == 1:
        return columns[0][:, None]
    return np.stack(columns, 1) if columns else np.empty((0, 0, 0), np.float32)
