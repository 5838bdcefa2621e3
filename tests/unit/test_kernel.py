"""The compiled attention against a slow float64 reference."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from plmft.models import kernels
from plmft.models.kernels import rotary_attention
from tests.unit.kernel_library import built_library

LENGTHS = (1, 2, 15, 16, 17, 33, 130)
BOUND = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the error's norm against the result's
ROUNDING = 2**-8  # of a number in bfloat16, relative, at most


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """load() gives the library in every test of this file."""
    found = kernels.open_library(built_library(tmp_path_factory.mktemp("cache")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "load", lambda: found)
        yield


def operands(qkv: Tensor, tables: tuple[Tensor, Tensor] | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (tokens, heads, width), turned by their positions."""
    width = qkv.shape[1] // (3 * heads)
    q, k, v = qkv.view(len(qkv), 3, heads, width).unbind(1)
    if tables is not None:
        cosine, sine = (table.to(qkv.dtype)[:, None] for table in tables)

        def rotated(x: Tensor) -> Tensor:
            a, b = x[..., : width // 2], x[..., width // 2 :]
            return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)

        q, k = rotated(q), rotated(k)
    return q, k, v


def reference(qkv: Tensor, lengths: tuple[int, ...], tables: tuple[Tensor, Tensor] | None, heads: int, scale: float):
    """The definition, sequence by sequence, in qkv's own type."""
    parts = []
    for q, k, v in zip(*(x.split(lengths) for x in operands(qkv, tables, heads)), strict=True):
        weights = torch.softmax(torch.einsum("qhd,khd->hqk", q, k) * scale, dim=-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(parts).flatten(1)


def without_cancelling(qkv: Tensor, lengths, tables, heads: int, scale: float, wanted: Tensor) -> list[float]:
    """Norms of the output and the gradients of queries, keys and values if no terms of their sums had opposite signs:
    what rounding of the terms grows with.
    """
    squares = torch.zeros(4, dtype=qkv.dtype)
    parts = (*operands(qkv, tables, heads), wanted.view(len(wanted), heads, -1))
    for q, k, v, g in zip(*(x.split(lengths) for x in parts), strict=True):
        weights = torch.softmax(torch.einsum("qhd,khd->hqk", q, k) * scale, dim=-1)
        terms = weights * torch.einsum("qhd,khd->hqk", g.abs(), v.abs())
        of_scores = abs(scale) * (terms + weights * terms.sum(-1, keepdim=True))
        sums = (
            torch.einsum("hqk,khd->qhd", weights, v.abs()),
            torch.einsum("hqk,khd->qhd", of_scores, k.abs()),
            torch.einsum("hqk,qhd->khd", of_scores, q.abs()),
            torch.einsum("hqk,qhd->khd", weights, g.abs()),
        )
        squares += torch.stack([one.square().sum() for one in sums])
    return squares.sqrt().tolist()


def case(lengths: tuple[int, ...], heads: int, width: int, dtype: torch.dtype, rotary: bool, seed: int = 0):
    """Inputs, tables and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    tokens = sum(lengths)
    angles = torch.randn(tokens, width // 2, generator=generator) * 100
    qkv = torch.randn(tokens, 3 * heads * width, generator=generator).to(dtype)
    wanted = torch.randn(tokens, heads * width, generator=generator).to(dtype)
    return qkv, (angles.cos(), angles.sin()) if rotary else None, wanted


def differentiate(attend, qkv: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    leaf = qkv.detach().clone().requires_grad_()
    out = attend(leaf)
    return out.detach(), torch.autograd.grad(out, leaf, wanted)[0]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30))


def check(lengths, heads, width, dtype, rotary, scale, seed=0):
    """Within BOUND; where sums cancel, so that bfloat16 can't be, within a rounding of their terms or no worse than
    PyTorch in bfloat16.
    """
    qkv, tables, wanted = case(lengths, heads, width, dtype, rotary, seed)
    exact = differentiate(lambda x: reference(x, lengths, tables, heads, scale), qkv.double(), wanted.double())
    found = differentiate(lambda x: rotary_attention(x, lengths, tables, heads=heads, scale=scale), qkv, wanted)
    assert found[0].dtype == found[1].dtype == dtype
    negligible = 1e-6 * exact[1].norm()  # of one token alone, query and key have no gradient
    within = [
        truth.norm() <= negligible or error(result, truth) <= BOUND[dtype]
        for result, truth in zip(split(found), split(exact), strict=True)
    ]
    if not all(within):
        assert dtype == torch.bfloat16
        plain = differentiate(lambda x: reference(x, lengths, tables, heads, scale), qkv, wanted)
        sizes = without_cancelling(qkv.double(), lengths, tables, heads, scale, wanted.double())
        for fine, result, other, truth, size in zip(within, *map(split, (found, plain, exact)), sizes, strict=True):
            rounded = (result.double() - truth).norm() <= ROUNDING * size
            assert fine or rounded or error(result, truth) <= 1.2 * error(other, truth)


def split(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The output, and the gradients of queries, keys and values."""
    return (pair[0], *pair[1].chunk(3, dim=1))


@pytest.mark.parametrize("rotary", [True, False])
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("width", [16, 20, 24, 32, 40, 64])
def test_equals_the_reference(width, dtype, rotary):
    check(LENGTHS, 3, width, dtype, rotary, width**-0.5)


@pytest.mark.parametrize("dtype", BOUND)
def test_long_sequences(dtype):
    check((1024, 5, 1023), 1, 16, dtype, True, 0.25)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 150), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 45).map(lambda half: 2 * half),
    st.sampled_from(list(BOUND)),
    st.booleans(),
    st.sampled_from([0.05, 0.3, -0.2]),
    st.integers(0, 100),
)
def test_equals_the_reference_at_random(lengths, heads, width, dtype, rotary, scale, seed):
    check(tuple(lengths), heads, width, dtype, rotary, scale, seed)


@pytest.mark.parametrize("width", [16, 64])
def test_bfloat16_is_no_worse_than_pytorch_in_bfloat16(width):
    qkv, tables, wanted = case(LENGTHS, 3, width, torch.bfloat16, True)
    exact, plain, found = (
        differentiate(attend, x, wanted.to(x.dtype))
        for attend, x in (
            (lambda x: reference(x, LENGTHS, tables, 3, 0.25), qkv.double()),
            (lambda x: reference(x, LENGTHS, tables, 3, 0.25), qkv),
            (lambda x: rotary_attention(x, LENGTHS, tables, heads=3, scale=0.25), qkv),
        )
    )
    assert error(found[0], exact[0]) <= error(plain[0], exact[0])
    assert error(found[1], exact[1]) <= error(plain[1], exact[1])


@pytest.mark.parametrize("dtype", BOUND)
def test_packed_is_one_at_a_time_to_the_bit(dtype):
    qkv, tables, wanted = case(LENGTHS, 2, 16, dtype, True)
    packed = differentiate(lambda x: rotary_attention(x, LENGTHS, tables, heads=2, scale=0.25), qkv, wanted)
    start = 0
    for length in LENGTHS:
        part = slice(start, start + length)
        own = tuple(table[part] for table in tables)
        alone = differentiate(
            lambda x, length=length, own=own: rotary_attention(x, (length,), own, heads=2, scale=0.25),
            qkv[part],
            wanted[part],
        )
        assert torch.equal(packed[0][part], alone[0])
        assert torch.equal(packed[1][part], alone[1])
        start += length


@pytest.mark.parametrize("dtype", BOUND)
def test_the_same_twice_and_on_two_threads(dtype):
    qkv, tables, wanted = case((700, *LENGTHS), 3, 24, dtype, True)
    results = []
    for threads in (1, 1, 2):
        torch.set_num_threads(threads)
        attend = lambda x: rotary_attention(x, (700, *LENGTHS), tables, heads=3, scale=0.2)  # noqa: E731
        results.append(differentiate(attend, qkv, wanted))
    torch.set_num_threads(1)
    for other in results[1:]:
        assert torch.equal(results[0][0], other[0]) and torch.equal(results[0][1], other[1])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", BOUND)
def test_large_scores_neither_overflow_nor_vanish(dtype, sign):
    qkv, _, wanted = case(LENGTHS, 2, 16, dtype, False)
    qkv[:, :64] = qkv[:, :64].abs() * 30  # scores up to about sign * 10,000
    exact = differentiate(lambda x: reference(x, LENGTHS, None, 2, sign * 0.25), qkv.double(), wanted.double())
    found = differentiate(lambda x: rotary_attention(x, LENGTHS, None, heads=2, scale=sign * 0.25), qkv, wanted)
    assert error(found[0], exact[0]) <= 10 * BOUND[dtype]
    assert error(found[1], exact[1]) <= 10 * BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("column", [0, 32, 64])
def test_a_number_that_is_none_shows_in_its_own_sequence_only(column, value, dtype):
    qkv, _, wanted = case((20, 40, 20), 2, 16, dtype, False)
    qkv[30, column] = value
    out, gradient = differentiate(lambda x: rotary_attention(x, (20, 40, 20), None, heads=2, scale=0.25), qkv, wanted)
    assert not out[20:60].isfinite().all()
    assert out[:20].isfinite().all() and out[60:].isfinite().all()
    assert gradient[:20].isfinite().all() and gradient[60:].isfinite().all()


def test_saves_nothing_where_no_gradient_is_wanted():
    qkv, tables, _ = case(LENGTHS, 2, 16, torch.float32, True)
    assert rotary_attention(qkv, LENGTHS, tables, heads=2, scale=0.25).grad_fn is None
    with torch.no_grad():
        assert rotary_attention(qkv.requires_grad_(), LENGTHS, tables, heads=2, scale=0.25).grad_fn is None


def test_gradients_and_inputs_of_any_stride():
    qkv, tables, wanted = case(LENGTHS, 2, 16, torch.float32, True)
    attend = lambda x: rotary_attention(x, LENGTHS, tables, heads=2, scale=0.25)  # noqa: E731
    expected = differentiate(attend, qkv, wanted)
    found = differentiate(lambda x: attend(x.t().contiguous().t()), qkv, wanted.t().contiguous().t())
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    summed = differentiate(lambda x: attend(x).sum(), qkv, None)[1]  # its gradient has stride 0
    assert torch.equal(summed, differentiate(attend, qkv, torch.ones_like(wanted))[1])


@pytest.mark.parametrize("reentrant", [True, False])
def test_under_gradient_checkpointing(reentrant):
    qkv, tables, wanted = case(LENGTHS, 2, 16, torch.bfloat16, True)
    attend = lambda x: rotary_attention(x, LENGTHS, tables, heads=2, scale=0.25)  # noqa: E731
    expected = differentiate(attend, qkv, wanted)
    found = differentiate_checkpointed(attend, qkv, wanted, reentrant)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def differentiate_checkpointed(attend, qkv, wanted, reentrant):
    leaf = qkv.detach().clone().requires_grad_()
    out = checkpoint(attend, leaf, use_reentrant=reentrant)
    out.backward(wanted)
    return out.detach(), leaf.grad


def test_no_tokens():
    out, gradient = differentiate(
        lambda x: rotary_attention(x, (), None, heads=2, scale=0.25), torch.empty(0, 96), torch.empty(0, 32)
    )
    assert out.shape == (0, 32) and gradient.shape == (0, 96)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": (3, 4)}, "add up to 7"),
        ({"lengths": (11, -1)}, "lengths"),
        ({"qkv": torch.zeros(10, 96, dtype=torch.float64)}, "float64"),
        ({"qkv": torch.zeros(10, 90)}, "qkv"),
        ({"qkv": torch.zeros(10, 95)}, "qkv"),
        ({"tables": (torch.zeros(10, 8), torch.zeros(10, 16))}, "rotary table"),
        ({"tables": (torch.zeros(10, 8, dtype=torch.bfloat16),) * 2}, "rotary table"),
    ],
)
def test_refuses_what_would_read_foreign_memory(change, message):
    arguments = {"qkv": torch.zeros(10, 96), "lengths": (4, 6), "tables": None, **change}
    with pytest.raises(ValueError, match=message):
        rotary_attention(**arguments, heads=2, scale=1.0)
