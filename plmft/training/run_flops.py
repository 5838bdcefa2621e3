"""How many FLOPs a run's steps need, from its parts. Light: the planner asks before anything is loaded."""

from collections.abc import Callable, Sequence

from plmft.efficiency.flops import (
    conv_forward_flops,
    linear_forward_flops,
    step_flops,
    transformer_attention_flops,
    transformer_forward_flops,
)
from plmft.models.head_spec import Head, PairHead, SequenceHead
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.tuning import LastLayers, LoRA, Tuning

Flops = Callable[[Sequence[int]], float]  # of sequences with these numbers of tokens


def run_flops(spec: Spec, tuning: Tuning, head: Head, outputs: int, *, cached: bool = False) -> tuple[Flops, Flops]:
    """FLOPs of a training step, and of a forward pass.

    Args: cached: a frozen backbone's vectors come from the cache, so that the head alone computes.
    """

    def backbone(lengths: Sequence[int]) -> float:
        return 0.0 if cached else backbone_flops(spec, lengths)

    def forward(lengths: Sequence[int]) -> float:
        return backbone(lengths) + _adapters(spec, tuning, lengths) + _head(spec, head, outputs, lengths)

    def train(lengths: Sequence[int]) -> float:
        attention = 0.0
        if isinstance(spec, TransformerSpec):
            attention = transformer_attention_flops(spec.layers, spec.width, lengths)
        return step_flops(
            backbone(lengths),
            _head(spec, head, outputs, lengths),
            tuning.name,
            adapter_forward=_adapters(spec, tuning, lengths),
            attention=attention,
            share=_layers(spec, tuning) / spec.layers if isinstance(spec, TransformerSpec) else 1.0,
        )

    return train, forward


def backbone_flops(spec: Spec, lengths: Sequence[int]) -> float:
    """Of a forward pass without adapters."""
    if isinstance(spec, TransformerSpec):
        return transformer_forward_flops(spec.layers, spec.width, spec.feedforward, lengths)
    return conv_forward_flops(spec.products, sum(lengths))


def _adapters(spec: Spec, tuning: Tuning, lengths: Sequence[int]) -> float:
    if not isinstance(tuning, LoRA):
        return 0.0
    products = tuning.products(spec.width, spec.feedforward)
    pairs = [pair for inputs, outputs in products for pair in ((inputs, tuning.rank), (tuning.rank, outputs))]
    return _layers(spec, tuning) * linear_forward_flops(pairs, sum(lengths))


def _layers(spec: TransformerSpec, tuning: Tuning) -> int:
    """How many layers, from the top, a gradient passes through."""
    if isinstance(tuning, LoRA | LastLayers) and tuning.layers is not None:
        return tuning.layers
    return spec.layers


def _head(spec: Spec, head: Head, outputs: int, lengths: Sequence[int]) -> float:
    if isinstance(head, SequenceHead):
        return linear_forward_flops([(spec.width, head.hidden), (head.hidden, outputs)], len(lengths))
    if isinstance(head, PairHead):
        pairs = sum(n * n // 2 for n in lengths)
        project = linear_forward_flops([(spec.width, head.rank)], sum(lengths))
        return project + linear_forward_flops([(2 * head.rank, head.hidden), (head.hidden, 1)], pairs)
    return linear_forward_flops([(spec.width, outputs)], sum(lengths))
