"""Joined products equal the layers called one by one; LoRA equals PEFT's own forward pass and gradients."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from plmft.models import projections
from plmft.models.projections import project

NAMES = ("query", "key", "value")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def layers(dropout=0.0, adapters=True, **options):
    torch.manual_seed(0)
    parts = nn.ModuleDict({name: nn.Linear(12, width) for name, width in zip(NAMES, (8, 8, 20), strict=True)})
    if adapters:
        parts.requires_grad_(False)
        config = LoraConfig(r=3, lora_alpha=7, lora_dropout=dropout, target_modules=list(NAMES), **options)
        inject_adapter_in_model(config, parts)
        for part in parts.values():
            nn.init.normal_(part.lora_B["default"].weight)
    return parts.train()


def gradients(parts, out, x):
    parts.zero_grad()
    x.grad = None
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return {"x": x.grad.clone()} | {name: p.grad.clone() for name, p in parts.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("adapters", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("names", [NAMES, ("value",)], ids=["joined", "alone"])
def test_equals_the_layers_called_one_by_one(adapters, names):
    parts, x = layers(adapters=adapters), torch.randn(9, 12, requires_grad=True)
    chosen = [parts[name] for name in names]
    mine, theirs = project(chosen, x), torch.cat([part(x) for part in chosen], 1)
    torch.testing.assert_close(mine, theirs, **CLOSE)
    for name in set(NAMES) - set(names):
        del parts[name]
    found, wanted = gradients(parts, mine, x), gradients(parts, theirs, x)
    assert len(wanted) == 1 + 2 * len(names)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **CLOSE, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(project(chosen, x), theirs, **CLOSE)


def test_the_lowest_layer_needs_no_gradient_of_its_input():
    parts, x = layers(), torch.randn(9, 12)
    out = project(list(parts.values()), x)
    out.sum().backward()
    assert x.grad is None
    assert all(p.grad is not None for p in parts.parameters() if p.requires_grad)


def test_bf16_autocast_stays_in_bf16_and_gives_fp32_gradients():
    parts, x = layers(), torch.randn(40, 12, requires_grad=True)
    exact = project(list(parts.values()), x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = project(list(parts.values()), x)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).norm() / exact.norm() < 0.02
    found, wanted = gradients(parts, rough, x), gradients(parts, exact, x)
    for name in wanted:
        assert found[name].dtype == torch.float32
        assert (found[name] - wanted[name]).norm() / wanted[name].norm() < 0.03, name


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_other_kinds_of_adapters_are_called(options, monkeypatch):
    monkeypatch.setattr(projections, "_lora", lambda *_: pytest.fail("taken for plain LoRA"))
    parts, x = layers(**options), torch.randn(9, 12)
    torch.manual_seed(1)
    mine = project(list(parts.values()), x)
    torch.manual_seed(1)
    torch.testing.assert_close(mine, torch.cat([part(x) for part in parts.values()], 1))


def test_merged_and_disabled_adapters_are_heeded():
    parts, x = layers(), torch.randn(9, 12)
    with_adapters = project(list(parts.values()), x)
    for part in parts.values():
        part.merge()
    torch.testing.assert_close(project(list(parts.values()), x), with_adapters, **CLOSE)
    for part in parts.values():
        part.unmerge()
        part.enable_adapters(False)
    base = torch.cat([part.base_layer(x) for part in parts.values()], 1)
    torch.testing.assert_close(project(list(parts.values()), x), base, **CLOSE)
