"""A backbone's outputs by themselves: vectors of residues, or of whole sequences where they are pooled.

Sequences are packed, longest first, so nothing is padded and the most memory is asked for at once. Costs one forward
pass, without a graph.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from plmft import InputError
from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.records import Record
from plmft.data.sampler import EvaluationBatches
from plmft.models.given_sequences import check_sequence
from plmft.models.heads import mean_pool
from plmft.models.precision import autocast, hold_frozen_in_bf16
from plmft.models.windows import Windows

if TYPE_CHECKING:
    from plmft.models.spec import Spec

Pool = Callable[[Tensor, PackedBatch], Tensor]


@dataclass(frozen=True)
class Embedder:
    """How vectors are read from a backbone, which must be in evaluation mode: dropout would make noise of them.

    Args:
        backbone: gives (T, D) vectors of a packed batch.
        windows: how sequences beyond the model's context are read; None: there are none.
        pool: makes (N, W) of (T, D) float32 vectors; None: residues stay as they are.
        device: where the backbone is; PyTorch's name.
        precision: of the forward pass, as hardware.precision names it. Vectors are float32 whatever it is.
    """

    backbone: nn.Module
    windows: Windows | None = None
    pool: Pool | None = None
    device: str = "cpu"
    precision: str = "fp32"

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch) -> Tensor:
        """(T, D) float32 vectors of all tokens, or (N, W) of all sequences, on the backbone's device."""
        batch = batch.to(self.device)
        with autocast(self.precision, torch.device(self.device).type):
            vectors = self.backbone(batch) if self.windows is None else self.windows.read(self.backbone, batch)
        vectors = vectors.float()
        return vectors if self.pool is None else self.pool(vectors, batch)


def embed(
    backbone: nn.Module,
    split: EncodedSplit,
    *,
    tokens_per_batch: int,
    pooled: bool,
    pool: Pool = mean_pool,
    windows: Windows | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Vectors of all records, each once, longest first. The backbone is put in evaluation mode.

    Args:
        tokens_per_batch: residues and special tokens that one forward pass holds.
        pooled: one vector a sequence, by `pool`, in place of one a residue.
        windows, device, precision: see Embedder.
    Yields: (R,) int64 record numbers, and for each of their sequences (two in a row for a pair) a float32 array: (L, D)
        of its residues without special tokens, or (W,).
    """
    read = Embedder(backbone.eval(), windows, pool if pooled else None, device, precision)
    batches = EvaluationBatches(split, tokens_per_batch)
    for number in range(len(batches)):
        batch = batches[number]
        vectors = read(batch).cpu()
        if not pooled:
            kept = zip(vectors.split(batch.lengths), batch.is_residue.split(batch.lengths), strict=True)
            vectors = [found[residue] for found, residue in kept]
        yield batch.index.numpy(), [found.numpy() for found in vectors]


def embed_sequences(
    spec: "Spec",
    sequences: Sequence[str],
    *,
    backbone: nn.Module | None = None,
    pooled: bool = True,
    windows: bool = False,
    tokens_per_batch: int = 4096,
    device: str = "cpu",
    precision: str = "fp32",
) -> np.ndarray | list[np.ndarray]:
    """Vectors of sequences in their order: (N, D) means over residues, or a list of N (L, D); float32.

    Args:
        spec: which model; its weights are found as a run finds them.
        backbone: the model itself, where it was built before.
        windows: read sequences beyond the model's context in overlapping windows.
        tokens_per_batch, device, precision: as in `embed`. bf16_weights holds the weights of linear layers in bf16: the
            vectors of bf16, sooner and in half the memory. It changes a given backbone.
    Raises: InputError: no sequence, a letter that is no amino acid, or a sequence beyond the model's context.
    """
    _check(spec, sequences, windows)
    if backbone is None:
        from plmft.models.build import build_backbone
        from plmft.models.weights import locate

        backbone = build_backbone(spec, locate(spec))
    backbone.to(device)
    if precision == "bf16_weights":
        hold_frozen_in_bf16(backbone.requires_grad_(False))
    records = [Record(str(i), sequence, None, "test") for i, sequence in enumerate(sequences)]
    found: list[np.ndarray] = [np.empty(0)] * len(records)
    for numbers, vectors in embed(
        backbone,
        EncodedSplit(records, spec.tokenizer, "masked_lm"),
        tokens_per_batch=tokens_per_batch,
        pooled=pooled,
        windows=Windows.of(spec.context, spec.tokenizer) if windows and spec.context else None,
        device=device,
        precision=precision,
    ):
        for number, vector in zip(numbers, vectors, strict=True):
            found[number] = vector
    return np.stack(found) if pooled else found


def _check(spec: "Spec", sequences: Sequence[str], windows: bool) -> None:
    if isinstance(sequences, str) or not len(sequences):
        raise InputError("Give a list of at least one sequence.")
    for number, sequence in enumerate(sequences):
        context = None if windows else spec.context
        check_sequence(number, sequence, context, model=spec.name, way_out=" Set windows=True to read it in parts.")
