"""A split whose batches bring the backbone's vectors along, from the embedding cache. Costs one read a sequence."""

from dataclasses import replace

import numpy as np

from plmft.data.packing import EncodedSplit, PackedBatch, StepBatch, cut
from plmft.models.embedding_cache import EmbeddingCache, Places


class EmbeddedSplit:
    """Takes the place of the EncodedSplit that it wraps.

    Args:
        places: where the vectors of its sequences lie in `cache`; none may be missing.
        pooled: one vector a sequence. Batches then hold as many records as the token budget allows vectors.
    """

    def __init__(self, split: EncodedSplit, cache: EmbeddingCache, places: Places, *, pooled: bool) -> None:
        self.kind = split.kind
        self._split, self._cache, self._places = split, cache, places
        self._parts = len(places.shards) // max(1, len(split))  # sequences of a record
        self._lengths = np.full(len(split), self._parts) if pooled else split.lengths

    @property
    def lengths(self) -> np.ndarray:
        """(R,) int64: vectors of each record."""
        return self._lengths

    @property
    def target_counts(self) -> np.ndarray:
        """(R,) int64: what the loss of each record is divided by."""
        return self._split.target_counts

    def __len__(self) -> int:
        return len(self._split)

    def pack(self, index: np.ndarray) -> PackedBatch:
        """The records with these numbers, in this order, with their vectors. index: (R,) int64."""
        index = np.asarray(index, dtype=np.int64)
        numbers = (index[:, None] * self._parts + np.arange(self._parts)).reshape(-1)
        return replace(self._split.pack(index), vectors=self._cache.vectors(self._places, numbers))

    def step(self, index: np.ndarray, tokens_per_batch: int) -> StepBatch:
        """The records of one optimizer step, cut into micro-steps of at most `tokens_per_batch` vectors."""
        micro = tuple(self.pack(index[part]) for part in cut(self.lengths[index], tokens_per_batch))
        return StepBatch(micro, int(self.target_counts[index].sum()))
