"""Which weights learn: all, none but the head, or low-rank adapters beside frozen ones (LoRA, Hu et al. 2022)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt, MinLen

if TYPE_CHECKING:
    from torch import nn

# module names in transformers' ESM and BERT layers; PEFT matches them as a regular expression over whole names
PROJECTIONS = {
    "attention": r".*\.attention\.(self\.(query|key|value)|output\.dense)",
    "feedforward": r".*\.layer\.\d+\.(intermediate|output)\.dense",
}


@dataclass(frozen=True)
class Full:
    """Every weight of the backbone learns."""

    name: Literal["full"] = "full"

    def apply(self, backbone: "nn.Module") -> None:
        """Nothing to do: weights learn as they come."""


@dataclass(frozen=True)
class Frozen:
    """The backbone keeps its weights; only the head learns."""

    name: Literal["frozen"] = "frozen"

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone in place."""
        backbone.requires_grad_(False)


@dataclass(frozen=True)
class LoRA:
    """Adapters of a given rank beside the frozen projections.

    Args:
        rank: inner width of an adapter. alpha: the adapter's output is scaled by alpha / rank.
        dropout: on the adapter's input.
        targets: which projections of each layer get one.
    """

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]
    targets: Annotated[tuple[Literal["attention", "feedforward"], ...], MinLen(1)]
    name: Literal["lora"] = "lora"

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone and put adapters into it, in place, by PEFT."""
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="|".join(f"({PROJECTIONS[target]})" for target in self.targets),
        )
        backbone.requires_grad_(False)
        inject_adapter_in_model(config, backbone.network)


@dataclass(frozen=True)
class NoTuning:
    """Nothing learns, and there is no head: the language model is scored as it is."""

    name: Literal["none"] = "none"

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone in place."""
        backbone.requires_grad_(False)


Tuning = Full | Frozen | LoRA | NoTuning
