"""Files of embeddings as plmft.embed writes them, without a model: vectors, ids and what they depend on."""

from pathlib import Path
from typing import Any

import numpy as np

from plmft.embeddings import tensor_files
from plmft.embeddings.block import Block, Header

ABOUT = {"model": "esm2_tiny", "weights": "random, seed 0", "weights_sha256": "0" * 64, "run": None} | {
    "pooling": "mean",
    "precision": "fp32",
}


def write_embeddings(path: Path, ids: list[str], vectors: np.ndarray, *, layer: int = 2, **about: Any) -> Path:
    """One vector a sequence, or, of a list of (L, D) arrays, one a residue."""
    residues = isinstance(vectors, list)
    rows = np.concatenate(vectors) if residues else np.asarray(vectors)
    lengths = np.array([len(v) for v in vectors] if residues else [30] * len(ids))
    per, width = "residue" if residues else "sequence", rows.shape[1]
    known = ABOUT | {"layers": [layer], "per": per, "width": width, "dtype": "float32"} | about
    header = Header(known, (layer,), width, "float32", per, len(ids), len(rows))
    block = Block(np.arange(len(ids)), ids, lengths, rows[:, None].astype(np.float32))
    tensor_files.write(path, header, [block])
    return path


def clustered(rng: np.random.Generator, count: int, clusters: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """(count, 16) vectors around as many centres, and the cluster of each."""
    centres, own = 3 * rng.normal(size=(clusters, 16)), rng.integers(0, clusters, count)
    return (centres[own] + rng.normal(size=(count, 16))).astype(np.float32), own
