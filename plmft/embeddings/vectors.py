"""Vectors of sequences in memory: packed, longest first, pooled or by residue, of chosen layers at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.embeddings.layers import cls_pool
from plmft.models.embedding import Pool, embed
from plmft.models.heads import max_pool, mean_pool
from plmft.models.tokenizer import Tokenizer
from plmft.models.windows import Windows

POOLS: dict[str, Pool | None] = {"mean": mean_pool, "max": max_pool, "cls": cls_pool, "none": None}


@dataclass(frozen=True)
class Reader:
    """A backbone, and how its vectors are read.

    Args:
        backbone: gives (T, K·D) of a packed batch, for K layers. layers: K.
        pooling: none: residues stay as they are. windows: None: no sequence is longer than the model's context.
        tokens_per_batch: residues and special tokens of a forward pass.
        passed: told the residues of each forward pass.
    """

    backbone: torch.nn.Module
    layers: int
    tokenizer: Tokenizer
    pooling: str
    windows: Windows | None
    device: str
    precision: str
    tokens_per_batch: int
    passed: Callable[[int], None] = lambda residues: None

    def __call__(self, sequences: Sequence[str]) -> list[np.ndarray]:
        """(1, K, D) float32 of each sequence, or (L, K, D) of its residues; in their order.

        Raises: InputError: the backbone gives NaN or infinity (the sequence is told), or a GPU's memory is too small.
        """
        records = [Record(str(number), sequence, None, "test") for number, sequence in enumerate(sequences)]
        split = EncodedSplit(records, self.tokenizer, "masked_lm")
        try:
            return self._read(split, sequences)
        except torch.OutOfMemoryError:
            raise InputError(
                f"hardware.tokens_per_batch={self.tokens_per_batch}: such a batch does not fit the GPU's memory "
                f"(longest sequence: {max(map(len, sequences)):,}). Set it lower; what was written is kept."
            ) from None

    def _read(self, split: EncodedSplit, sequences: Sequence[str]) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.empty(0)] * len(sequences)
        pool = POOLS[self.pooling]
        for numbers, vectors in embed(
            self.backbone,
            split,
            tokens_per_batch=self.tokens_per_batch,
            pooled=pool is not None,
            pool=pool or mean_pool,
            windows=self.windows,
            device=self.device,
            precision=self.precision,
        ):
            for number, rows in zip(numbers.tolist(), vectors, strict=True):
                if not np.isfinite(rows).all():
                    raise InputError(
                        f"The model gives NaN or infinity for {sequences[number]:.30}... . Set "
                        "hardware.precision=fp32, or check its weights."
                    )
                found[number] = rows.reshape(-1, self.layers, rows.shape[-1] // self.layers)
            self.passed(sum(len(sequences[number]) for number in numbers))
        return found
