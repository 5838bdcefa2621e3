"""The plain path of packed attention against a slow reference in float64, forward and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.models import attention
from plmft.models.attention import rotary_attention, rotary_tables

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def without_kernel(monkeypatch):
    monkeypatch.setattr(attention.kernels, "load", lambda: None)


def reference(qkv, lengths, tables, heads, scale):
    """One sequence, one head at a time."""
    outputs = []
    for number, part in enumerate(qkv.split(list(lengths))):
        start = sum(lengths[:number])
        query, key, value = part.view(len(part), 3, heads, -1).unbind(1)
        mixed = []
        for head in range(heads):
            q, k = query[:, head], key[:, head]
            if tables is not None:
                q, k = (turned(x, *(t[start : start + len(part)].double() for t in tables)) for x in (q, k))
            mixed.append(torch.softmax(q @ k.T * scale, -1) @ value[:, head])
        outputs.append(torch.cat(mixed, 1))
    return torch.cat(outputs)


def turned(x, cosine, sine):
    half = x.shape[1] // 2
    pairs = torch.complex(x[:, :half], x[:, half:]) * torch.complex(cosine, sine)
    return torch.cat([pairs.real, pairs.imag], 1)


def example(lengths, heads, width, rotary, dtype=torch.float32):
    torch.manual_seed(0)
    total = sum(lengths)
    positions = torch.cat([torch.arange(n) for n in lengths])
    tables = rotary_tables(positions, 100 ** -torch.linspace(0, 1, width // 2)) if rotary else None
    return torch.randn(total, 3 * heads * width, dtype=dtype), tables


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.sampled_from([4, 16, 24]), st.booleans())
def test_equals_the_reference_forward_and_gradients(lengths, width, rotary):
    qkv, tables = example(lengths, 3, width, rotary)
    mine, exact = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    with torch.no_grad():
        quiet = rotary_attention(mine, lengths, tables, heads=3, scale=0.3)
    found = rotary_attention(mine, lengths, tables, heads=3, scale=0.3)
    wanted = reference(exact, lengths, tables, 3, 0.3)
    assert torch.equal(quiet, found)
    torch.testing.assert_close(found.double(), wanted, **CLOSE)
    direction = torch.randn(wanted.shape)
    (found * direction).sum().backward()
    (wanted * direction).sum().backward()
    torch.testing.assert_close(mine.grad.double(), exact.grad, **CLOSE)


def test_bf16_differs_by_rounding_only():
    lengths = [70, 1, 30]
    qkv, tables = example(lengths, 4, 16, True, torch.bfloat16)
    found = rotary_attention(qkv, lengths, tables, heads=4, scale=0.25)
    wanted = reference(qkv.double(), lengths, tables, 4, 0.25)
    assert found.dtype == torch.bfloat16
    assert (found - wanted).norm() / wanted.norm() < 0.01


def test_dropout_keeps_the_mean_and_drops():
    lengths = [12, 5]
    qkv, tables = example(lengths, 2, 8, True)
    exact = rotary_attention(qkv, lengths, tables, heads=2, scale=0.3)
    drawn = [rotary_attention(qkv, lengths, tables, heads=2, scale=0.3, dropout=0.3) for _ in range(600)]
    assert not torch.allclose(drawn[0], drawn[1])
    assert (torch.stack(drawn).mean(0) - exact).abs().max() < 0.2
    none = rotary_attention(qkv, lengths, tables, heads=2, scale=0.3, dropout=1e-9)
    torch.testing.assert_close(none, exact, **CLOSE)


def test_full_precision_on_a_gpu_goes_by_sequence(monkeypatch):
    """The path of a GPU in fp32, run on a CPU: SDPA for each sequence gives the same."""
    lengths = [9, 1, 20]
    qkv, tables = example(lengths, 2, 8, True)
    found = attention._on_gpu(qkv, lengths, tables, 2, 0.3, None)
    torch.testing.assert_close(found, rotary_attention(qkv, lengths, tables, heads=2, scale=0.3), **CLOSE)


def test_half_precision_on_a_gpu_goes_to_flash_attention(monkeypatch):
    """What is handed to `varlen_attn`, which needs a GPU: a stand-in with its signature computes it."""
    import torch.nn.attention.varlen as varlen

    def stand_in(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale):
        assert cu_seq_q is cu_seq_k and cu_seq_q.dtype == torch.int32 and max_q == max_k == 20
        bounds = cu_seq_q.tolist()
        spans = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        parts = [
            F.scaled_dot_product_attention(*(x[s].transpose(0, 1) for x in (query, key, value)), scale=scale)
            for s in spans
        ]
        return torch.cat([p.transpose(0, 1) for p in parts])

    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    lengths = [9, 1, 20]
    qkv, tables = example(lengths, 2, 8, True, torch.bfloat16)
    cu_seqlens = torch.tensor([0, 9, 10, 30], dtype=torch.int32)
    found = attention._on_gpu(qkv, lengths, tables, 2, 0.3, cu_seqlens)
    plain = rotary_attention(qkv, lengths, tables, heads=2, scale=0.3)
    torch.testing.assert_close(found, plain, rtol=0.05, atol=0.05)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # Turing has none
    monkeypatch.setattr(varlen, "varlen_attn", lambda *_, **__: pytest.fail("needs Ampere"))
    torch.testing.assert_close(attention._on_gpu(qkv, lengths, tables, 2, 0.3, cu_seqlens), plain, rtol=0.05, atol=0.05)
