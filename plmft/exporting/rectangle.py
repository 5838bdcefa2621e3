"""A tuned model as one graph over rectangles: token ids and a mask in, predictions in the task's unit out.

What other engines run (ONNX Runtime, torch.export) takes padded rectangles, not sequences end to end. The weights are
the predictor's own and nothing is trained here; padding, which stands behind the residues, is masked wherever it could
be seen. The same as the packed model to about 1e-6 in float32, slower by the padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft import InputError
from plmft.data.contacts import MIN_SEPARATION
from plmft.models.attention import rotate
from plmft.models.backbone import MASK_RATIO_IN_PRETRAINING, BertBackbone, EsmBackbone, OneHotCnn, TransformerBackbone
from plmft.models.heads import ResidueLinear, SequenceMlp
from plmft.models.pair_head import SEPARATIONS, PairMlp
from plmft.models.predictor import Predictor
from plmft.models.scratch import OneHotBiLstm, OneHotResNet
from plmft.models.tuned import Tuned

OUTPUTS = {"sequence_regression": "values", "contacts": "contacts"}  # of other kinds: probabilities


class Rectangle(nn.Module):
    """A predictor over rectangles, in float32 and evaluation mode, as the predictor itself is afterwards.

    Args: tuned: its adapters, if it has any, must be merged (`load(..., merge=True)`).
    Raises: InputError: its head or its backbone has no form over rectangles.
    """

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        tokenizer = tuned.description.spec.tokenizer
        tuned.predictor.float()  # a run may hold weights in bfloat16
        self.kind = tuned.predictor.kind
        self.before, self.after = len(tokenizer.prefix), len(tokenizer.suffix)
        self.backbone = _backbone(tuned.predictor)
        self.head = _head(tuned.predictor, self.before)
        self.objective = tuned.predictor.objective
        self.register_buffer("target_mean", tuned.predictor.target_mean)
        self.register_buffer("target_deviation", tuned.predictor.target_deviation)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Predictions of N sequences of up to L tokens, special ones included.

        Args:
            input_ids: (N, L) int64; for a task about pairs the two sequences of a pair are neighbours.
            attention_mask: (N, L) int64, 1 at tokens; padding stands last.
        Returns: float32: (N,) in the task's unit; (N, C) or (N/2, C) probabilities; (N, L, C) probabilities, and
            (N, L, L) probabilities of contact, which mean nothing at special tokens and padding.
        """
        mask = attention_mask.bool()
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        lengths = mask.sum(1, keepdim=True)
        residue = (places >= self.before)[None, :] & (places[None, :] < lengths - self.after)
        outputs = self.head(self.backbone(input_ids, mask), residue)
        if self.kind == "contacts":
            return outputs
        if self.kind == "sequence_regression":
            return outputs[:, 0] * self.target_deviation + self.target_mean
        return self.objective.probabilities(outputs)


class Transformer(nn.Module):
    """ESM-2, ESM-1b and ProtBERT: the layers that `packed_layers` computes, over (N, L, D)."""

    def __init__(self, backbone: TransformerBackbone) -> None:
        super().__init__()
        self.network = backbone.network
        self.is_esm = isinstance(backbone, EsmBackbone)
        self.is_rotary = self.is_esm and self.network.config.position_embedding_type == "rotary"

    def forward(self, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """(N, L, D) vectors."""
        hidden = self._embed_esm(tokens_NL, mask_NL) if self.is_esm else self._embed_bert(tokens_NL)
        tables = self._tables(tokens_NL) if self.is_rotary else None
        visible = mask_NL[:, None, None, :]
        for layer in self.network.encoder.layer:
            hidden = self._esm_layer(layer, hidden, visible, tables) if self.is_esm else _bert(layer, hidden, visible)
        return self.network.encoder.emb_layer_norm_after(hidden) if self.is_esm else hidden

    def _tables(self, tokens_NL: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(tokens_NL.shape[1], device=tokens_NL.device).float()
        angles = places[:, None] * self.network.rotary_embeddings.inv_freq.float()[None, :]
        return angles.cos(), angles.sin()

    def _embed_esm(self, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
        embeddings = self.network.embeddings
        hidden = embeddings.word_embeddings(tokens_NL)
        if embeddings.token_dropout:
            masked = tokens_NL == embeddings.mask_token_id
            share = (masked & mask_NL).sum(1).float() / mask_NL.sum(1).float()
            scale = (1 - MASK_RATIO_IN_PRETRAINING) / (1 - share)
            hidden = hidden.masked_fill(masked[:, :, None], 0.0) * scale[:, None, None]
        if not self.is_rotary:
            places = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
            hidden = hidden + embeddings.position_embeddings(places + embeddings.padding_idx + 1)
        return hidden if embeddings.layer_norm is None else embeddings.layer_norm(hidden)

    def _embed_bert(self, tokens_NL: Tensor) -> Tensor:
        embeddings = self.network.embeddings
        places = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
        hidden = embeddings.word_embeddings(tokens_NL) + embeddings.position_embeddings(places)
        return embeddings.LayerNorm(hidden + embeddings.token_type_embeddings.weight[0])

    @staticmethod
    def _esm_layer(layer: nn.Module, hidden: Tensor, visible: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
        mixed = _attend(layer.attention.self, layer.attention.LayerNorm(hidden), visible, tables)
        hidden = hidden + layer.attention.output.dense(mixed)
        inner = F.gelu(layer.intermediate.dense(layer.LayerNorm(hidden)))
        return hidden + layer.output.dense(inner)


def _bert(layer: nn.Module, hidden: Tensor, visible: Tensor) -> Tensor:
    first, last = layer.attention.output, layer.output
    hidden = first.LayerNorm(first.dense(_attend(layer.attention.self, hidden, visible, None)) + hidden)
    return last.LayerNorm(last.dense(F.gelu(layer.intermediate.dense(hidden))) + hidden)


def _attend(own: nn.Module, x: Tensor, visible: Tensor, tables: tuple[Tensor, Tensor] | None) -> Tensor:
    """(N, L, H·D) attention of each sequence to its own tokens. A head count of the layer's own: it may be pruned."""
    heads, width = own.num_attention_heads, own.attention_head_size
    query, key, value = (
        part(x).unflatten(-1, (heads, width)).transpose(1, 2) for part in (own.query, own.key, own.value)
    )
    if tables is not None:
        query, key = rotate(query, *tables), rotate(key, *tables)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=width**-0.5)
    return mixed.transpose(1, 2).flatten(2)


class Convolutions(nn.Module):
    """The convolutions of `OneHotCnn` and `OneHotResNet`; padding is zeroed before each, as beyond a sequence's end."""

    def __init__(self, backbone: OneHotCnn | OneHotResNet) -> None:
        super().__init__()
        self.network, self.vocabulary = backbone, backbone._vocabulary

    def forward(self, tokens_NL: Tensor, mask_NL: Tensor) -> Tensor:
        """(N, L, D) vectors."""
        hidden = F.one_hot(tokens_NL, self.vocabulary).float()
        if isinstance(self.network, OneHotCnn):
            for layer in self.network.layers:
                hidden = F.relu(_convolved(layer, hidden, mask_NL))
            return hidden
        hidden = self.network.embedding(hidden)
        for block in self.network.blocks:
            inner = hidden
            for norm, convolution in zip(block.norms, block.convolutions, strict=True):
                inner = _convolved(convolution, F.gelu(norm(inner)), mask_NL)
            hidden = hidden + inner
        return self.network.norm(hidden)


def _convolved(layer: nn.Conv1d, vectors_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    held = (vectors_NLD * mask_NL[:, :, None]).transpose(1, 2)
    return nn.Conv1d.forward(layer, held).transpose(1, 2)


class SequencePool(nn.Module):
    """`SequenceMlp` over (N, L, D)."""

    def __init__(self, head: SequenceMlp, before: int) -> None:
        super().__init__()
        self.head, self.before = head, before

    def forward(self, vectors_NLD: Tensor, residue_NL: Tensor) -> Tensor:
        """(N, outputs), or (N/2, outputs) of pairs."""
        return self.head.from_pooled(self._pool(vectors_NLD, residue_NL))

    def _pool(self, vectors_NLD: Tensor, residue_NL: Tensor) -> Tensor:
        head = self.head
        if head.positions is not None:
            kept = torch.tensor(head.positions) - 1 + self.before
            vectors_NLD, residue_NL = vectors_NLD[:, kept], residue_NL[:, kept]
            if head.pooling == "concat":
                return vectors_NLD.flatten(1)
        inside = residue_NL[:, :, None]
        if head.score is not None:
            weights = head.score(vectors_NLD).masked_fill(~inside, float("-inf")).softmax(1)
            return (vectors_NLD * weights).sum(1)
        if head.pooling == "cls":
            return vectors_NLD[:, 0]
        if head.pooling == "max":
            return vectors_NLD.masked_fill(~inside, float("-inf")).amax(1)
        return (vectors_NLD * inside).sum(1) / inside.sum(1)


class ResidueScores(nn.Module):
    """`ResidueLinear` over (N, L, D)."""

    def __init__(self, head: ResidueLinear) -> None:
        super().__init__()
        self.linear = head.linear

    def forward(self, vectors_NLD: Tensor, residue_NL: Tensor) -> Tensor:
        """(N, L, C)."""
        return self.linear(vectors_NLD)


class PairScores(nn.Module):
    """`PairMlp` over (N, L, D): all pairs at once, so memory grows with N L²."""

    def __init__(self, head: PairMlp) -> None:
        super().__init__()
        self.head = head

    def forward(self, vectors_NLD: Tensor, residue_NL: Tensor) -> Tensor:
        """(N, L, L) probabilities; 0 for pairs fewer than 6 apart and what is no residue."""
        features = self.head.project(vectors_NLD)
        rows, columns = features[:, :, None], features[:, None]
        places = torch.arange(features.shape[1], device=features.device)
        apart = (places[None, :] - places[:, None]).abs()
        pairs = torch.cat([rows * columns, (rows - columns).abs()], dim=3)
        scores = self.head.layers(pairs)[..., 0] + self.head.separation(apart.clamp(0, SEPARATIONS - 1))[..., 0]
        wanted = residue_NL[:, :, None] & residue_NL[:, None] & (apart >= MIN_SEPARATION)
        return torch.sigmoid(scores) * wanted


def _backbone(predictor: Predictor) -> nn.Module:
    backbone = predictor.backbone
    if isinstance(backbone, EsmBackbone | BertBackbone):
        if any("lora_" in name for name, _ in backbone.named_parameters()):
            raise InputError("The model's adapters are beside its weights. Load it with merge=True.")
        return Transformer(backbone)
    if isinstance(backbone, OneHotCnn | OneHotResNet):
        return Convolutions(backbone)
    if isinstance(backbone, OneHotBiLstm):
        from plmft.exporting.recurrent import BothWays

        return BothWays(backbone)
    raise InputError(f"{type(backbone).__name__} has no form over rectangles, so it can't be exported.")


def _head(predictor: Predictor, before: int) -> nn.Module:
    head = predictor.head
    if isinstance(head, SequenceMlp):
        return SequencePool(head, before)
    if isinstance(head, ResidueLinear):
        return ResidueScores(head)
    if isinstance(head, PairMlp):
        return PairScores(head)
    raise InputError(f"{type(head).__name__} has no form over rectangles, so it can't be exported.")
