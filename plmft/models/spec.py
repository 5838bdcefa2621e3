"""What a user chooses of a backbone: its architecture as published, and where its weights come from.

Light, so that a config is checked without torch: `plmft.models.weights` finds, builds and loads what is typed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Gt

from plmft import InputError
from plmft.models.tokenizer import ESM, ONEHOT, PROTBERT, Tokenizer

if TYPE_CHECKING:
    from torch import nn

Family = Literal["esm2", "esm1b", "bert"]
Count = Annotated[int, Gt(0)]

TYPED = ("layers", "width", "heads", "feedforward", "vocabulary", "positions", "parameters")

# What a family has in common, under the names of transformers' config.json.
PUBLISHED: dict[Family, dict[str, Any]] = {
    "esm2": {
        "model_type": "esm",
        "position_embedding_type": "rotary",
        "rope_theta": 10000.0,
        "token_dropout": True,
        "emb_layer_norm_before": False,
        "mask_token_id": ESM.mask,
        "pad_token_id": ESM.pad,
    },
    "esm1b": {
        "model_type": "esm",
        "position_embedding_type": "absolute",
        "token_dropout": True,
        "emb_layer_norm_before": True,
        "mask_token_id": ESM.mask,
        "pad_token_id": ESM.pad,
    },
    "bert": {
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        "pad_token_id": PROTBERT.pad,
    },
}
ENCODER = {"is_decoder": False, "add_cross_attention": False}


@dataclass(frozen=True)
class TransformerSpec:
    """ESM-2 (Lin et al. 2023), ESM-1b (Rives et al. 2021) or ProtBERT (Elnaggar et al. 2022).

    Args:
        layers: transformer layers.
        width: of the residue vectors, D.
        heads: attention heads a layer.
        feedforward: width inside a layer's feed-forward part.
        vocabulary: rows of the embedding table.
        context: residues that a sequence may have.
        positions: rows of the position table, as in the hub's config (ESM-2 names them there but has no such table).
        parameters: weights of the network as plmft uses it: no language-model head, pooler or contact head.
        hub: repository on the Hugging Face hub; None: no weights are published.
        revision: commit of that repository; None: its newest, and the one taken is logged.
        init: published weights, or the same network with random ones.
        path: local folder with a transformers checkpoint, used instead of the hub.
        checkpoint: local fair-esm file (.pt), used instead of the hub.
    Raises: InputError: figures that fit no network.
    """

    from_scratch: ClassVar[bool] = False

    name: str
    family: Family
    layers: Count
    width: Count
    heads: Count
    feedforward: Count
    vocabulary: Count
    context: Count
    positions: Count
    parameters: Count
    hub: str | None
    revision: str | None
    citation: str
    licence: str
    init: Literal["pretrained", "random"] = "pretrained"
    path: str | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.width % self.heads or (self.family == "esm2" and self.width // self.heads % 2):
            even = "an even multiple" if self.family == "esm2" else "a multiple"
            raise InputError(f"model.width={self.width}: must be {even} of model.heads={self.heads}.")
        if self.vocabulary != len(self.tokenizer.vocabulary):
            known = len(self.tokenizer.vocabulary)
            raise InputError(f"model.vocabulary={self.vocabulary}: the tokens of {self.family} are {known}.")
        longest = self.positions - self._rows_before_residues - len(self.tokenizer.suffix)
        if self.family != "esm2" and self.context > longest:
            raise InputError(
                f"model.context={self.context}: at most {longest} residues fit model.positions={self.positions}."
            )

    @property
    def _rows_before_residues(self) -> int:
        """Rows of the position table that no residue uses; ESM-1b counts from its padding id + 1 (fairseq)."""
        return len(self.tokenizer.prefix) + (ESM.pad + 1 if self.family == "esm1b" else 0)

    @property
    def tokenizer(self) -> Tokenizer:
        """The family's own."""
        return PROTBERT if self.family == "bert" else ESM

    @property
    def figures(self) -> dict[str, Any]:
        """What a checkpoint must agree with: the typed figures, and what the family has in common."""
        return {name: getattr(self, name) for name in TYPED} | PUBLISHED[self.family] | ENCODER

    def check_figures(self, found: Mapping[str, Any], where: str) -> None:
        """Compare with what a checkpoint says of itself, under the names of `figures`; `where` names it in the error.

        Raises: InputError: one or more differ; each is told, typed and found.
        """
        typed = self.figures
        differ = [name for name, value in found.items() if value != typed[name]]
        if differ:
            told = "; ".join(f"{name} is {typed[name]} for {self.name}, but {found[name]} in it" for name in differ)
            keys = ", ".join(f"model.{name}" for name in differ if name in TYPED)
            correct = f", or correct {keys}" if keys else ""
            raise InputError(f"{where} is another network: {told}. Choose the model that it belongs to{correct}.")


@dataclass(frozen=True, kw_only=True)
class FromScratch:
    """What models have in common that know nothing but the training split: no weights are published.

    Args:
        context: None: a sequence may have any length.
    """

    from_scratch: ClassVar[bool] = True

    context: None = None
    hub: None = None
    revision: None = None
    init: Literal["random"] = "random"
    path: None = None
    checkpoint: None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """21 channels: the amino acids and X; no special tokens."""
        return ONEHOT


@dataclass(frozen=True)
class OneHotCnnSpec(FromScratch):
    """Convolutions over one-hot residues (Shanehsazzadeh et al. 2020; the CNN of Xu et al. 2022).

    Args:
        channels: width of every layer, and so of the residue vectors.
        kernel: residues that a convolution sees.
        layers: convolutions, one after the other.
        parameters: of all convolutions.
    """

    name: str
    channels: Count
    kernel: Count
    layers: Count
    parameters: Count
    citation: str
    licence: str
    family: Literal["onehot_cnn"] = "onehot_cnn"

    @property
    def width(self) -> int:
        """D."""
        return self.channels

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(kernel, inputs, outputs) of each matrix product that a residue passes."""
        inputs = [len(self.tokenizer.vocabulary)] + [self.channels] * (self.layers - 1)
        return [(self.kernel, width, self.channels) for width in inputs]

    def build(self) -> "nn.Module":
        """The network with random weights."""
        from plmft.models.backbone import OneHotCnn

        return OneHotCnn(len(self.tokenizer.vocabulary), self.channels, self.kernel, self.layers)


@dataclass(frozen=True)
class OneHotResNetSpec(FromScratch):
    """Residual blocks of two convolutions each over one-hot residues (Rao et al. 2019; Xu et al. 2022).

    Args:
        channels: width of every layer, and so of the residue vectors.
        kernel: residues that a convolution sees.
        layers: residual blocks, one after the other.
        dilation: distance between neighbours of the residues that a convolution sees; 1: they are next to each other.
        parameters: of the whole network.
    """

    name: str
    channels: Count
    kernel: Count
    layers: Count
    dilation: Count
    parameters: Count
    citation: str
    licence: str
    family: Literal["onehot_resnet"] = "onehot_resnet"

    @property
    def width(self) -> int:
        """D."""
        return self.channels

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(kernel, inputs, outputs) of each matrix product that a residue passes."""
        convolution = (self.kernel, self.channels, self.channels)
        return [(1, len(self.tokenizer.vocabulary), self.channels)] + [convolution] * (2 * self.layers)

    def build(self) -> "nn.Module":
        """The network with random weights."""
        from plmft.models.scratch import OneHotResNet

        return OneHotResNet(
            len(self.tokenizer.vocabulary), self.channels, self.kernel, self.layers, dilation=self.dilation
        )


@dataclass(frozen=True)
class OneHotBiLstmSpec(FromScratch):
    """LSTM layers in both directions over one-hot residues (Rao et al. 2019; Xu et al. 2022).

    Args:
        hidden: width of each direction; residue vectors are twice as wide.
        layers: of each direction.
        parameters: of the whole network.
    """

    name: str
    hidden: Count
    layers: Count
    parameters: Count
    citation: str
    licence: str
    family: Literal["onehot_bilstm"] = "onehot_bilstm"

    @property
    def width(self) -> int:
        """D."""
        return 2 * self.hidden

    @property
    def products(self) -> list[tuple[int, int, int]]:
        """(kernel, inputs, outputs) of each matrix product that a residue passes: four gates of input and state."""
        inputs = [len(self.tokenizer.vocabulary)] + [self.width] * (self.layers - 1)
        return [(1, width + self.hidden, 4 * self.hidden) for width in inputs for _ in range(2)]

    def build(self) -> "nn.Module":
        """The network with random weights."""
        from plmft.models.scratch import OneHotBiLstm

        return OneHotBiLstm(len(self.tokenizer.vocabulary), self.hidden, self.layers)


ScratchSpec = OneHotCnnSpec | OneHotResNetSpec | OneHotBiLstmSpec
Spec = TransformerSpec | ScratchSpec
