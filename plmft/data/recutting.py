"""Cut packed micro-steps again under a smaller token budget, for a step that did not fit into memory.

The records, their order and the step's number of targets stay, so its gradients stay, too. Costs a view of each tensor.
"""

from dataclasses import replace
from itertools import accumulate

import numpy as np
from torch import Tensor

from plmft.data.packing import PackedBatch, StepBatch, cut


def recut(step: StepBatch, budget: int) -> StepBatch:
    """The same step in micro-steps of at most `budget` tokens; a longer record stands alone."""
    return replace(step, micro=tuple(part for batch in step.micro for part in split_batch(batch, budget)))


def split_batch(batch: PackedBatch, budget: int) -> list[PackedBatch]:
    """The batch's records in the same order, in parts of at most `budget` tokens; a longer record stands alone."""
    per_record = len(batch.lengths) // len(batch.index)  # 2 where a record is a pair of sequences
    tokens = np.array(batch.lengths, dtype=np.int64).reshape(-1, per_record).sum(1)
    parts = list(cut(tokens, budget))
    return [batch] if len(parts) == 1 else [_part(batch, part, per_record) for part in parts]


def _part(batch: PackedBatch, records: slice, per_record: int) -> PackedBatch:
    sequences = slice(records.start * per_record, records.stop * per_record)
    starts = [0, *accumulate(batch.lengths)]
    tokens = slice(starts[sequences.start], starts[sequences.stop])

    def part(values: Tensor, entries: slice) -> Tensor:
        """Rows by token where there is one for each token, else by `entries`."""
        return values[tokens] if len(values) == starts[-1] else values[entries]

    return replace(
        batch,
        tokens=batch.tokens[tokens],
        positions=batch.positions[tokens],
        cu_seqlens=batch.cu_seqlens[sequences.start : sequences.stop + 1] - batch.cu_seqlens[sequences.start],
        is_residue=batch.is_residue[tokens],
        index=batch.index[records],
        targets=part(batch.targets, records),
        lengths=batch.lengths[sequences],
        specials=batch.specials // len(batch.lengths) * (sequences.stop - sequences.start),
        vectors=None if batch.vectors is None else part(batch.vectors, sequences),
    )
