"""Scores of variants and of whole sequences by a masked language model that was not trained on them.

Masked marginals and wild-type marginals are those of ESM-1v (Meier et al. 2021): the sum over the mutated positions of
log p(mutant residue) - log p(wild-type residue), each read from the wild type with that position masked, or from the
wild type as it is. They are additive: several mutations are not seen together. Pseudo-log-likelihood sees them: it
masks each residue of the mutant in turn; the wild type's is subtracted. Costs one pass a mutated position, one pass,
and L passes a mutant. Probabilities are over the whole vocabulary, as in ESM's own code; in a marginal the sum over it
cancels out.

A sequence beyond the model's context is read, for each scored position, in the window of one context around it, as far
inside the sequence as it goes: also each of several mutations in its own. Each window is a pass, also of wild-type
marginals. ProteinGym (Notin et al. 2023) centres windows so too, but of 1,024 tokens cut from the whole tokenised
protein; ours have special tokens at both ends, as all that the models have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from plmft.data.packing import EncodedSplit, PackedBatch, cut
from plmft.data.records import AMINO_ACIDS, Record
from plmft.models.masked_lm import MaskedLm
from plmft.models.tokenizer import Tokenizer

Masked = Literal["each", "all", "none"]
Tell = Callable[[int, int], None]  # takes residues and sequences of a finished pass


class LikelihoodReader:
    """Reads log-probabilities of tokens at chosen positions.

    Args:
        context: residues that the model takes.
        tokens_per_batch: at most so many in a pass.
        tell: told of each pass.
    """

    def __init__(
        self, model: MaskedLm, tokenizer: Tokenizer, context: int, tokens_per_batch: int, tell: Tell = lambda *_: None
    ) -> None:
        self._model, self._tokenizer, self._context = model, tokenizer, context
        self._budget, self._tell = tokens_per_batch, tell

    def read(self, sequence: str, positions: Sequence[int], masked: Masked) -> np.ndarray:
        """(P, V) float32 at positions counted from 0.

        Args: masked: `each` position alone, in a pass of its own; `all` of them in one pass; or `none`.
        """
        found = np.empty((len(positions), len(self._tokenizer.vocabulary)), np.float32)
        if not len(positions):
            return found
        begins = [window_begin(p, len(sequence), self._context) for p in positions]
        distinct = sorted(set(begins))
        windows = [sequence[begin : begin + self._context] for begin in distinct]
        split = EncodedSplit([Record("", w, None, "test") for w in windows], self._tokenizer, "masked_lm")
        number = {begin: window for window, begin in enumerate(distinct)}
        places = [(number[b], p - b) for b, p in zip(begins, positions, strict=True)]
        if masked == "each":
            return np.concatenate(list(self._passes(split, places)))
        for window, begin in enumerate(distinct):
            batch, first = split.pack(np.array([window])), len(self._tokenizer.prefix)
            if masked == "all":
                seen = [p - begin for p in positions if begin <= p < begin + self._context]
                batch.tokens[torch.tensor(seen) + first] = self._tokenizer.mask
            inside = [i for i, (w, _) in enumerate(places) if w == window]
            found[inside] = self._log_probabilities(batch, torch.tensor([places[i][1] + first for i in inside]))
        return found

    def _passes(self, split: EncodedSplit, places: list[tuple[int, int]]) -> Iterator[np.ndarray]:
        index = np.array([window for window, _ in places])
        offsets = torch.tensor([offset for _, offset in places])
        for part in cut(split.lengths[index], self._budget):
            batch = split.pack(index[part])
            at = batch.cu_seqlens[:-1].long() + len(self._tokenizer.prefix) + offsets[part]
            batch.tokens[at] = self._tokenizer.mask
            yield self._log_probabilities(batch, at)

    def _log_probabilities(self, batch: PackedBatch, at: torch.Tensor) -> np.ndarray:
        device = next(self._model.parameters()).device
        found = self._model.log_probabilities(batch.to(device), at.to(device)).cpu().numpy()
        self._tell(batch.residues, len(batch.lengths))
        return found

    def ids(self, sequence: str) -> np.ndarray:
        """(L,) int64 token of each residue."""
        end = len(sequence) + len(self._tokenizer.prefix)
        return self._tokenizer.encode(sequence)[len(self._tokenizer.prefix) : end]


def window_begin(position: int, length: int, context: int) -> int:
    """Where the window for a position begins: the position in its middle, but no window leaves the sequence."""
    return max(0, min(position - context // 2, length - context))


def mutated(wild_type: str, mutant: str) -> list[int]:
    """Positions, counted from 0, at which two sequences of one length differ."""
    if len(wild_type) != len(mutant):
        raise ValueError(f"the wild type has {len(wild_type)} residues, the mutant {len(mutant)}.")
    return [i for i, (a, b) in enumerate(zip(wild_type, mutant, strict=True)) if a != b]


def marginals(reader: LikelihoodReader, wild_type: str, mutants: Sequence[str], *, masked: bool) -> np.ndarray:
    """(n,) float64 scores of mutants of one wild type, higher is fitter; see the module's head."""
    places = [mutated(wild_type, mutant) for mutant in mutants]
    positions = sorted({p for at in places for p in at})
    if not positions:
        return np.zeros(len(mutants))
    rows = dict(
        zip(positions, reader.read(wild_type, positions, "each" if masked else "none").astype(np.float64), strict=True)
    )
    before = reader.ids(wild_type)
    scores = []
    for mutant, at in zip(mutants, places, strict=True):
        after = reader.ids(mutant)
        scores.append(sum(rows[p][after[p]] - rows[p][before[p]] for p in at))
    return np.array(scores, dtype=np.float64)


def residue_log_likelihoods(reader: LikelihoodReader, sequence: str) -> np.ndarray:
    """(L,) float64 log p of each residue, masked alone: L passes. Their sum is the pseudo-log-likelihood.

    NaN for what is not one of the 20 amino acids (X, B, U ...): models differ in what they make of it.
    """
    known = _known(sequence)
    return _at(known, reader.read(sequence, known, "each"), sequence, reader)


def masked_log_likelihoods(
    reader: LikelihoodReader, sequence: str, share: float, rng: np.random.Generator
) -> np.ndarray:
    """(L,) float64 log p of a random share of the residues (at least one), all masked in one pass; NaN elsewhere.

    Every one that is chosen becomes the mask token. As above, only the 20 amino acids are.
    """
    known = _known(sequence)
    chosen = np.sort(rng.permutation(known)[: max(1, round(share * len(known)))]).tolist()
    return _at(chosen, reader.read(sequence, chosen, "all"), sequence, reader)


def _known(sequence: str) -> list[int]:
    return [i for i, letter in enumerate(sequence) if letter in AMINO_ACIDS]


def _at(positions: Sequence[int], rows: np.ndarray, sequence: str, reader: LikelihoodReader) -> np.ndarray:
    found = np.full(len(sequence), np.nan)
    found[positions] = rows[np.arange(len(positions)), reader.ids(sequence)[positions]]
    return found
