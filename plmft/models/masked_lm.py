"""A masked language model: a backbone and the head that predicts tokens, over packed batches.

Weights come from the same places as a backbone's; a checkpoint without the head's is refused. Costs the backbone's pass
and, for each token, width x (width + vocabulary).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft import InputError
from plmft.data.packing import PackedBatch
from plmft.models.build import build_backbone
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.weights import Located, read_state

BERT = "cls.predictions."
BERT_PARTS = {
    "transform.dense.": "dense.",
    "transform.LayerNorm.": "layer_norm.",
    "bias": "bias",
    "decoder.weight": "decoder",
    "decoder.bias": "bias",
}


class TokenHead(nn.Module):
    """Linear, GELU, norm, and the embedding table turned round, with a bias for each token."""

    def __init__(self, embeddings: Tensor, norm_eps: float) -> None:
        super().__init__()
        vocabulary, width = embeddings.shape
        self.dense, self.layer_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=norm_eps)
        self.decoder, self.bias = nn.Parameter(embeddings.detach().clone()), nn.Parameter(torch.zeros(vocabulary))

    def forward(self, vectors_TD: Tensor) -> Tensor:
        """(T, V) scores."""
        return F.linear(self.layer_norm(F.gelu(self.dense(vectors_TD))), self.decoder, self.bias)


class MaskedLm(nn.Module):
    """Backbone and token head."""

    def __init__(self, backbone: nn.Module, head: TokenHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, batch: PackedBatch) -> Tensor:
        """(T, V) scores of every token of the vocabulary at every place."""
        return self.head(self.backbone(batch))

    @torch.no_grad()
    def log_probabilities(self, batch: PackedBatch, places: Tensor) -> Tensor:
        """(P, V) float32 natural logarithms, over the whole vocabulary, at (P,) token numbers of the batch."""
        vectors = self.backbone(batch)[places]
        with torch.autocast(vectors.device.type, enabled=False):
            return self.head(vectors.float()).log_softmax(-1)


def build_masked_lm(spec: Spec, located: Located) -> MaskedLm:
    """In evaluation mode. Raises: InputError: the model has no token head, or the checkpoint not its weights."""
    if not isinstance(spec, TransformerSpec):
        raise InputError(f"model={spec.name}: it is no language model. Choose ESM-2, ESM-1b or ProtBERT.")
    backbone = build_backbone(spec, located)
    network = backbone.network
    head = TokenHead(network.embeddings.word_embeddings.weight, network.config.layer_norm_eps)
    if located.source != "random":
        _fill(head, _head_state(read_state(spec, located)), spec, located)
    return MaskedLm(backbone, head).eval()


def _head_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The head's weights by our names, from those of transformers' EsmForMaskedLM, BertForMaskedLM or of fair-esm."""
    found = {}
    for name, tensor in state.items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith("lm_head."):
            short = name.removeprefix("lm_head.")
            found[{"weight": "decoder", "decoder.weight": "decoder", "decoder.bias": "bias"}.get(short, short)] = tensor
        elif name.startswith(BERT):
            short = name.removeprefix(BERT)
            for theirs, ours in BERT_PARTS.items():
                if short.startswith(theirs):
                    found[ours + short.removeprefix(theirs)] = tensor
    return found


def _fill(head: TokenHead, state: dict[str, Tensor], spec: TransformerSpec, located: Located) -> None:
    own = head.state_dict()
    missing = sorted(set(own) - set(state) - {"decoder"})  # where it is left out it is the embedding table
    if missing:
        raise InputError(
            f"{located.path} has no weights for the token head of {spec.name}: {', '.join(missing)} missing. Scoring "
            "without training needs a checkpoint of the whole language model, as it was published."
        )
    wrong = [f"{k} {tuple(state[k].shape)}" for k in own if k in state and state[k].shape != own[k].shape]
    if wrong:
        raise InputError(f"{located.path} does not fit {spec.name}. Weights of other shape: {', '.join(wrong)}.")
    head.load_state_dict({k: state.get(k, own[k]).float() for k in own})
