"""P-ID: what a model is, read from its own weights, beside what its card in conf/model types.

Sizes are those of the loaded arrays, not of a description. Whether it reads in both directions is tried: a residue is
changed, and vectors before it move or don't. Costs loading the model and three passes over one short sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from plmft.bench.material import fixed_sequences
from plmft.bench.protocol import Bench, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

    from plmft.models.weights import Located

MOVED = 1e-6  # of the largest component of any vector: below it is rounding
OTHER = {"A": "W"}  # what a residue is changed to; all others to A


@dataclass(frozen=True)
class Identity:
    """Options of the protocol. length: residues of the sequence that the direction is tried on."""

    length: Annotated[int, Ge(4)]

    uses: ClassVar[tuple[str, ...]] = ()

    def fixes(self) -> dict[str, object]:
        """What makes two machines' figures compare."""
        return {"precision": "fp32", "moved": f"more than {MOVED} of the largest component"}

    def measure(self, bench: Bench) -> Iterator[Row]:
        """One row."""
        from plmft.models.weights import locate

        located = locate(bench.spec)
        backbone = bench.backbone()
        found = facts(backbone)
        row = bench.conditions("fp32", family=bench.spec.family, hub=bench.spec.hub, source=located.source)
        row |= {"tokens": " ".join(bench.spec.tokenizer.vocabulary), "length": self.length}
        differs = {
            name: (float(getattr(bench.spec, name)), value)
            for name, value in found.items()
            if getattr(bench.spec, name, None) is not None and float(getattr(bench.spec, name)) != value
        }
        row["card"] = "agrees" if not differs else "differs"
        before, after = directions(bench, backbone, self.length)
        row["bidirectional"] = str(before > MOVED and after > MOVED).lower()
        row |= found | {"moved_before": before, "moved_after": after}
        notes = [f"{name}: {typed:g} on the card, {value:g} in the weights" for name, (typed, value) in differs.items()]
        of_files, why = files_of(bench, located)
        yield row | of_files | ({"note": "; ".join([*notes, *why])} if notes or why else {})


def facts(backbone: "nn.Module") -> dict[str, float]:
    """Sizes of the arrays that compute. A model without a network of transformers has its weights counted alone.

    Returns: parameters, and by the names of the card: layers, width, heads, feedforward, vocabulary; positions where
        there is a table of them.
    """
    found: dict[str, int] = {"parameters": sum(weights.numel() for weights in backbone.parameters())}
    network = getattr(backbone, "network", None)
    if network is None:
        return {name: float(value) for name, value in found.items()}
    layers = network.encoder.layer
    found["layers"] = len(layers)
    found["vocabulary"], found["width"] = network.embeddings.word_embeddings.weight.shape
    found["feedforward"] = layers[0].intermediate.dense.weight.shape[0]
    found["heads"] = layers[0].attention.self.num_attention_heads
    table = getattr(network.embeddings, "position_embeddings", None)
    rotary = getattr(network.config, "position_embedding_type", None) == "rotary"
    if table is not None and not rotary:
        found["positions"] = table.weight.shape[0]
    return {name: float(value) for name, value in found.items()}


def directions(bench: Bench, backbone: "nn.Module", length: int) -> tuple[float, float]:
    """By how much vectors of other residues move, at most, when the last residue is changed, and when the first is.

    Returns: as shares of the largest component of any vector.
    """
    sequence = fixed_sequences(1, length, bench.seed)[0]
    usual = _vectors(bench, backbone, sequence)
    largest = usual.abs().max().item()
    last = _vectors(bench, backbone, sequence[:-1] + _other(sequence[-1]))
    first = _vectors(bench, backbone, _other(sequence[0]) + sequence[1:])
    before = (last - usual)[:-1].abs().max().item() / largest
    return before, (first - usual)[1:].abs().max().item() / largest


def _other(residue: str) -> str:
    return OTHER.get(residue, "A")


def _vectors(bench: Bench, backbone: "nn.Module", sequence: str) -> "Tensor":
    """(L, D) float32 of the residues."""
    import torch

    from plmft.bench.predicting import packed_batches

    batch = packed_batches(bench, [sequence], len(sequence) + 2)[0].to(bench.where)
    with torch.inference_mode():
        return backbone(batch)[batch.is_residue].float().cpu()


def files_of(bench: Bench, located: "Located") -> tuple[Row, list[str]]:
    """Bytes of the files that are loaded, and weights in them, heads that plmft leaves out included; or why not."""
    if located.path is None:
        why = "no checkpoint was read: weights are random, the sizes are those that the card types"
        return {}, [why] if bench.spec.hub else ["no weights are published for this model"]
    from plmft.models.weights import read_state

    state: dict[str, Any] = read_state(bench.spec, located)
    row: Row = {"file_bytes": float(sum(file.stat().st_size for file in located.files))}
    row["parameters_in_files"] = float(sum(weights.numel() for weights in state.values()))
    types = sorted({str(weights.dtype).removeprefix("torch.") for weights in state.values()})
    return row | {"types_in_files": ", ".join(types)}, []
