"""How many sequences a second, from text to vectors: real lengths and fixed ones, packed and padded, by batch size.

Tokenising, packing and transfer are in the step, as for a user; the wait for them is told apart. The best batch size of
each group is marked. By default about two minutes for ESM-2 8M on two cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, MinLen

from plmft.bench.forward import Precision, attention_told, caution, forward_of, refused
from plmft.bench.metering import costs_of, phase_meter
from plmft.bench.protocol import Bench, Row

if TYPE_CHECKING:
    import numpy as np

    from plmft.bench.forward import Forward
    from plmft.data.packing import PackedBatch

Batching = Literal["packed", "bucketed", "unsorted"]
Positive = Annotated[int, Gt(0)]


@dataclass(frozen=True)
class Throughput:
    """The grid, and how long each cell is measured.

    Args:
        sequences: how many, of real lengths.
        fixed_lengths: residues; as many residues in all as the real ones have.
        batchings: packed is plmft's, without padding; bucketed and unsorted are rectangles through transformers' own
            model (SDPA), of sequences sorted by length, or as they come.
        tokens_per_batch: tokens of a forward pass, padding counted.
        precisions: of the products; null: the device's own.
        seconds: of each cell, at least, in whole passes over the sequences; one more pass warms up.
    """

    sequences: Annotated[int, Ge(2)]
    fixed_lengths: tuple[Positive, ...]
    batchings: Annotated[tuple[Batching, ...], MinLen(1)]
    tokens_per_batch: Annotated[tuple[Positive, ...], MinLen(1)]
    precisions: Annotated[tuple[Precision, ...], MinLen(1)] | None
    seconds: Annotated[float, Gt(0)]
    shows: ClassVar[tuple[str, ...]] = (
        "sequences_per_s",
        "residues_per_s",
        "tokens_per_s",
        "padding_fraction",
        "data_wait_fraction",
        "mfu",
        "peak_memory_gb",
        "energy_j_per_1k_sequences",
        "usd_per_1m_sequences",
    )

    def fixes(self) -> dict[str, object]:
        return {
            "step": "tokenise, pack or pad, transfer, forward pass; vectors stay on the device",
            "mode": "eval, inference_mode",
            "order": "seeded; packed and bucketed: longest first",
            "rates": "real residues and sequences over whole passes; tokens count padding",
        }

    def measure(self, bench: Bench) -> Iterator[Row]:
        for precision in self.precisions or (bench.device.precision,):
            reason = refused(bench, "packed", precision)
            if reason is not None:
                yield bench.conditions(precision) | {"note": reason}
                continue
            backbone = bench.backbone(precision)
            for material, sequences in self._materials(bench):
                for batching in self._batchings(sequences):
                    way = "packed" if batching == "packed" else "sdpa"
                    about = bench.conditions(
                        precision,
                        batching=batching,
                        attention=attention_told(bench, way, precision),
                        material=material,
                        sequences=len(sequences),
                        longest=max(map(len, sequences)),
                        **_one_length(sequences),
                    )
                    reason = refused(bench, way, precision)
                    if reason is not None:
                        yield about | {"note": reason}
                        continue
                    forward = forward_of(bench, backbone, way, precision, waits=False)
                    yield from self._group(bench, about, forward, sequences, batching, precision)

    def _batchings(self, sequences: Sequence[str]) -> Sequence[Batching]:
        """Without those that would be the same: rectangles of one length have no padding, in whatever order."""
        if len({len(sequence) for sequence in sequences}) > 1:
            return self.batchings
        padded = next(([b] for b in self.batchings if b != "packed"), [])
        return [*(b for b in self.batchings if b == "packed"), *padded]

    def _materials(self, bench: Bench) -> Iterator[tuple[str, list[str]]]:
        from plmft.bench.material import fixed_sequences, longest_possible

        real = bench.sequences(self.sequences)
        yield bench.source_of_sequences, real
        residues, longest = sum(map(len, real)), longest_possible(bench.spec)
        for length in self.fixed_lengths:
            if longest is None or length <= longest:
                count = max(2, round(residues / length))
                yield f"random residues, all {length} long", fixed_sequences(count, length, bench.seed)

    def _group(
        self,
        bench: Bench,
        about: Row,
        forward: Forward,
        sequences: Sequence[str],
        batching: Batching,
        precision: str,
    ) -> Iterator[Row]:
        """One row for each batch size, together: `best` is the one of most sequences a second."""
        rows = [
            about | {"tokens_per_batch": budget} | self._cell(bench, forward, sequences, batching, budget, precision)
            for budget in self.tokens_per_batch
        ]
        rates = [row.get("sequences_per_s", 0.0) for row in rows]
        told = caution(bench, precision)
        for row, rate in zip(rows, rates, strict=True):
            notes = [*filter(None, [row.pop("note", None), told])]
            best = "yes" if rate and rate == max(rates) else "no"
            yield row | {"best": best} | ({"note": "; ".join(notes)} if notes else {})

    def _cell(
        self, bench: Bench, forward: Forward, sequences: Sequence[str], batching: Batching, budget: int, precision: str
    ) -> Row:
        from plmft.efficiency.out_of_memory import is_out_of_memory, memory_note

        batches = [[sequences[n] for n in numbers] for numbers in cut_batches(bench, sequences, batching, budget)]
        padded = batching != "packed"
        try:
            return measured(bench, forward, batches, seconds=self.seconds, padded=padded, precision=precision)
        except Exception as error:
            if is_out_of_memory(error):
                return {"note": memory_note(error)}
            raise


def _one_length(sequences: Sequence[str]) -> Row:
    """The residues of each, where all have as many."""
    lengths = {len(sequence) for sequence in sequences}
    return {"length": lengths.pop()} if len(lengths) == 1 else {}


def cut_batches(bench: Bench, sequences: Sequence[str], batching: Batching, budget: int) -> list[np.ndarray]:
    """The numbers of the sequences of each batch. A rectangle's padding counts in the budget."""
    import numpy as np

    from plmft.data.packing import cut

    specials = len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)
    lengths = np.array([len(sequence) for sequence in sequences]) + specials
    order = np.arange(len(lengths)) if batching == "unsorted" else np.argsort(-lengths, kind="stable")
    if batching == "packed":
        return [order[part] for part in cut(lengths[order], budget)]
    batches: list[list[int]] = [[]]
    for number in order.tolist():
        longest = max(lengths[number], *(lengths[other] for other in batches[-1]), 0)
        if batches[-1] and longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
        batches[-1].append(number)
    return [np.array(batch, dtype=np.int64) for batch in batches]


def measured(
    bench: Bench, forward: Forward, batches: Sequence[Sequence[str]], *, seconds: float, padded: bool, precision: str
) -> Row:
    """Whole passes over the batches for at least so many seconds, by the meters of a run, after one that warms up.

    Args: padded: the forward pass computes rectangles.
    """
    from plmft.training.run_flops import backbone_flops

    for texts in batches:
        forward(_ready(bench, texts))
    meter = phase_meter(bench, precision)
    meter.begin()
    passes, computed, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for texts in batches:
            meter.steps.fetch_begin()
            batch = _ready(bench, texts)
            meter.steps.step_begin()
            forward(batch)
            real = sum(batch.lengths)
            tokens = len(batch.lengths) * max(batch.lengths) if padded else real
            meter.steps.step_end(
                residues=batch.residues,
                sequences=len(texts),
                tokens=tokens,
                padding=tokens - real,
                flops=backbone_flops(bench.spec, batch.lengths),
            )
            computed += tokens
        passes += 1
    row: Row = {"batches": len(batches), "passes": passes, "steps": meter.steps.total_steps} | costs_of(meter.end())
    return row | {"tokens_per_s": row["sequences_per_s"] * computed / meter.steps.total_sequences}


def _ready(bench: Bench, texts: Sequence[str]) -> PackedBatch:
    """Tokenised, packed and on the device."""
    import numpy as np

    from plmft.bench.material import encoded

    return encoded(bench.spec, texts).pack(np.arange(len(texts))).to(bench.where, non_blocking=True)
