"""What a user chooses of a head; `build` makes the network. Light, so that a config is checked without torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from plmft import InputError

if TYPE_CHECKING:
    from torch import nn

    from plmft.data.records import Kind


@dataclass(frozen=True)
class SequenceHead:
    """One vector a sequence by pooling its residues, then a two-layer network.

    Args:
        pooling: mean of the residues, each feature's maximum over them, a learned attention over them, the vector of
            the first special token, or the vectors of all `positions` side by side, which keeps them apart. A mean
            dilutes what one residue of hundreds does; a maximum does not.
        positions: residues that are pooled, counted from 1; null: all. For variants that differ at a few known places
            of a long sequence.
        normalize: centre and scale the pooled vectors over each optimizer step. Without it, training on variants of one
            protein starts very slowly. A step that does not fit `tokens_per_batch` then takes a second forward pass.
        hidden: width of the middle layer.
    """

    pooling: Literal["mean", "max", "attention", "cls", "concat"]
    normalize: bool
    hidden: Annotated[int, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]
    positions: tuple[Annotated[int, Gt(0)], ...] | None = None

    def __post_init__(self) -> None:
        if self.positions is not None:  # a list where it comes from a config
            object.__setattr__(self, "positions", tuple(self.positions))
        if self.positions is None and self.pooling == "concat":
            raise InputError("task.head.pooling=concat: set task.head.positions to the residues to put side by side.")
        if self.positions is not None and self.pooling == "cls":
            raise InputError("task.head.pooling=cls uses no residue. Leave task.head.positions out, or pool otherwise.")
        if self.positions is not None and len(set(self.positions)) != len(self.positions):
            raise InputError(f"task.head.positions={list(self.positions)}: a position stands there twice.")

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
            positions=self.positions,
        )


@dataclass(frozen=True)
class ResidueHead:
    """A linear layer on each residue's vector."""

    dropout: Annotated[float, Ge(0), Lt(1)]

    def build(self, width: int, outputs: int, kind: "Kind") -> "nn.Module":
        """The head for vectors of `width`, giving `outputs` scores a residue."""
        from plmft.models.heads import ResidueLinear

        return ResidueLinear(width, outputs, dropout=self.dropout)


@dataclass(frozen=True)
class PairHead:
    """A two-layer network on pairs of residues, the same either way round.

    Args:
        rank: features that each residue is projected to. hidden: width of the middle layer.
    """

    rank: Annotated[int, Gt(0)]
    hidden: Annotated[int, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]

    def build(self, width: int, outputs: int, kind: "Kind") -> "nn.Module":
        """The head for vectors of `width`, giving a score a pair of residues."""
        from plmft.models.pair_head import PairMlp

        return PairMlp(width, rank=self.rank, hidden=self.hidden, dropout=self.dropout)


@dataclass(frozen=True)
class AttentionRegression:
    """Logistic regression on a transformer's attention maps, fitted to a few proteins; nothing else learns.

    Args:
        proteins: training proteins that it is fitted to.
        strength: inverse of the L1 penalty's weight; 0.15 in the paper.
    """

    proteins: Annotated[int, Gt(0)]
    strength: Annotated[float, Gt(0)]


@dataclass(frozen=True)
class VariantScores:
    """No head: variants are scored by the language model (plmft.models.zero_shot)."""

    method: Literal["masked_marginals", "wildtype_marginals", "pseudo_log_likelihood"]


@dataclass(frozen=True)
class Perplexity:
    """No head: residues are masked and predicted.

    Args:
        method: `masked` masks a share of the residues in one pass; `pseudo` each residue alone, in a pass of its own.
        share: of the residues that `masked` masks.
    """

    method: Literal["masked", "pseudo"]
    share: Annotated[float, Gt(0), Lt(1)]


Head = SequenceHead | ResidueHead | PairHead | AttentionRegression | VariantScores | Perplexity
