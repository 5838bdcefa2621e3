"""Which meters a run carries, and how many FLOPs its steps need, from its parts."""

from collections.abc import Sequence

from plmft.efficiency.flops import (
    conv_forward_flops,
    find_peak,
    linear_forward_flops,
    step_flops,
    transformer_attention_flops,
    transformer_forward_flops,
)
from plmft.efficiency.phase import PhaseMeter
from plmft.models.head_spec import Head, PairHead, SequenceHead
from plmft.models.spec import Spec, TransformerSpec
from plmft.models.tuning import LoRA, Tuning
from plmft.training.hardware import Device
from plmft.training.metering import Metering


def make_metering(
    spec: Spec, tuning: Tuning, head: Head, outputs: int, device: Device, usd_per_hour: float | None
) -> Metering:
    """Meters for a run with these parts; measures a CPU's peak, which takes 0.3 s."""
    peak = find_peak(device.torch_type, 0, device.precision)

    def forward(lengths: Sequence[int]) -> float:
        return _backbone(spec, lengths) + _adapters(spec, tuning, lengths) + _head(spec, head, outputs, lengths)

    def train(lengths: Sequence[int]) -> float:
        attention = 0.0
        if isinstance(spec, TransformerSpec):
            attention = transformer_attention_flops(spec.layers, spec.width, lengths)
        return step_flops(
            _backbone(spec, lengths),
            _head(spec, head, outputs, lengths),
            tuning.name,
            adapter_forward=_adapters(spec, tuning, lengths),
            attention=attention,
        )

    def make() -> PhaseMeter:
        return PhaseMeter(device.torch_type, usd_per_hour=usd_per_hour, peak=peak)

    return Metering(make, train_flops=train, test_flops=forward)


def _backbone(spec: Spec, lengths: Sequence[int]) -> float:
    if isinstance(spec, TransformerSpec):
        return transformer_forward_flops(spec.layers, spec.width, spec.feedforward, lengths)
    return conv_forward_flops(spec.products, sum(lengths))


def _adapters(spec: Spec, tuning: Tuning, lengths: Sequence[int]) -> float:
    if not isinstance(tuning, LoRA):
        return 0.0
    wide, narrow = spec.feedforward, spec.width
    shapes = {"attention": [(narrow, narrow)] * 4, "feedforward": [(narrow, wide), (wide, narrow)]}
    pairs = [
        pair
        for target in tuning.targets
        for inputs, outputs in shapes[target]
        for pair in ((inputs, tuning.rank), (tuning.rank, outputs))
    ]
    return spec.layers * linear_forward_flops(pairs, sum(lengths))


def _head(spec: Spec, head: Head, outputs: int, lengths: Sequence[int]) -> float:
    if isinstance(head, SequenceHead):
        return linear_forward_flops([(spec.width, head.hidden), (head.hidden, outputs)], len(lengths))
    if isinstance(head, PairHead):
        pairs = sum(n * n // 2 for n in lengths)
        project = linear_forward_flops([(spec.width, head.rank)], sum(lengths))
        return project + linear_forward_flops([(2 * head.rank, head.hidden), (head.hidden, 1)], pairs)
    return linear_forward_flops([(spec.width, outputs)], sum(lengths))
