"""The planner's formulas against what PyTorch counts: weights exactly, a step's memory by the allocator's record."""

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from plmft.data.packing import EncodedSplit
from plmft.data.records import Record
from plmft.efficiency.plan import GB, Learns, MicroStep, Network, Numerics, Sharing, training_memory
from plmft.models.build import build_predictor
from plmft.models.head_spec import Head, PairHead, ResidueHead, SequenceHead
from plmft.models.predictor import Predictor
from plmft.models.spec import TransformerSpec
from plmft.models.tokenizer import ESM
from plmft.models.tuning import Bias, DoRA, Frozen, Full, LastLayers, LoRA, Tuning
from plmft.models.weights import Located, build
from plmft.training.planning import head_bytes, learns_of, network_of
from tests.conftest import random_sequence

ESM2 = TransformerSpec("small", "esm2", 3, 64, 4, 256, 33, 1022, 1026, 1, None, None, "", "", init="random")
BOTH = ("attention", "feedforward")
TUNINGS = (
    Full(),
    Frozen(),
    LastLayers(2),
    Bias(),
    LoRA(4, 8, 0.0, BOTH),
    LoRA(4, 8, 0.0, ("attention",), 2),
    DoRA(4, 8, 0.0, BOTH),
)
RESIDUES = ResidueHead(0.0)


def counted(spec: TransformerSpec) -> TransformerSpec:
    with torch.device("meta"):
        return replace(spec, parameters=sum(weights.numel() for weights in build(spec).parameters()))


def family(name: str) -> TransformerSpec:
    vocabulary = 30 if name == "bert" else 33
    return counted(replace(ESM2, family=name, vocabulary=vocabulary))


def predictor_of(spec: TransformerSpec, tuning: Tuning, head: Head = RESIDUES) -> Predictor:
    kinds = {SequenceHead: "sequence_regression", ResidueHead: "residue_classification", PairHead: "contacts"}
    return build_predictor(
        spec, Located("random"), tuning=tuning, head=head, kind=kinds[type(head)], outputs=outputs_of(head)
    )


def outputs_of(head: Head) -> int:
    return 3 if isinstance(head, ResidueHead) else 1


@pytest.mark.parametrize(
    ("name", "tuning"),
    [("esm2", tuning) for tuning in TUNINGS] + [(n, t) for n in ("esm1b", "bert") for t in (LastLayers(2), Bias())],
)
def test_what_learns_is_counted_exactly(name: str, tuning: Tuning) -> None:
    spec = family(name)
    predictor = predictor_of(spec, tuning)
    learns = learns_of(spec, tuning, RESIDUES, "residue_classification", 3)
    assert learns.weights == sum(p.numel() for p in predictor.parameters() if p.requires_grad)
    assert spec.parameters + learns.added + learns.head == sum(p.numel() for p in predictor.parameters())


@pytest.mark.parametrize("head", [SequenceHead("attention", True, 32, 0.0), RESIDUES, PairHead(8, 8, 0.0)])
def test_heads_are_counted_exactly(head: Head) -> None:
    spec = family("esm2")
    predictor = predictor_of(spec, Frozen(), head)
    learns = learns_of(spec, Frozen(), head, predictor.kind, outputs_of(head))
    assert learns.weights == learns.head == sum(p.numel() for p in predictor.head.parameters())


def test_the_terms_of_a_known_model() -> None:
    """ESM-2 3B by LoRA: 2,832,442,880 weights of 4 bytes, and adapters of rank 16 on six products in 36 layers."""
    network = Network(36, 2560, 40, 10_240, 2_832_442_880)
    adapters = 36 * 16 * (4 * 2 * 2560 + 2 * (2560 + 10_240))
    learns = Learns(adapters, 0, 36, True, True, added=adapters, ranks=6 * 16)
    memory = training_memory(network, learns, MicroStep((1000,), alone=True), Numerics("bf16", "flash"))
    assert memory.weights == 4 * (2_832_442_880 + adapters)
    assert memory.gradients == 4 * adapters and memory.optimizer == 8 * adapters
    assert memory.copies == 36 * 2 * (4 * 2560**2 + 2 * 2560 * 10_240)
    halved = training_memory(network, learns, MicroStep((1000,), alone=True), Numerics("bf16_weights", "flash"))
    assert memory.weights - halved.weights == 36 * 2 * (4 * 2560**2 + 2 * 2560 * 10_240)
    packed = training_memory(
        network, replace(learns, four_bit=True), MicroStep((1000,), alone=True), Numerics("bf16", "flash")
    )
    assert memory.weights - packed.weights == 36 * (4 - 4.5 / 8) * (4 * 2560**2 + 2 * 2560 * 10_240)
    assert memory.terms.keys() >= {"weights", "gradients", "optimizer", "activations", "fixed"}


def test_what_processes_share() -> None:
    """ZeRO's table 1 (Rajbhandari et al. 2020): K = 12 bytes here, of which stage 1 shards 8, 2 also 4, 3 also 4."""
    network = Network(2, 64, 4, 256, 1_000_000)
    learns = Learns(1_000_000, 0, 2, True, True, products=True)
    held = {}
    for strategy in ("single", "ddp", "zero1", "zero2", "zero3"):
        sharing = Sharing(strategy, 1 if strategy == "single" else 4)
        memory = training_memory(network, learns, MicroStep((10,)), Numerics("bf16", "flash"), sharing=sharing)
        held[strategy] = memory
    assert held["ddp"].weights == held["single"].weights and held["ddp"].optimizer == held["single"].optimizer
    assert [held[s].optimizer for s in ("zero1", "zero2", "zero3")] == [2e6, 2e6, 2e6]
    assert [held[s].gradients for s in ("zero1", "zero2", "zero3")] == [4e6, 1e6, 1e6]
    assert held["zero2"].weights == 4e6 and 1e6 <= held["zero3"].weights < 4e6
    offloaded = training_memory(
        network, learns, MicroStep((10,)), Numerics("bf16", "flash"), sharing=Sharing("zero3", 4, True)
    )
    assert offloaded.optimizer == 0 and offloaded.weights < held["zero3"].weights


def test_gradients_are_held_beside_activations_from_the_second_micro_step_on() -> None:
    network, learns = Network(2, 64, 4, 256, 1_000_000), Learns(1_000_000, 0, 2, True, True, products=True)
    alone, cut = (
        training_memory(network, learns, MicroStep((10,), alone), Numerics("fp32", "flash")) for alone in (True, False)
    )
    assert cut.total - alone.total == pytest.approx(min(cut.gradients, cut.dynamic - cut.gradients))


def measured(spec: TransformerSpec, tuning: Tuning, head: Head, lengths: tuple[int, ...], precision: str) -> float:
    """Bytes that a step's tensors take at their peak, by PyTorch's record of each allocation."""
    rng = np.random.default_rng(0)
    predictor = predictor_of(spec, tuning, head)
    targets = {
        "sequence_regression": lambda n: 1.0,
        "residue_classification": lambda n: rng.integers(0, 3, n),
        "contacts": lambda n: rng.normal(0, 10, (n, 3)).astype(np.float32),
    }[predictor.kind]
    records = [Record(str(i), random_sequence(rng, n - 2), targets(n - 2), "train") for i, n in enumerate(lengths)]
    step = EncodedSplit(records, ESM, predictor.kind).step(np.arange(len(lengths)), 10**9)

    def backward(loss: torch.Tensor) -> None:
        with torch.autocast("cpu", enabled=False):
            loss.backward()

    def run() -> None:
        predictor.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            predictor.backward_step(step, backward)

    run()
    predictor.zero_grad()
    gc.collect()  # what an earlier test left behind, freed while recorded, would count as freed by this step
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            run()
    finally:
        gc.enable()
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize(
    ("tuning", "head", "lengths", "precision"),
    [
        (Full(), RESIDUES, (120,) * 8, "bf16"),
        (Full(), RESIDUES, (400, 100, 30), "fp32"),
        (Full(), SequenceHead("mean", False, 32, 0.0), (90,) * 8, "bf16"),
        (Full(), PairHead(16, 16, 0.0), (200,) * 3, "bf16"),
        (Frozen(), RESIDUES, (300,) * 3, "bf16"),
        (LoRA(4, 8, 0.0, BOTH), RESIDUES, (120,) * 8, "bf16"),
        (LastLayers(2), RESIDUES, (120,) * 8, "bf16"),
        pytest.param(Bias(), RESIDUES, (250,) * 4, "bf16", marks=pytest.mark.slow),
        pytest.param(DoRA(4, 8, 0.0, BOTH), RESIDUES, (120,) * 8, "bf16", marks=pytest.mark.slow),
    ],
    ids=lambda value: (
        getattr(value, "name", type(value).__name__) if not isinstance(value, tuple | str) else str(value)
    ),
)
def test_a_steps_memory_is_what_the_allocator_counts(
    tuning: Tuning, head: Head, lengths: tuple[int, ...], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLMFT_KERNEL", "0")
    spec = family("esm2")
    micro = MicroStep(lengths, alone=True)
    learns = learns_of(spec, tuning, head, "residue_classification", outputs_of(head))
    planned = training_memory(
        network_of(spec),
        learns,
        micro,
        Numerics(precision, "matmul"),
        head=head_bytes(spec, head, micro, frozen=not learns.layers),
    )
    assert planned.dynamic == pytest.approx(measured(spec, tuning, head, lengths, precision), rel=0.1)


def test_a_kernel_that_keeps_no_probabilities_grows_with_tokens_alone() -> None:
    network, learns = Network(2, 64, 4, 256, 1_000_000), Learns(1_000_000, 0, 2, True, True, products=True)

    def activations(kernel: str, lengths: tuple[int, ...]) -> float:
        return training_memory(network, learns, MicroStep(lengths), Numerics("bf16", kernel)).activations

    assert activations("flash", (1000,)) == activations("flash", (100,) * 10)
    assert activations("matmul", (1000,)) - activations("matmul", (100,) * 10) == 2 * 2 * 4 * (1e6 - 1e5)
    assert activations("compiled", (1000,)) < activations("flash", (1000,)) < activations("matmul", (1000,))
    assert GB == 1e9
