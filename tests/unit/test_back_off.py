"""A step that runs out of memory is cut finer and done again, to the same gradients; the second time ends the run."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit, StepBatch
from plmft.data.records import Record
from plmft.data.recutting import recut, split_batch
from plmft.efficiency.out_of_memory import is_out_of_memory
from plmft.models.build import build_predictor
from plmft.models.head_spec import PairHead, ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.spec import TransformerSpec
from plmft.models.tokenizer import ESM
from plmft.models.tuning import Full
from plmft.models.weights import Located
from plmft.training.back_off import BackOff
from tests.conftest import random_sequence

SPEC = TransformerSpec("tiny", "esm2", 1, 16, 2, 32, 33, 200, 1026, 3824, None, None, "", "", init="random")
HEADS = {
    "sequence_regression": SequenceHead("mean", True, 8, 0.1),
    "pair_classification": SequenceHead("attention", False, 8, 0.0),
    "residue_classification": ResidueHead(0.0),
    "contacts": PairHead(4, 4, 0.0),
}
CPU_ERROR = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."


def records(kind: str, count: int = 7) -> list[Record]:
    rng = np.random.default_rng(0)
    targets: dict[str, Callable[[int], Any]] = {
        "sequence_regression": lambda n: float(rng.standard_normal()),
        "pair_classification": lambda n: int(rng.integers(3)),
        "residue_classification": lambda n: rng.integers(0, 3, n),
        "contacts": lambda n: rng.normal(0, 5, (n, 3)).astype(np.float32),
    }
    made = []
    for i in range(count):
        sequence = random_sequence(rng, int(rng.integers(8, 30)))
        partner = random_sequence(rng, int(rng.integers(8, 30))) if kind == "pair_classification" else ""
        made.append(Record(str(i), sequence, targets[kind](len(sequence)), "train", partner=partner))
    return made


def split(kind: str) -> EncodedSplit:
    return EncodedSplit(records(kind), ESM, kind)


def model(kind: str) -> Predictor:
    torch.manual_seed(0)
    outputs = 1 if kind == "sequence_regression" else 3
    return build_predictor(SPEC, Located("random"), tuning=Full(), head=HEADS[kind], kind=kind, outputs=outputs)


def gradients(predictor: Predictor) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in predictor.named_parameters() if p.grad is not None}


def backward(predictor: Predictor) -> Callable[[StepBatch], torch.Tensor]:
    return lambda step: predictor.backward_step(step, torch.Tensor.backward)


@pytest.mark.parametrize("kind", HEADS)
def test_a_recut_step_is_the_step_packed_under_the_smaller_budget(kind: str) -> None:
    whole, index = split(kind), np.array([4, 2, 6, 0, 5, 1, 3])
    cut, packed = recut(whole.step(index, 10_000), 60), whole.step(index, 60)
    assert len(cut.micro) == len(packed.micro) > 2 and cut.targets == packed.targets
    for found, wanted in zip(cut.micro, packed.micro, strict=True):
        assert found.lengths == wanted.lengths and found.specials == wanted.specials
        for name in ("tokens", "positions", "cu_seqlens", "is_residue", "index", "targets"):
            assert torch.equal(getattr(found, name).nan_to_num(-1), getattr(wanted, name).nan_to_num(-1)), name
            assert getattr(found, name).dtype == getattr(wanted, name).dtype


def test_cached_vectors_are_cut_by_token_or_by_sequence() -> None:
    (batch,) = split("pair_classification").step(np.arange(7), 10_000).micro
    tokens, sequences = len(batch.tokens), len(batch.lengths)
    for rows in (tokens, sequences):
        vectors = torch.arange(rows)[:, None]
        parts = split_batch(replace(batch, vectors=vectors), 80)
        assert torch.equal(torch.cat([p.vectors for p in parts]), vectors)
        assert all(len(p.vectors) == (sum(p.lengths) if rows == tokens else len(p.lengths)) for p in parts)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(
    "error", [RuntimeError(CPU_ERROR), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_the_step_is_done_again_with_the_same_gradients(kind: str, error: Exception) -> None:
    """It fails in its last micro-step, when gradients and random numbers of the first have been made already."""
    step = split(kind).step(np.arange(7), 120)
    assert len(step.micro) > 1
    limit = max(sum(batch.lengths) for batch in step.micro)
    expected = model(kind)
    torch.manual_seed(1)
    loss = backward(expected)(step)
    failing = model(kind)
    restrict(failing, limit, error)
    torch.manual_seed(1)
    back_off = BackOff(failing)
    found = back_off.gradients(step, backward(failing))
    torch.testing.assert_close(found, loss)
    wanted = gradients(expected)
    assert gradients(failing).keys() == wanted.keys()
    for name, gradient in gradients(failing).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-6)
    for (name, found), (_, value) in zip(failing.named_buffers(), expected.named_buffers(), strict=True):
        torch.testing.assert_close(found, value, msg=name)
    (note,) = back_off.notes
    assert f"Out of memory at {limit:,} tokens" in note and f"hardware.tokens_per_batch={limit // 2}" in note


def restrict(predictor: Predictor, limit: int, error: Exception) -> None:
    """From now on a forward pass of `limit` tokens or more finds no memory."""
    forward = predictor.backbone.forward

    def scarce(batch: Any, *rest: Any) -> torch.Tensor:
        if sum(batch.lengths) >= limit:
            raise error
        return forward(batch, *rest)

    predictor.backbone.forward = scarce


def test_later_steps_are_cut_finer_at_once() -> None:
    predictor = model("residue_classification")
    restrict(predictor, 100, MemoryError())
    back_off, seen = BackOff(predictor), []
    whole = split("residue_classification")

    def compute(step: StepBatch) -> torch.Tensor:
        seen.append([sum(batch.lengths) for batch in step.micro])
        return predictor.backward_step(step, torch.Tensor.backward)

    for _ in range(2):
        back_off.gradients(whole.step(np.arange(7), 120), compute)
    assert len(seen) == 3 and max(seen[0]) >= 100 and max(seen[1]) <= 60 and seen[2] == seen[1]
    assert len(back_off.notes) == 1


def test_the_second_time_ends_with_what_to_do() -> None:
    predictor = model("residue_classification")
    restrict(predictor, 30, RuntimeError(CPU_ERROR))
    back_off = BackOff(predictor)
    with pytest.raises(InputError) as error:
        back_off.gradients(split("residue_classification").step(np.arange(7), 120), backward(predictor))
    for words in ("Out of memory", "hardware.tokens_per_batch=", "gradient_checkpointing", "plmft.doctor"):
        assert words in str(error.value)


def test_one_sequence_that_does_not_fit_is_not_tried_again() -> None:
    predictor = model("residue_classification")
    restrict(predictor, 1, MemoryError())
    with pytest.raises(InputError, match=r"longest sequence has \d+ tokens.*data\.length_policy=crop"):
        BackOff(predictor).gradients(split("residue_classification").step(np.arange(7), 1), backward(predictor))


def test_one_process_of_several_does_not_try_alone() -> None:
    predictor = model("residue_classification")
    restrict(predictor, 1, MemoryError())
    with pytest.raises(InputError, match="Out of memory"):
        BackOff(predictor, processes=2).gradients(
            split("residue_classification").step(np.arange(7), 500), backward(predictor)
        )


def test_other_errors_pass() -> None:
    predictor = model("residue_classification")
    restrict(predictor, 1, RuntimeError("shapes do not agree"))
    with pytest.raises(RuntimeError, match="shapes do not agree"):
        BackOff(predictor).gradients(split("residue_classification").step(np.arange(7), 500), backward(predictor))
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))


ASK_TOO_MUCH = """
import resource, torch
from plmft.efficiency.out_of_memory import is_out_of_memory
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
try:
    torch.empty(1 << 30, dtype=torch.uint8)
except RuntimeError as error:
    assert is_out_of_memory(error), error
    print("told")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is Linux's")
def test_the_allocators_own_message_is_known() -> None:
    done = subprocess.run([sys.executable, "-c", ASK_TOO_MUCH], capture_output=True, text=True, timeout=60)
    assert done.stdout == "told\n", done.stderr
