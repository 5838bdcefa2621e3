"""Frozen tuning: the backbone's vectors come from the cache. What it lacks is computed first, as a phase of its own.

Training, validation and tests then run the head alone. Where the disk has no room, or can't be written, the run goes on
without a cache and says so: each epoch passes through the backbone.
"""

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from plmft.data.packing import EncodedSplit, PackedBatch
from plmft.data.records import Split
from plmft.data.whole_file import write_whole
from plmft.efficiency.out_of_memory import is_out_of_memory
from plmft.efficiency.phase import PhaseCost, PhaseMeter
from plmft.models.embedded_split import EmbeddedSplit
from plmft.models.embedding import Embedder
from plmft.models.embedding_cache import EmbeddingCache, Places, Sequences
from plmft.models.embedding_key import CacheKey, architecture_digest, weights_digest
from plmft.models.heads import SequenceMlp
from plmft.models.predictor import Predictor
from plmft.training.hardware import Device
from plmft.training.metering import Flops
from plmft.training.phases import SAY_EVERY_S

SEEN_AFTER_S = 60.0
FULL, HALF = "float32", "float16"  # pooled vectors, which are few, and residues


@dataclass(frozen=True)
class Embedded:
    """The splits to train and test on.

    Args:
        cached: their batches bring vectors. cost: of the phase `embed`. notes: what must be said, a line each.
    """

    splits: Mapping[Split, EncodedSplit | EmbeddedSplit]
    cached: bool
    cost: PhaseCost
    notes: tuple[str, ...]


@contextmanager
def backbone_set_aside(predictor: Predictor) -> Iterator[None]:
    """The head trains alone: what moves, counts or walks through all weights has no frozen ones to go through, and a
    GPU does not hold them. It is back at the end.
    """
    backbone = predictor.backbone.to("cpu")
    predictor.backbone = nn.Identity()
    try:
        yield
    finally:
        predictor.backbone = backbone


class EmbeddingPhase:
    """Reads splits through the cache in `root`. A device must hold the whole backbone, whatever the run's strategy.

    Args:
        tokenizer: the digest of the model's. tokens_per_batch: that one forward pass holds.
        meter: a new one. flops: of the backbone, for token counts by sequence.
        rank, world: this process, and how many compute together: each takes its own sequences.
        gather: gives every rank's value on each rank, and so waits for all.
        spent: a file of this rank's for what the phase cost, which a later process of the same run adds to its own.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        root: Path,
        tokenizer: str,
        device: Device,
        tokens_per_batch: int,
        meter: PhaseMeter,
        flops: Flops,
        console: Console,
        rank: int = 0,
        world: int = 1,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
        spent: Path | None = None,
    ) -> None:
        self._predictor, self._root, self._tokenizer, self._device = predictor, root, tokenizer, device
        self._budget, self._meter, self._flops, self._console = tokens_per_batch, meter, flops, console
        self._rank, self._world, self._gather, self._spent = rank, world, gather, spent
        head = predictor.head
        self._pooled = isinstance(head, SequenceMlp) and head.score is None  # by weights that learn: residues are kept
        self._width = predictor.backbone.width * (len(head.positions) if self._pooling.startswith("concat") else 1)
        self._sequences = self._computed = self._computed_before = 0
        self._said = time.monotonic()

    @property
    def _pooling(self) -> str:
        if not self._pooled:
            return "residues"
        head = self._predictor.head
        return head.pooling if head.positions is None else f"{head.pooling} of {','.join(map(str, head.positions))}"

    def run(self, splits: Mapping[Split, EncodedSplit]) -> Embedded:
        """Compute what the cache lacks, metered, with a line on the console now and then.

        Raises: InputError: the backbone gives NaN.
        """
        self._add_earlier_processes()
        self._meter.begin()
        fault: OSError | None = None
        cache, found = None, {}
        try:
            cache = EmbeddingCache(self._root, self._key())
            found = {name: Sequences.of(split) for name, split in splits.items()}
            self._sequences = len(np.unique(np.concatenate([one.keys for one in found.values()]), axis=0))
            cache.check_room(found.values(), self._width, pooled=self._pooled)
            for name, sequences in found.items():
                self._fill(cache, splits[name], sequences)
        except OSError as error:
            fault = error
        self._meter.steps.pause()
        done = self._gather((fault is None, self._computed))
        if not all(well for well, _ in done):
            return self._without(splits, fault)
        places = self._find(cache, found)
        if not all(self._gather(not any(p.missing.any() for p in places.values()))):
            return self._without(splits, None)
        self._computed = sum(computed for _, computed in done)
        embedded = {
            name: EmbeddedSplit(split, cache, places[name], pooled=self._pooled) for name, split in splits.items()
        }
        return Embedded(embedded, True, self._cost(cache), self._told(cache))

    def _add_earlier_processes(self) -> None:
        if self._spent is None or not self._spent.exists():
            return
        with suppress(ValueError):  # a machine that went down may have left it empty
            earlier = json.loads(self._spent.read_text())
            self._meter.load_state_dict(earlier["meter"])
            self._computed_before = earlier["sequences_computed"]

    def _find(self, cache: EmbeddingCache, found: Mapping[Split, Sequences]) -> dict[Split, Places]:
        """On a network's disk, what another machine has written may be seen only after a while."""
        until = time.monotonic() + (SEEN_AFTER_S if self._world > 1 else 0.0)
        while True:
            cache.refresh()
            places = {name: cache.find(sequences) for name, sequences in found.items()}
            if time.monotonic() >= until or not any(p.missing.any() for p in places.values()):
                return places
            time.sleep(1.0)

    def _key(self) -> CacheKey:
        backbone, windows = self._predictor.backbone, self._predictor.windows
        return CacheKey(
            weights=weights_digest(backbone),
            architecture=architecture_digest(backbone),
            tokenizer=self._tokenizer,
            precision=self._device.precision,
            pooling=self._pooling,
            windows=None if windows is None else windows.context,
            stored=FULL if self._pooled else HALF,
        )

    def _fill(self, cache: EmbeddingCache, split: EncodedSplit, sequences: Sequences) -> None:
        """After an out-of-memory error, on with half the tokens; what was computed before is kept.

        Raises: OSError: no room on the disk, or in memory for the longest sequence alone.
        """
        predictor, device = self._predictor, self._device.torch_type
        predictor.backbone.to(device)
        pool = predictor.head.to(device).pool if self._pooled else None
        embedder = Embedder(predictor.backbone, predictor.windows, pool, device, self._device.precision)
        self._start_step()
        while True:
            try:
                self._computed += cache.fill(
                    split,
                    sequences,
                    embedder,
                    tokens_per_batch=self._budget,
                    passed=self._passed,
                    waiting=self._waiting,
                    rank=self._rank,
                    world=self._world,
                )
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            longest = int(sequences.tokens.max())
            if self._budget <= longest:  # training may do with less: it can shard the weights
                raise OSError(errno.ENOMEM, f"out of memory at a sequence of {longest:,} tokens")
            self._budget //= 2
            self._say(f"Out of memory: embedding goes on with at most {self._budget:,} tokens at once.")

    def _start_step(self) -> None:
        self._meter.steps.fetch_begin()
        self._meter.steps.step_begin()

    def _passed(self, batch: PackedBatch) -> None:
        """A forward pass has ended, and the next begins."""
        steps, tokens = self._meter.steps, sum(batch.lengths)
        steps.step_end(
            residues=batch.residues, sequences=len(batch.lengths), tokens=tokens, flops=self._flops(batch.lengths)
        )
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            rate = f", {steps.recent_residues_per_s:,.0f} residues/s" if steps.recent_residues_per_s else ""
            self._say(f"embed {steps.total_sequences:,} of at most {self._sequences:,} sequences{rate}")
        self._start_step()

    def _waiting(self) -> None:
        self._say("Another run computes the same embeddings: waiting for it.")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _cost(self, cache: EmbeddingCache) -> PhaseCost:
        cost, computed = self._meter.end(), self._computed_before + self._computed
        if self._spent is not None:
            self._spent.parent.mkdir(parents=True, exist_ok=True)
            state = {"meter": self._meter.state_dict(), "sequences_computed": computed}
            write_whole(self._spent, json.dumps(state).encode())
        figures = {"sequences": self._sequences, "sequences_computed": computed, "cache_gb": cache.size / 1e9}
        return replace(cost, values=cost.values | {name: float(value) for name, value in figures.items()})

    def _told(self, cache: EmbeddingCache) -> tuple[str, ...]:
        """Says what was found and done; returns what must be said again at the end."""
        self._say(
            f"Embeddings: {self._computed:,} sequences computed, {self._sequences - self._computed:,} of "
            f"{self._sequences:,} from the cache ({cache.size / 1e6:,.3g} MB in {cache.folder})."
        )
        if not cache.broken:
            return ()
        note = f"Damaged files of the cache of embeddings, removed and computed again: {cache.broken}."
        self._say(note)
        return (note,)

    def _without(self, splits: Mapping[Split, EncodedSplit], fault: OSError | None) -> Embedded:
        why = "another process can't read or write them" if fault is None else fault.strerror or str(fault)
        note = f"Embeddings are not cached ({why}): each epoch passes through the backbone. It is slow, and exact."
        self._say(note)
        return Embedded(splits, False, self._meter.end(), (note,))
