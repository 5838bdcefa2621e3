"""Linear layers of the backbone in eight and four bits. The head, norms and embeddings stay as they are.

Dynamic: the scale of the activations is taken anew in each call. Static: it is fixed from calibration sequences, which
saves that look at the data and costs what falls outside. Only `torch.ao` and `torch.ops.onednn` have 8-bit kernels for
CPUs in eager mode, only torchao has them for GPUs; 4-bit weights are torchao's everywhere, NF4 is bitsandbytes'.
"""

import importlib.util
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plmft import InputError
from plmft.data.packing import PackedBatch
from plmft.models.predictor import Predictor

GROUP = 32  # weights that share a scale in four bits
LEVELS = 255  # of an unsigned byte


class CalledAlone(nn.Linear):
    """A linear layer whose weight is no plain tensor: called by itself, never joined with others (projections.py)."""


def encoder_layers(predictor: Predictor) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The linear layers of a transformer's encoder: what holds each, its name there, and the layer.

    Raises: InputError: the model is no transformer.
    """
    network = getattr(predictor.backbone, "network", None)
    if network is None:
        raise InputError(f"{type(predictor.backbone).__name__} is no transformer: it has no such layers")
    for name, module in list(network.encoder.named_modules()):
        if type(module) is nn.Linear:
            parent, _, child = name.rpartition(".")
            yield network.encoder.get_submodule(parent), child, module


def require(package: str, extra: str) -> None:
    """Raises: InputError: it is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f'{package} is not installed. Install it with: pip install -e ".[{extra}]"')


def int8_dynamic(predictor: Predictor) -> Predictor:
    """Weights in int8 by output channel; activations quantised in each call, by tensor (CPU) or by token (GPU)."""
    if predictor.target_mean.is_cuda:
        require("torchao", "compress")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig

        return _by_torchao(predictor, Int8DynamicActivationInt8WeightConfig)
    network = predictor.backbone.network if list(encoder_layers(predictor)) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to go; torchao has no 8-bit kernel for CPUs in eager mode yet
        import torch.ao.quantization as quantization

        each = quantization.per_channel_dynamic_qconfig
        quantization.quantize_dynamic(network.encoder, {nn.Linear: each}, inplace=True)
    return predictor


class StaticLinear(nn.Module):
    """A linear layer on bytes by oneDNN: int8 weights by output channel, activations by one fixed scale.

    Args: low, high: of the activations that calibration saw; what lies outside is clipped.
    Raises: RuntimeError: this build of PyTorch lacks the kernel.
    """

    def __init__(self, linear: nn.Linear, low: float, high: float) -> None:
        super().__init__()
        low, high = min(low, 0.0), max(high, 0.0)
        self.scale = max(high - low, 1e-8) / LEVELS
        self.zero_point = round(-low / self.scale)
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).clamp_min(1e-8) / 127
        self.register_buffer("weight", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64), persistent=False)
        self.packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(T, in) float32 -> (T, out) float32."""
        if self.packed is None:  # oneDNN's own layout replaces the weights, once the file has been weighed
            self.packed, self.weight = torch.ops.onednn.qlinear_prepack(self.weight, None), None
        levels = torch.round(x * (1 / self.scale)).add_(self.zero_point).clamp_(0, LEVELS).to(torch.uint8)
        constants = self.packed, self.scales, self.zeros, self.bias, 1.0, 0, torch.float32, "none", [], ""
        return torch.ops.onednn.qlinear_pointwise(levels, self.scale, self.zero_point, *constants)


def int8_static(predictor: Predictor, batches: Iterable[PackedBatch]) -> Predictor:
    """Weights in int8 by output channel; activations by one scale a layer, from the least and highest seen."""
    if predictor.target_mean.is_cuda:
        raise InputError("PyTorch has no static 8-bit kernel in eager mode for GPUs")
    layers = list(encoder_layers(predictor))
    seen = _ranges(predictor, layers, batches)
    for (parent, child, linear), (low, high) in zip(layers, seen, strict=True):
        setattr(parent, child, StaticLinear(linear, low, high))
    return predictor


class _Watched(CalledAlone):
    """Keeps the least and the highest input value."""

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        return F.linear(x, self.weight, self.bias)


def _ranges(
    predictor: Predictor, layers: list[tuple[nn.Module, str, nn.Linear]], batches: Iterable[PackedBatch]
) -> list[tuple[float, float]]:
    for _, _, linear in layers:
        linear.__class__, linear.low, linear.high = _Watched, float("inf"), float("-inf")
    with torch.inference_mode():
        for batch in batches:
            predictor(batch) if predictor.kind != "contacts" else predictor.backbone(batch)
    for _, _, linear in layers:
        linear.__class__ = nn.Linear
    return [(linear.low, linear.high) for _, _, linear in layers]


def int4(predictor: Predictor) -> Predictor:
    """Weights in four bits by torchao, a scale and a zero for each 32; products in bfloat16."""
    require("torchao", "compress")
    if predictor.target_mean.is_cuda:
        from torchao.quantization import Int4WeightOnlyConfig

        return _by_torchao(
            predictor, lambda: Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
        )
    from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig

    return _by_torchao(predictor, lambda: PrototypeInt4WeightOnlyConfig(GROUP, set_inductor_config=False))


def nf4(predictor: Predictor) -> Predictor:
    """Weights in NF4 by bitsandbytes, a scale for each 64: what QLoRA trains beside. Unpacked in each call."""
    require("bitsandbytes", "qlora")
    from plmft.models.four_bits import PackedLinear

    for parent, child, linear in list(encoder_layers(predictor)):
        setattr(parent, child, PackedLinear(linear))
    return predictor


def _by_torchao(predictor: Predictor, config: Callable[[], object]) -> Predictor:
    from torchao.quantization import quantize_

    layers = list(encoder_layers(predictor))
    for _, _, linear in layers:
        linear.to(torch.bfloat16)
    quantize_(predictor.backbone.network.encoder, config())
    for _, _, linear in layers:
        linear.__class__ = _InBf16
    return predictor


class _InBf16(CalledAlone):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(torch.bfloat16), self.weight, self.bias)
