"""FLOP formulas against hand counts and against PyTorch's own counter on matching networks."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from plmft import InputError
from plmft.efficiency.flops import (
    Peak,
    conv_forward_flops,
    find_peak,
    linear_forward_flops,
    measure_gemm_flops,
    peak_flops,
    step_flops,
    transformer_attention_flops,
    transformer_forward_flops,
)

LAYERS, D, F, CLASSES, RANK, LENGTHS = 3, 8, 20, 3, 2, (5, 11, 2)


class LoRALinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down, self.up = nn.Linear(inputs, RANK, bias=False), nn.Linear(RANK, outputs, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Layer(nn.Module):
    def __init__(self, linear):
        super().__init__()
        self.query, self.key, self.value, self.out = (linear(D, D) for _ in range(4))
        self.up, self.down = linear(D, F), linear(F, D)

    def forward(self, x_LD):
        scores_LL = self.query(x_LD) @ self.key(x_LD).T
        x_LD = x_LD + self.out(torch.softmax(scores_LL, -1) @ self.value(x_LD))
        return x_LD + self.down(torch.relu(self.up(x_LD)))


def count(backbone, head, train=True, input_gradient=True):
    """FLOPs by PyTorch's counter, the sequences one by one."""
    counter = FlopCounterMode(display=False)
    with counter:
        for length in LENGTHS:
            hidden_LD = backbone(torch.randn(length, D, requires_grad=input_gradient))
            loss = head(hidden_LD).sum()
            if train:
                loss.backward()
    return counter.get_total_flops()


def network(linear=nn.Linear):
    return nn.Sequential(*(Layer(linear) for _ in range(LAYERS))), nn.Linear(D, CLASSES)


FORWARD = transformer_forward_flops(LAYERS, D, F, LENGTHS)
ATTENTION = transformer_attention_flops(LAYERS, D, LENGTHS)
HEAD = linear_forward_flops([(D, CLASSES)], sum(LENGTHS))


def test_a_tiny_network_by_hand():
    # one layer, D = 2, F = 3, one sequence of 5 tokens:
    # 4 projections 2x2: 4 * 5*2*2*2 = 160; up and down: 2 * 5*2*3*2 = 120; scores and mixing: 2 * 5*5*2*2 = 200
    assert transformer_forward_flops(1, 2, 3, [5]) == 160 + 120 + 200
    assert transformer_attention_flops(1, 2, [5]) == 200
    assert transformer_forward_flops(7, 2, 3, [5, 5]) == 14 * 480
    # kernel 3, 2 -> 4 channels, 5 positions: 5 * 3*2*4 multiply-adds
    assert conv_forward_flops([(3, 2, 4)], 5) == 240
    assert linear_forward_flops([(2, 3), (3, 1)], 4) == 4 * 2 * 9


def test_lengths_may_be_a_tensor():
    assert transformer_forward_flops(LAYERS, D, F, torch.tensor(LENGTHS, dtype=torch.int32)) == FORWARD


def test_long_sequences_lose_no_digit():
    assert transformer_attention_flops(1, 1, [100_003] * 7) == 7 * 4 * 100_003**2


def test_forward_equals_pytorch_s_counter():
    assert count(*network(), train=False) == FORWARD + HEAD


def test_full_tuning_equals_pytorch_s_counter():
    assert count(*network()) == step_flops(FORWARD, HEAD, "full")


def test_frozen_is_above_pytorch_s_counter_by_the_head_s_input_gradient_alone():
    backbone, head = network()
    backbone.requires_grad_(False)
    assert count(backbone, head, input_gradient=False) == step_flops(FORWARD, HEAD, "frozen") - HEAD


def test_lora_equals_pytorch_s_counter():
    shapes = 4 * [(D, RANK), (RANK, D)] + [(D, RANK), (RANK, F), (F, RANK), (RANK, D)]
    adapters = LAYERS * linear_forward_flops(shapes, sum(LENGTHS))
    expected = step_flops(FORWARD, HEAD, "lora", adapter_forward=adapters, attention=ATTENTION)
    assert count(*network(LoRALinear)) == expected


class NormedLayer(Layer):
    """With a norm before attention, as in ESM-2: its gains and constants ask for the gradient of what it gives."""

    def __init__(self, linear):
        super().__init__(linear)
        self.norm = nn.LayerNorm(D)

    def forward(self, x_LD):
        return super().forward(self.norm(x_LD))


def normed_network():
    return nn.Sequential(*(NormedLayer(nn.Linear) for _ in range(LAYERS))), nn.Linear(D, CLASSES)


def test_last_layers_equal_pytorch_s_counter():
    backbone, head = normed_network()
    backbone.requires_grad_(False)
    backbone[-2:].requires_grad_(True)
    found = count(backbone, head, input_gradient=False)
    assert found == pytest.approx(step_flops(FORWARD, HEAD, "last_layers", share=2 / LAYERS), rel=1e-12)


def test_bias_equals_pytorch_s_counter():
    backbone, head = normed_network()
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name.endswith("bias"))
    assert count(backbone, head, input_gradient=False) == step_flops(FORWARD, HEAD, "bias", attention=ATTENTION)


@pytest.mark.parametrize("tuning", ["lora", "dora", "qlora"])
def test_adapters_in_the_upper_layers_equal_pytorch_s_counter(tuning):
    """But for the gradients that the lowest layer with adapters needs of nothing below it."""
    backbone = nn.Sequential(*(Layer(nn.Linear) for _ in range(LAYERS - 1)), Layer(LoRALinear))
    backbone[:-1].requires_grad_(False)
    shapes = 4 * [(D, RANK), (RANK, D)] + [(D, RANK), (RANK, F), (F, RANK), (RANK, D)]
    adapters = linear_forward_flops(shapes, sum(LENGTHS))
    expected = step_flops(FORWARD, HEAD, tuning, adapter_forward=adapters, attention=ATTENTION, share=1 / LAYERS)
    unneeded = linear_forward_flops(3 * [(D, D), (RANK, D)], sum(LENGTHS))
    assert count(backbone, nn.Linear(D, CLASSES), input_gradient=False) == pytest.approx(expected - unneeded, rel=1e-12)


def test_embeddings_from_a_cache_leave_the_head_alone():
    assert step_flops(0.0, HEAD, "frozen") == 3 * HEAD


def test_convolutions_equal_pytorch_s_counter():
    shapes = [(5, 20, 16), (3, 16, 8)]
    network = nn.Sequential(*(nn.Conv1d(inputs, outputs, kernel, padding="same") for kernel, inputs, outputs in shapes))
    counter = FlopCounterMode(display=False)
    with counter:
        for length in LENGTHS:
            network(torch.randn(1, 20, length))
    assert counter.get_total_flops() == conv_forward_flops(shapes, sum(LENGTHS))


def test_an_unknown_tuning_names_what_is_allowed():
    with pytest.raises(InputError, match=r"tuning=prompt.*full, frozen, last_layers, bias, lora, dora, qlora"):
        step_flops(1.0, 1.0, "prompt")


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("Tesla V100-SXM2-16GB", "fp16", 125),
        ("Tesla V100-PCIE-32GB", "fp16", 112),
        ("Tesla T4", "fp16", 65),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp16", 989),
        ("NVIDIA B200", "bf16", 2250),
    ],
)
def test_published_peaks_are_dense(device, precision, tflops):
    peak = peak_flops(device, precision)
    assert peak.flops_per_s == tflops * 1e12
    assert device in peak.source and "dense" in peak.source


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        (None, "fp32"),
        ("NVIDIA A10G", "bf16"),  # not an A10
        ("NVIDIA L40", "bf16"),
        ("NVIDIA H100 NVL", "bf16"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GB200", "bf16"),
        ("Tesla V100-SXM2-16GB", "bf16"),  # it has none
        ("NVIDIA H100 80GB HBM3", "fp7"),
    ],
)
def test_what_the_table_lacks_is_absent_not_guessed(device, precision):
    assert peak_flops(device, precision) is None


def test_measured_gemm():
    peak = measure_gemm_flops("fp32", seconds=0.02, size=128)
    assert peak.source == "measured GEMM 128 fp32"
    assert 1e7 < peak.flops_per_s < 1e15
    with pytest.raises(InputError, match=r"precision=fp7.*fp32, tf32, bf16, fp16"):
        measure_gemm_flops("fp7")


def test_a_known_gpu_has_its_published_peak(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: "NVIDIA L4")
    assert find_peak("cuda", 0, "bf16") == Peak(121e12, "data sheet, dense bf16: NVIDIA L4")


def test_a_cpu_s_peak_is_measured():
    assert find_peak("cpu", 0, "fp32").source == "measured GEMM 1024 fp32"
