"""Weights, heads and layers left out of a tuned transformer, without training it again: the least that pruning does.

Zeros are stored and multiplied as any weight is: only heads and layers make a model smaller and faster here. Kernels
for 2:4 sparse weights exist on GPUs from Ampere on.
"""

import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft import InputError
from plmft.bench.compress_int8 import encoder_layers
from plmft.data.packing import PackedBatch
from plmft.models.predictor import Predictor


@torch.no_grad()
def magnitude(predictor: Predictor, share: float = 0.5) -> Predictor:
    """The smallest `share` of each linear layer's weights become 0 (Han et al. 2015)."""
    for _, _, linear in encoder_layers(predictor):
        size = linear.weight.abs().flatten()
        smallest = size.topk(int(share * len(size)), largest=False, sorted=False).indices
        linear.weight.view(-1)[smallest] = 0.0
    return predictor


@torch.no_grad()
def two_of_four(predictor: Predictor) -> Predictor:
    """Of four neighbouring weights of an output the two smaller ones become 0: 2:4 sparsity (Mishra et al. 2021).

    On a GPU whose kernels take it, the layers compute with compressed weights in half precision.
    """
    for _, _, linear in encoder_layers(predictor):
        fours = linear.weight.view(linear.out_features, -1, 4)
        smaller = fours.abs().topk(2, dim=2, largest=False).indices
        fours.scatter_(2, smaller, 0.0)
    if predictor.target_mean.is_cuda:
        _compress(predictor)
    return predictor


class _Sparse(nn.Linear):
    """A layer with 2:4 sparse weights in float16, called by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.half(), self.weight, self.bias)


def _compress(predictor: Predictor) -> None:
    from torch.sparse import to_sparse_semi_structured

    for _, _, linear in list(encoder_layers(predictor)):
        linear.half()
        linear.weight = nn.Parameter(to_sparse_semi_structured(linear.weight.detach()), requires_grad=False)
        linear.__class__ = _Sparse


def heads(predictor: Predictor, batches: Iterable[PackedBatch], share: float = 0.25) -> Predictor:
    """The `share` of all heads that the loss of labelled sequences hangs on least are cut out; each layer keeps one.

    How much it hangs on a head is |Σ w ∂loss/∂w| over its columns of the output projection, which is the loss's
    derivative by a gate on the head (Michel et al. 2019), added up over the batches.
    """
    layers = _layers(predictor)
    importance = _head_importance(predictor, layers, batches)
    order = sorted((value, n, head) for n, found in enumerate(importance) for head, value in enumerate(found.tolist()))
    dropped: list[set[int]] = [set() for _ in layers]
    left = int(share * len(order))
    for _, number, head in order:
        if left and len(dropped[number]) + 1 < len(importance[number]):
            dropped[number].add(head)
            left -= 1
    for layer, gone in zip(layers, dropped, strict=True):
        _cut_heads(layer, [head for head in range(layer.attention.self.num_attention_heads) if head not in gone])
    return predictor


def _head_importance(predictor: Predictor, layers: list[nn.Module], batches: Iterable[PackedBatch]) -> list[Tensor]:
    outputs = [layer.attention.output.dense for layer in layers]
    for dense in outputs:
        dense.weight.requires_grad_(True)
    found = [torch.zeros(layer.attention.self.num_attention_heads) for layer in layers]
    for batch in batches:
        gradients = torch.autograd.grad(predictor.loss_sum(batch), [dense.weight for dense in outputs])
        for total, dense, gradient in zip(found, outputs, gradients, strict=True):
            by_column = (dense.weight.detach() * gradient).sum(0)
            total += by_column.view(len(total), -1).sum(1).abs().cpu()
    for dense in outputs:
        dense.weight.requires_grad_(False)
    return found


def _cut_heads(layer: nn.Module, kept: list[int]) -> None:
    own, dense = layer.attention.self, layer.attention.output.dense
    width = own.attention_head_size
    features = torch.cat([torch.arange(head * width, (head + 1) * width) for head in kept]).to(dense.weight.device)
    for linear in (own.query, own.key, own.value):
        linear.weight = nn.Parameter(linear.weight.detach()[features].contiguous(), requires_grad=False)
        linear.bias = nn.Parameter(linear.bias.detach()[features].contiguous(), requires_grad=False)
        linear.out_features = len(features)
    dense.weight = nn.Parameter(dense.weight.detach()[:, features].contiguous(), requires_grad=False)
    dense.in_features = len(features)
    own.num_attention_heads, own.all_head_size = len(kept), len(features)


def layers_dropped(predictor: Predictor, batches: Iterable[PackedBatch], share: float = 0.25) -> Predictor:
    """The `share` of the layers that turn their input least are left out, at least one.

    How much a layer turns its input is 1 less the cosine of a residue's vectors before and after it, the mean over
    residues (Men et al. 2024).
    """
    layers = _layers(predictor)
    if len(layers) < 2:
        raise InputError("the model has one layer")
    turned = torch.zeros(len(layers))
    with torch.inference_mode():
        for batch in batches:
            states = list(predictor.backbone.states(batch))
            for number, (before, after) in enumerate(itertools.pairwise(states)):
                cosine = F.cosine_similarity(before[batch.is_residue].float(), after[batch.is_residue].float(), dim=1)
                turned[number] += float((1 - cosine).sum())
    gone = set(turned.argsort()[: max(1, int(share * len(layers)))].tolist())
    kept = [layer for number, layer in enumerate(layers) if number not in gone]
    predictor.backbone.network.encoder.layer = nn.ModuleList(kept)
    return predictor


def _layers(predictor: Predictor) -> list[nn.Module]:
    if not hasattr(predictor.backbone, "states"):
        raise InputError(f"{type(predictor.backbone).__name__} is no transformer: it has no such layers")
    return list(predictor.backbone.network.encoder.layer)
