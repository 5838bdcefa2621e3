"""How long one prediction takes, forward pass, tokenisation and transfer apart; by length, batch and precision.

P-INF. Every cell is warmed up until it is stable, implementations and models of one cell take turns, and FLOP/s are
told against the device's peak. By default about a minute for ESM-2 8M on two cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Gt, MinLen

from plmft import InputError
from plmft.bench.forward import Implementation, Precision, attention_told, caution, forward_of, refused
from plmft.bench.protocol import Bench, Row
from plmft.bench.timing import Timed, Timing, interleave, ratio

if TYPE_CHECKING:
    from plmft.bench.forward import Forward
    from plmft.data.packing import PackedBatch

Lengths = Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]


@dataclass(frozen=True)
class Latency:
    """The grid, and how long each cell is measured.

    Args:
        lengths: residues of each sequence; special tokens come on top. batches: sequences of a forward pass.
        precisions: of the products.
        implementations: packed is plmft's; sdpa and eager are transformers' own over the same weights; compiled is
            plmft's by torch.compile.
        beside: another model (a file of conf/model), measured in turn with this one; null: none.
        blocks, block_s, least_calls, most_s, warmup_s: see Timing.
    """

    lengths: Lengths
    batches: Lengths
    precisions: Annotated[tuple[Precision, ...], MinLen(1)]
    implementations: Annotated[tuple[Implementation, ...], MinLen(1)]
    beside: str | None
    blocks: Annotated[int, Ge(1)]
    block_s: Annotated[float, Gt(0)]
    least_calls: Annotated[int, Ge(1)]
    most_s: Annotated[float, Gt(0)]
    warmup_s: Annotated[float, Gt(0)]
    shows: ClassVar[tuple[str, ...]] = (
        "step_time_ms_p50",
        "step_time_ms_p95",
        "step_time_ms_p99",
        "tokenize_ms_p50",
        "transfer_ms_p50",
        "sequences_per_s",
        "mfu",
        "speed_over_beside",
        "speed_over_beside_low",
        "speed_over_beside_high",
    )

    def fixes(self) -> dict[str, object]:
        return {
            "sequences": "random residues, all of one length, seeded",
            "mode": "eval, inference_mode; no padding",
            "step": "forward pass on the device, waited for; tokens are there before",
            "percentiles": "over single calls; medians and ratios over blocks in turn",
        }

    def check(self, bench: Bench) -> None:
        """Raises: InputError: the second model can't be measured."""
        if self.beside is not None:
            beside(bench, self.beside)

    def measure(self, bench: Bench) -> Iterator[Row]:
        benches = [bench, *([beside(bench, self.beside)] if self.beside else [])]
        peaks: dict[str, object] = {}
        for precision in self.precisions:
            ways = [(b, way) for b in benches for way in self.implementations]
            forwards, built = {}, {}
            for number, (other, way) in enumerate(ways):
                reason = refused(other, way, precision)
                if reason is not None:
                    yield other.conditions(precision, implementation=way) | {"note": reason}
                    continue
                key = (other.spec.name, way == "compiled")  # compiled for good; the others share the weights
                built[key] = built.get(key) or other.backbone(precision)
                forwards[number] = forward_of(other, built[key], way, precision)
            for length in self.lengths:
                for batch in self.batches:
                    cell = _Cell(precision, length, batch)
                    yield from self._cell(cell, {n: (*ways[n], f) for n, f in forwards.items()}, peaks)

    def _cell(
        self, cell: _Cell, rivals: dict[int, tuple[Bench, Implementation, Forward]], peaks: dict[str, object]
    ) -> Iterator[Row]:
        calls, rows, packed = {}, {}, {}
        for number, (bench, way, forward) in rivals.items():
            rows[number] = cell.conditions(bench, way)
            reason = cell.impossible(bench)
            if reason is None:
                packed[number], reason = cell.prepare(bench, forward)
            if reason is not None:
                yield rows.pop(number) | {"note": reason}
            else:
                calls[number] = lambda f=forward, b=packed[number][1]: f(b)
        timed = interleave(calls, self._timing) if calls else {}
        for number, row in rows.items():
            bench, way, _ = rivals[number]
            found = row | cell.figures(bench, timed[number], packed[number][1], peaks)
            found |= cell.host_side(bench, self._timing)
            notes = [*timed[number].notes, *filter(None, [found.pop("note", None), cell.caution(bench)])]
            for other in rows:
                if rivals[other][1] == way and rivals[other][0] is not bench and bench is rivals[min(rivals)][0]:
                    found |= _ratio(rivals[other][0], timed[other], timed[number], notes)
            yield found | ({"note": "; ".join(notes)} if notes else {})

    @property
    def _timing(self) -> Timing:
        return Timing(self.blocks, self.block_s, self.least_calls, self.warmup_s, self.most_s)


@dataclass(frozen=True)
class _Cell:
    """One precision, length and batch."""

    precision: str
    length: int
    batch: int

    def conditions(self, bench: Bench, way: Implementation) -> Row:
        return bench.conditions(
            self.precision,
            implementation=way,
            attention=attention_told(bench, way, self.precision),
            batch=self.batch,
            length=self.length,
            tokens=self.batch * (self.length + _specials(bench)),
        )

    def impossible(self, bench: Bench) -> str | None:
        """Why the network can't take it."""
        from plmft.bench.material import longest_possible

        longest = longest_possible(bench.spec)
        if longest is not None and self.length > longest:
            return f"{bench.spec.name} takes at most {longest:,} residues"
        return None

    def caution(self, bench: Bench) -> str | None:
        context = bench.spec.context
        beyond = context is not None and self.length > context
        told = f"longer than the {context} residues of its training" if beyond else None
        return "; ".join(filter(None, [told, caution(bench, self.precision)])) or None

    def sequences(self, bench: Bench) -> list[str]:
        from plmft.bench.material import fixed_sequences

        return fixed_sequences(self.batch, self.length, bench.seed)

    def prepare(self, bench: Bench, forward: Forward) -> tuple[tuple[PackedBatch, PackedBatch] | None, str | None]:
        """The batch on the host and on the device, and why it can't be computed: it is, once."""
        import numpy as np

        from plmft.bench.material import encoded
        from plmft.efficiency.out_of_memory import is_out_of_memory, memory_note

        try:
            host = encoded(bench.spec, self.sequences(bench)).pack(np.arange(self.batch))
            there = host.to(bench.where)
            forward(there)
        except Exception as error:
            if is_out_of_memory(error):
                return None, memory_note(error)
            if type(error).__module__.startswith("torch._"):  # no compiler, or it can't compile this
                return None, f"torch.compile: {str(error).splitlines()[0]}"
            raise
        return (host, there), None

    def figures(self, bench: Bench, timed: Timed, batch: PackedBatch, peaks: dict[str, object]) -> Row:
        """Times, rates and FLOP/s; rates are of the median call."""
        from plmft.efficiency.flops import find_peak
        from plmft.training.run_flops import backbone_flops

        arithmetic = "bf16" if self.precision == "bf16_weights" else self.precision
        if arithmetic not in peaks:
            peaks[arithmetic] = find_peak(bench.device.torch_type, bench.device.index, arithmetic)
        peak, values = peaks[arithmetic], timed.values()
        rate = 1e3 / values.get("step_time_ms_p50", values["step_time_ms_mean"])
        flops = backbone_flops(bench.spec, batch.lengths)
        row: Row = (
            {"calls": len(timed.calls)}
            | values
            | {
                "sequences_per_s": self.batch * rate,
                "residues_per_s": batch.residues * rate,
                "tokens_per_s": sum(batch.lengths) * rate,
                "model_flops": flops,
                "flops_per_s": flops * rate,
                "mfu": flops * rate / peak.flops_per_s,
            }
        )
        if row["mfu"] > 1:
            row["note"] = f"faster than the device's peak ({peak.source}): doubt the peak or this figure"
        return row

    def host_side(self, bench: Bench, timing: Timing) -> Row:
        """Tokenisation and packing, and the transfer to the device, each by itself."""
        import numpy as np
        import torch

        from plmft.bench.material import encoded

        sequences, index = self.sequences(bench), np.arange(self.batch)
        short = Timing(1, timing.block_s, 1, timing.warmup_s)
        values = interleave({"tokenize": lambda: encoded(bench.spec, sequences).pack(index)}, short)
        if bench.device.kind == "gpu":
            host = encoded(bench.spec, sequences).pack(index)

            def transfer() -> None:
                host.to(bench.where)
                torch.cuda.synchronize()

            values |= interleave({"transfer": transfer}, short)
        return {f"{name}_ms_p50": 1e3 * float(np.median(timed.calls)) for name, timed in values.items()}


def _specials(bench: Bench) -> int:
    return len(bench.spec.tokenizer.prefix) + len(bench.spec.tokenizer.suffix)


def _ratio(other: Bench, slower: Timed, faster: Timed, notes: list[str]) -> Row:
    """How many times as fast as the other model."""
    found = ratio(slower, faster)
    if found is None:
        notes.append("no interval of the ratio: fewer than three rounds")
        return {}
    names = ("speed_over_beside", "speed_over_beside_low", "speed_over_beside_high")
    return {"beside": other.spec.name} | dict(zip(names, found, strict=True))


def beside(bench: Bench, name: str) -> Bench:
    """The same bench with another model, random weights where the first has them.

    Raises: InputError: there is no such model, it has no backbone, or its weights are not there.
    """
    from plmft.bench.choices import choice
    from plmft.bench.job import weights_told
    from plmft.models.direct_spec import DirectSpec
    from plmft.models.spec import TransformerSpec
    from plmft.models.weights import locate
    from plmft.tracking.weights_origin import weights_tags

    try:
        spec = choice("model", name)
    except InputError as error:
        raise InputError(f"protocol.beside={name}: {str(error).removeprefix(f'model={name}: ')}") from None
    if isinstance(spec, DirectSpec):
        raise InputError(f"protocol.beside={name}: it has no backbone to measure. Choose another model.")
    if bench.spec.init == "random" and isinstance(spec, TransformerSpec):
        spec = replace(spec, init="random")
    located = locate(spec)
    told = weights_told(located, weights_tags(located, bench.seed, bench.runs / "cache"))
    return replace(bench, spec=spec, parts=bench.parts | {"model": spec}, weights=told)
