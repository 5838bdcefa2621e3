"""Embeddings of whole sequences, as search, plot and probe take them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from plmft import InputError
from plmft.embeddings.formats import Embeddings


def check_per_sequence(embeddings: Embeddings, path: str) -> np.ndarray:
    """(N, D) float32. Raises: InputError: vectors of residues, or values that are not finite; the id is told."""
    if not isinstance(embeddings.vectors, np.ndarray):
        raise InputError(
            f"{path} holds a vector a residue; one a sequence is needed. Embed with per=sequence into another folder."
        )
    return check_finite(embeddings, path)


def check_finite(embeddings: Embeddings, path: str) -> np.ndarray | list[np.ndarray]:
    """(N, D), or N arrays (L, D) of residues, all read. Raises: InputError: not finite; the first id is told."""
    if not isinstance(embeddings.vectors, np.ndarray):
        rows = list(embeddings.vectors)
        wrong = [number for number, vectors in enumerate(rows) if not np.isfinite(vectors).all()]
        _refuse(embeddings, path, wrong)
        return rows
    _refuse(embeddings, path, np.flatnonzero(~np.isfinite(embeddings.vectors).all(1)))
    return embeddings.vectors


def _refuse(embeddings: Embeddings, path: str, wrong: Sequence[int]) -> None:
    if len(wrong):
        more = f", and so do those of {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        raise InputError(
            f"{path}: the vectors of {embeddings.ids[wrong[0]]} hold values that are not finite{more}. Embed again "
            "with hardware.precision=fp32."
        )


def told_of(about: dict[str, Any]) -> str:
    """Model, layer and pooling in a few words, and that the weights are random, where they are."""
    told = str(about.get("weights", ""))
    weights = f" ({told.replace('random', 'random weights', 1)})" if told.startswith("random") else ""
    pooling = "residues" if about.get("per") == "residue" else about.get("pooling")
    run = f" of run {about['run'][:8]}" if about.get("run") else ""
    return f"{about.get('model', 'unknown model')}{run}{weights}, layer {about.get('layer')}, {pooling}"
