"""What a user chooses of a head; `build` makes the network. Light, so that a config is checked without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

if TYPE_CHECKING:
    from torch import nn

    from plmft.data.records import Kind


@dataclass(frozen=True)
class SequenceHead:
    """One vector a sequence by pooling its residues, then a two-layer network.

    Args:
        pooling: mean of the residues, each feature's maximum over them, a learned attention over them, or the vector of
            the first special token. A mean dilutes what one residue of hundreds does; a maximum does not.
        normalize: centre and scale the pooled vectors over each optimizer step. Without it, training on variants of one
            protein starts very slowly. A step that does not fit `tokens_per_batch` then takes a second forward pass.
        hidden: width of the middle layer.
    """

    pooling: Literal["mean", "max", "attention", "cls"]
    normalize: bool
    hidden: Annotated[int, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]

    def build(self, width: int, outputs: int, kind: "Kind") -> "nn.Module":
        """The head for vectors of `width`, giving `outputs` numbers a sequence or a pair of them."""
        from plmft.models.heads import SequenceMlp

        return SequenceMlp(
            width,
            outputs,
            pooling=self.pooling,
            normalize=self.normalize,
            hidden=self.hidden,
            dropout=self.dropout,
            pairs=kind == "pair_classification",
        )


@dataclass(frozen=True)
class ResidueHead:
    """A linear layer on each residue's vector."""

    dropout: Annotated[float, Ge(0), Lt(1)]

    def build(self, width: int, outputs: int, kind: "Kind") -> "nn.Module":
        """The head for vectors of `width`, giving `outputs` scores a residue."""
        from plmft.models.heads import ResidueLinear

        return ResidueLinear(width, outputs, dropout=self.dropout)


Head = SequenceHead | ResidueHead
