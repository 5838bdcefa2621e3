"""Which weights learn: all, the upper layers, the biases, adapters beside frozen weights, or nothing but the head.

Each way is in place on a backbone. What learns decides the cost: below the lowest weight that learns no graph is built,
so that `last_layers` and adapters in the upper layers alone pay for a forward pass there and no more.
"""

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt, MinLen

from plmft import InputError

if TYPE_CHECKING:
    from torch import nn

# module names in transformers' ESM and BERT layers; PEFT matches them as a regular expression over whole names
PROJECTIONS = {
    "attention": r"encoder\.layer\.({layers})\.attention\.(self\.(query|key|value)|output\.dense)",
    "feedforward": r"encoder\.layer\.({layers})\.(intermediate|output)\.dense",
}


@dataclass(frozen=True)
class Full:
    """Every weight of the backbone learns."""

    name: Literal["full"] = "full"
    keeps_base: ClassVar[bool] = False  # True: the backbone's own weights stay as they were

    def apply(self, backbone: "nn.Module") -> None:
        """Nothing to do: weights learn as they come."""


@dataclass(frozen=True)
class Frozen:
    """The backbone keeps its weights; only the head learns."""

    name: Literal["frozen"] = "frozen"
    keeps_base: ClassVar[bool] = True

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone in place."""
        backbone.requires_grad_(False)


@dataclass(frozen=True)
class LastLayers:
    """The upper layers learn, and the norm after them where the model has one; embeddings and lower layers don't.

    Args:
        layers: how many.
    """

    layers: Annotated[int, Gt(0)]
    name: Literal["last_layers"] = "last_layers"
    keeps_base: ClassVar[bool] = False

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the rest in place. Raises: InputError: the model has fewer layers."""
        encoder = backbone.network.encoder
        backbone.requires_grad_(False)
        for number in top_layers(self.layers, len(encoder.layer)):
            encoder.layer[number].requires_grad_(True)
        last_norm = getattr(encoder, "emb_layer_norm_after", None)  # BERT has none
        if last_norm is not None:
            last_norm.requires_grad_(True)


@dataclass(frozen=True)
class Bias:
    """The constants of every linear layer and norm learn (BitFit, Ben Zaken et al. 2022); matrices and gains don't."""

    name: Literal["bias"] = "bias"
    keeps_base: ClassVar[bool] = False

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the rest in place."""
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))


@dataclass(frozen=True)
class LoRA:
    """Adapters of a given rank beside the frozen projections (Hu et al. 2022).

    Args:
        rank: inner width of an adapter. alpha: the adapter's output is scaled by alpha / rank.
        dropout: on the adapter's input.
        targets: which projections of each layer get one.
        layers: how many layers get adapters, from the top; None: all.
    """

    rank: Annotated[int, Gt(0)]
    alpha: Annotated[float, Gt(0)]
    dropout: Annotated[float, Ge(0), Lt(1)]
    targets: Annotated[tuple[Literal["attention", "feedforward"], ...], MinLen(1)]
    layers: Annotated[int, Gt(0)] | None = None
    name: Literal["lora"] = "lora"
    keeps_base: ClassVar[bool] = True

    def products(self, width: int, feedforward: int) -> list[tuple[int, int]]:
        """(inputs, outputs) of each projection of a layer that gets an adapter."""
        shapes = {"attention": [(width, width)] * 4, "feedforward": [(width, feedforward), (feedforward, width)]}
        return [shape for target in self.targets for shape in shapes[target]]

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone and put adapters into it, in place, by PEFT.

        Raises: InputError: the model has fewer layers.
        """
        from peft import LoraConfig, inject_adapter_in_model

        where = r"\d+"
        if self.layers is not None:
            where = "|".join(map(str, top_layers(self.layers, len(backbone.network.encoder.layer))))
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules="|".join(f"({PROJECTIONS[target].replace('{layers}', where)})" for target in self.targets),
            use_dora=self.name == "dora",
        )
        backbone.requires_grad_(False)
        inject_adapter_in_model(config, backbone.network)


@dataclass(frozen=True)
class DoRA(LoRA):
    """LoRA that learns the length of each row of the weights apart from its direction (Liu et al. 2024).

    The norm of every adapted matrix is computed anew in each step, which is a cost by micro-step, not by token.
    """

    name: Literal["dora"] = "dora"


@dataclass(frozen=True)
class QLoRA(LoRA):
    """LoRA beside base weights held in four bits (Dettmers et al. 2023), by bitsandbytes (`pip install bitsandbytes`).

    The six projections of every layer take 4.5 bits a weight, not 32; each product unpacks its own matrix.
    """

    name: Literal["qlora"] = "qlora"

    def apply(self, backbone: "nn.Module") -> None:
        """As LoRA, after the base weights were packed. Raises: InputError: also where bitsandbytes is not installed."""
        check_bitsandbytes()
        from plmft.models.four_bits import hold_in_four_bits

        hold_in_four_bits(backbone.network)
        super().apply(backbone)


@dataclass(frozen=True)
class NoTuning:
    """Nothing learns, and there is no head: the language model is scored as it is."""

    name: Literal["none"] = "none"
    keeps_base: ClassVar[bool] = True

    def apply(self, backbone: "nn.Module") -> None:
        """Freeze the backbone in place."""
        backbone.requires_grad_(False)


Tuning = Full | Frozen | LastLayers | Bias | LoRA | DoRA | QLoRA | NoTuning


def top_layers(wanted: int, there: int) -> range:
    """Numbers of the uppermost layers, from 0. Raises: InputError: more are wanted than there are."""
    if wanted > there:
        raise InputError(f"tuning.layers={wanted}: the model has {there} layers. Set at most that many.")
    return range(there - wanted, there)


def check_bitsandbytes() -> None:
    """Raises: InputError: bitsandbytes, which holds weights in four bits, is not installed. Imports nothing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            "tuning=qlora: needs bitsandbytes, which is not installed. Run pip install bitsandbytes, or "
            "set tuning=lora."
        )
