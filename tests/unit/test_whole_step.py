"""Several ranks' gradients, added up, are those of one process: for heads that normalise over a step, and others."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from plmft.data.packing import StepBatch
from plmft.data.sampler import TrainingSteps
from plmft.models.head_spec import ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.tuning import Frozen, Full
from tests.unit.networks import backbone, packed

LENGTHS = [3, 40, 7, 7, 12, 25]
KINDS = {"sequence_regression": 1, "sequence_classification": 3, "pair_classification": 3, "residue_classification": 3}


class Together:
    """Ranks as threads of this process."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, held: list) -> None:
        self.rank, self.world, self._barrier, self._held = rank, world, barrier, held

    def gather_everywhere(self, value: object) -> list:
        self._held[self.rank] = value
        self._barrier.wait(20)
        found = list(self._held)
        self._barrier.wait(20)
        return found


def make(kind: str, tuning: Full | Frozen, pooling: str) -> Predictor:
    model = backbone("esm2")
    tuning.apply(model)
    torch.manual_seed(1)
    if kind == "residue_classification":
        head = ResidueHead(0.0).build(model.width, 3, kind)
    else:
        head = SequenceHead(pooling=pooling, normalize=True, hidden=8, dropout=0.0).build(
            model.width, KINDS[kind], kind
        )
    return Predictor(model, head, kind).train()


def gradients(predictor: Predictor) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in predictor.named_parameters() if p.grad is not None}


def of_ranks(world: int, model: Callable[[], Predictor], step: Callable[[int], StepBatch]) -> tuple[dict, float, list]:
    """The sum of all ranks' gradients, and of their losses; and how often each called backward."""
    barrier, held, found = threading.Barrier(world), [None] * world, [None] * world

    def work(rank: int) -> None:
        predictor, calls = models[rank], []
        ranks = Together(rank, world, barrier, held)
        batch = step(rank)

        def backward(loss: torch.Tensor) -> None:
            calls.append(loss)
            loss.backward()

        loss = predictor.backward_step(batch, backward, ranks=ranks)
        assert len(calls) == predictor.backward_passes(batch, ranks)
        found[rank] = (gradients(predictor), float(loss), predictor)

    models = [model() for _ in range(world)]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    total: dict[str, torch.Tensor] = {}
    for theirs, _, _ in found:
        for name, gradient in theirs.items():
            total[name] = total.get(name, 0) + gradient
    return total, sum(loss for _, loss, _ in found), [predictor for _, _, predictor in found]


@pytest.mark.parametrize("even", [False, True], ids=["as they come", "even"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("tuning", "pooling"), [(Full(), "mean"), (Frozen(), "attention"), (Frozen(), "mean")])
def test_ranks_add_up_to_one_process(
    kind: str, tuning: Full | Frozen, pooling: str, even: bool, rng: np.random.Generator
) -> None:
    split, _ = packed(rng, "esm2", LENGTHS, kind)
    options = {"batch_size": 5, "tokens_per_batch": 60, "seed": 0}
    for step in (0, 1):  # the last holds one record: two ranks of three have none
        alone = make(kind, tuning, pooling)
        whole = TrainingSteps(split, **options)[(0, step)]
        loss = alone.backward_step(whole, torch.Tensor.backward)
        shared = [TrainingSteps(split, **options, rank=rank, world=3, even=even) for rank in range(3)]
        total, summed, ranks = of_ranks(
            3, lambda: make(kind, tuning, pooling), lambda rank, step=step, shared=shared: shared[rank][(0, step)]
        )
        assert summed == pytest.approx(float(loss), rel=1e-5)
        wanted = gradients(alone)
        assert set(total) >= set(wanted)
        for name, gradient in total.items():
            torch.testing.assert_close(gradient, wanted.get(name, torch.zeros_like(gradient)), rtol=1e-4, atol=1e-6)
        for predictor in ranks:  # running values are the same everywhere
            for name, value in predictor.head.named_buffers():
                torch.testing.assert_close(value, dict(alone.head.named_buffers())[name], rtol=1e-5, atol=1e-6)


def test_dropout_of_the_head_differs_from_step_to_step(rng: np.random.Generator) -> None:
    split, _ = packed(rng, "esm2", LENGTHS)
    model = backbone("esm2")
    head = SequenceHead(pooling="mean", normalize=True, hidden=64, dropout=0.5).build(model.width, 1, split.kind)
    predictor = Predictor(model, head, split.kind).train()
    step = TrainingSteps(split, batch_size=6, tokens_per_batch=30, seed=0)[(0, 0)]
    assert len(step.micro) > 1
    losses = {float(predictor.backward_step(step, torch.Tensor.backward)) for _ in range(4)}
    assert len(losses) == 4
