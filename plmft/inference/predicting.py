"""Predict the sequences of a chunk: longest first, packed under a token budget, answers in the order that was given.

A batch is packed in a thread while the one before it is computed. Contact maps, which are L x L, are made small batch
by batch.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.sampler import EvaluationBatches
from plmft.inference.sequences import Given
from plmft.models.precision import autocast
from plmft.models.tuned import Tuned


def predict_chunk(
    tuned: Tuned,
    given: Sequence[Given],
    *,
    tokens_per_batch: int,
    precision: str,
    answer: Callable[[Given, np.ndarray], dict],
    told: Callable[[int], None],
) -> list[dict]:
    """An answer for each sequence, in order.

    Args:
        precision: of the forward pass. answer: of a sequence and its prediction as Predictor.predict gives it.
        told: called with the residues of each batch when it is done.
    Raises: InputError: an output that is not finite, or a batch that does not fit the device's memory.
    """
    description, predictor = tuned.description, tuned.predictor
    records = [description.unmeasured(g.id, g.sequence, g.partner) for g in given]
    split = EncodedSplit(records, description.spec.tokenizer, predictor.kind)
    device = predictor.target_mean.device
    found: dict[int, dict] = {}
    with autocast(precision, device.type):
        for batch in _ahead(EvaluationBatches(split, tokens_per_batch)):
            for at, prediction in zip(batch.index.tolist(), _predicted(tuned, batch.to(device)), strict=True):
                found[at] = answer(given[at], prediction)
            told(batch.residues)
    return [found[at] for at in range(len(given))]


def _predicted(tuned: Tuned, batch: PackedBatch) -> list[np.ndarray]:
    try:
        return tuned.predictor.predict(batch)
    except torch.OutOfMemoryError:
        raise InputError(
            f"a batch of {len(batch.tokens):,} tokens does not fit the GPU's memory (longest sequence: "
            f"{max(batch.lengths):,}). Set hardware.tokens_per_batch lower; what was written is kept."
        ) from None


def _ahead(batches: EvaluationBatches) -> Iterator[PackedBatch]:
    with ThreadPoolExecutor(1, "packer") as packer:
        coming = packer.submit(batches.__getitem__, 0)
        for at in range(1, len(batches) + 1):
            batch = coming.result()
            if at < len(batches):
                coming = packer.submit(batches.__getitem__, at)
            yield batch
