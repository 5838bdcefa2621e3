"""Contacts from a language model's attention, without training it (Rao et al. 2021).

The attention maps of all layers and heads are made symmetric and corrected for what any pair of busy residues shares
(APC, Dunn et al. 2008); a logistic regression with an L1 penalty, fitted to a few proteins, weighs them. Fitting 20
proteins (435,000 pairs) on 120 maps takes some 15 s of one core.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plmft import InputError
from plmft.data.contacts import MIN_SEPARATION, in_contact, known_pairs
from plmft.data.packing import EncodedSplit, Encoder, PackedBatch
from plmft.data.records import Record
from plmft.models.attention import rotary_tables, rotate
from plmft.models.backbone import BertBackbone, EsmBackbone


@dataclass(frozen=True)
class ContactRegression:
    """Weights of the maps, (M,) float64, layer by layer and head by head, and the intercept."""

    weights: np.ndarray
    intercept: float

    def predict(self, maps_MLL: np.ndarray) -> np.ndarray:
        """(L, L) float32 probabilities, symmetric; 0 for pairs fewer than 6 apart."""
        scores = np.full(maps_MLL.shape[1:], self.intercept)
        for used in np.flatnonzero(self.weights):  # L1 leaves out most; all maps at once in float64 would be gigabytes
            scores += self.weights[used] * maps_MLL[used]
        found = np.triu(1 / (1 + np.exp(-scores)), MIN_SEPARATION)
        return (found + found.T).astype(np.float32)


def fit_contact_regression(
    maps: Sequence[np.ndarray], coordinates: Sequence[np.ndarray], *, strength: float, seed: int
) -> ContactRegression:
    """Fit to the known pairs of a few proteins.

    Args: maps: for each (M, L, L). coordinates: for each (L, 3) Cβ in Å. strength: inverse of the penalty's weight.
    Raises: InputError: these proteins have no contact, or nothing but contacts.
    """
    from sklearn.linear_model import LogisticRegression

    features, hits = [], []
    for maps_MLL, cb in zip(maps, coordinates, strict=True):
        first, second = known_pairs(cb)
        features.append(maps_MLL[:, first, second].T)
        hits.append(in_contact(cb, first, second))
    labels = np.concatenate(hits)
    if labels.all() or not labels.any():
        raise InputError(
            f"{len(maps)} training proteins have {labels.sum()} contacts in {len(labels)} pairs. Use more."
        )
    model = LogisticRegression(l1_ratio=1, C=strength, solver="liblinear", random_state=seed)
    model.fit(np.concatenate(features), labels)
    return ContactRegression(model.coef_[0], float(model.intercept_[0]))


@torch.no_grad()
def corrected_maps(backbone: EsmBackbone | BertBackbone, record: Record, tokenizer: Encoder) -> np.ndarray:
    """(M, L, L) float32 of one protein: symmetric, corrected attention between residues, special tokens left out.

    Takes 4 M L² bytes on the host (2.6 GB for 660 maps of 1,000 residues), one layer's maps on the device.
    """
    batch = EncodedSplit([record], tokenizer, "contacts").pack(np.array([0]))
    batch = batch.to(next(backbone.parameters()).device)
    inside = batch.is_residue
    layers = [corrected(maps[:, inside][:, :, inside]).cpu() for maps in attention_maps(backbone, batch)]
    return torch.cat(layers).numpy()


def corrected(maps_MLL: Tensor) -> Tensor:
    """Sum of map and transpose, less the product of its row and column sums over its whole sum."""
    both = maps_MLL + maps_MLL.transpose(1, 2)
    rows = both.sum(2, keepdim=True)
    return both - rows * rows.transpose(1, 2) / both.sum((1, 2), keepdim=True)


def attention_maps(backbone: EsmBackbone | BertBackbone, batch: PackedBatch) -> Iterator[Tensor]:
    """(heads, T, T) attention of each layer in a batch of one sequence, the `output_attentions` of transformers."""
    layers = backbone.network.encoder.layer
    for layer, hidden in zip(layers, backbone.states(batch), strict=False):
        yield _map(backbone, layer, hidden, batch)


def _map(backbone: EsmBackbone | BertBackbone, layer: torch.nn.Module, hidden: Tensor, batch: PackedBatch) -> Tensor:
    own = layer.attention.self
    shape = (len(hidden), own.num_attention_heads, own.attention_head_size)
    if isinstance(backbone, EsmBackbone):
        hidden = layer.attention.LayerNorm(hidden)
    query, key = own.query(hidden).view(shape) * shape[2] ** -0.5, own.key(hidden).view(shape)
    if getattr(backbone.network.config, "position_embedding_type", "") == "rotary":
        tables = rotary_tables(batch.positions, backbone.network.rotary_embeddings.inv_freq)
        query, key = (rotate(x, *(table[:, None] for table in tables)) for x in (query, key))
    return torch.einsum("qhd,khd->hqk", query.float(), key.float()).softmax(-1)
