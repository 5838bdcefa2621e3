"""Four loaders of the same proteins, whose batches come without end.

packed is plmft's own: columns that were tokenised before, sequences end to end. padded tokenises a batch when it is
asked for, and fills up a rectangle. Both in random order, or bucketed: sequences of like length together, batches in
random order.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plmft.bench.protocol import Bench

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plmft.data.packing import PackedBatch

Loader = Literal["packed", "packed_bucketed", "padded", "padded_bucketed"]


@dataclass
class Loaded:
    """A batch on the host. tokens: (T,) packed, or (N, L) padded."""

    tokens: "Tensor"
    sequences: int
    residues: int
    padding: int
    packed: "PackedBatch | None" = None
    mask: "Tensor | None" = None


class Source:
    """The loaders of the same proteins."""

    def __init__(self, bench: Bench, count: int, batch: int) -> None:
        from plmft.data.packing import EncodedSplit
        from plmft.data.records import Record

        self.bench, self._batch = bench, batch
        self._sequences = bench.sequences(count)
        records = [Record(str(i), s, 0.0, "train", f"protein {i}") for i, s in enumerate(self._sequences)]
        self._split = EncodedSplit(records, bench.spec.tokenizer, "sequence_regression")
        self._tokens = max(int(self._split.lengths.max()), round(batch * float(self._split.lengths.mean())))

    def endless(self, name: Loader, workers: int) -> Iterator[Loaded]:
        """Batches, one epoch after the other; workers go on from one to the next."""
        from torch.utils.data import DataLoader

        dataset, order = self._dataset(name)
        loader = DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers, collate_fn=_as_it_is)
        yield from map(self._loaded, loader)

    def _dataset(self, name: Loader) -> tuple[Any, Any]:
        """What makes batches, and which to ask for, without end."""
        from plmft.data.sampler import EvaluationBatches, TrainingSteps

        seed = self.bench.seed
        if name == "packed":
            whole = self._batch * int(self._split.lengths.max())  # a step is one batch
            steps = TrainingSteps(self._split, batch_size=self._batch, tokens_per_batch=whole, seed=seed)
            return steps, _Endless(len(steps), seed, by_epoch=True)
        if name == "packed_bucketed":
            batches = EvaluationBatches(self._split, self._tokens)
            return batches, _Endless(len(batches), seed)
        padded = _Padded(self._sequences, self.bench.spec.tokenizer, self._batch, seed, "bucketed" in name)
        return padded, _Endless(len(padded), seed)

    def _loaded(self, batch: Any) -> Loaded:
        if isinstance(batch, tuple):
            tokens, mask, residues = batch
            return Loaded(tokens, len(tokens), residues, int((~mask).sum()), mask=mask)
        packed = batch.micro[0] if hasattr(batch, "micro") else batch
        return Loaded(packed.tokens, len(packed.lengths), packed.residues, 0, packed)

    def pass_through(self, model: "nn.Module", batch: Loaded) -> None:
        """Copy, and one forward pass: packed by plmft's layers, padded by those of transformers."""
        where = self.bench.where
        if batch.packed is not None:
            model(batch.packed.to(where))
        else:
            model.network(batch.tokens.to(where), attention_mask=batch.mask.to(where).long())


class _Endless:
    """Numbers of batches in a random order, over and over; with `by_epoch` (epoch, number), whose order is random."""

    def __init__(self, count: int, seed: int, *, by_epoch: bool = False) -> None:
        self._count, self._seed, self._by_epoch = count, seed, by_epoch

    def __iter__(self) -> Iterator[Any]:
        for epoch in itertools.count():
            if self._by_epoch:
                yield from ((epoch, number) for number in range(self._count))
            else:
                yield from np.random.default_rng([self._seed, epoch]).permutation(self._count).tolist()


class _Padded:
    """Tokenises the sequences of a batch when it is asked for, and pads them to its longest."""

    def __init__(self, sequences: Sequence[str], tokenizer: Any, batch: int, seed: int, bucketed: bool) -> None:
        order = np.random.default_rng(seed).permutation(len(sequences))
        if bucketed:
            order = np.array(sorted(order, key=lambda i: -len(sequences[i])))
        self._sequences, self._tokenizer = sequences, tokenizer
        self._parts = [order[start : start + batch] for start in range(0, len(order), batch)]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, at: int) -> "tuple[Tensor, Tensor, int]":
        """(N, L) int64 tokens, (N, L) bool mask, and residues."""
        import torch

        chosen = [self._sequences[i] for i in self._parts[at]]
        encoded = [torch.from_numpy(self._tokenizer.encode(s)).long() for s in chosen]
        tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True, padding_value=self._tokenizer.pad or 0)
        lengths = torch.tensor([len(e) for e in encoded])
        return tokens, torch.arange(tokens.shape[1])[None] < lengths[:, None], sum(map(len, chosen))


def _as_it_is(batch: Any) -> Any:
    return batch
