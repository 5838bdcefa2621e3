"""A head that looks at chosen residues sees these and no others, in whatever company the sequence stands."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.data.packing import EncodedSplit
from plmft.data.records import Record, build_dataset
from plmft.models.head_spec import SequenceHead
from plmft.models.heads import at_positions, attention_pool
from plmft.models.predictor import Predictor
from plmft.training.gradient_steps import check_positions
from tests.conftest import random_sequence
from tests.unit.networks import FAMILIES, TOKENIZERS, backbone, packed

LENGTHS, POSITIONS = [9, 7, 12], (7, 2, 3)
KIND = "sequence_regression"
POOLINGS = ("mean", "max", "attention", "concat")


def head(pooling: str, positions: tuple[int, ...] | None = POSITIONS, normalize: bool = False) -> SequenceHead:
    return SequenceHead(pooling, normalize, 8, 0.0, positions)


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_residues_counted_from_one(family: str, rng: np.random.Generator) -> None:
    split, batch = packed(rng, family, LENGTHS)
    chosen, part = at_positions(batch.tokens[:, None].float(), batch, POSITIONS)
    first = len(TOKENIZERS[family].prefix)
    ids = [split.pack(np.array([i])).tokens[first:] for i in range(3)]
    assert chosen[:, 0].tolist() == [float(own[p - 1]) for own in ids for p in POSITIONS]
    assert part.lengths == (3, 3, 3) and part.is_residue.all() and part.specials == 0
    assert part.cu_seqlens.tolist() == [0, 3, 6, 9]
    assert part.tokens.tolist() == chosen[:, 0].long().tolist()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pool_is_that_of_the_chosen_residues(pooling: str, rng: np.random.Generator) -> None:
    """Against slices of each sequence, one at a time."""
    _, batch = packed(rng, "esm2", LENGTHS)
    vectors = torch.randn(len(batch.tokens), 6)
    network = head(pooling).build(6, 1, KIND)
    wanted = []
    for i in range(3):
        own = vectors[batch.owner == i][list(POSITIONS)]  # residue p stands at p: one special token comes before
        if pooling == "attention":
            wanted.append(torch.softmax(network.score(own)[:, 0], 0) @ own)
        else:
            wanted.append({"mean": own.mean(0), "max": own.amax(0), "concat": own.reshape(-1)}[pooling])
    torch.testing.assert_close(network.pool(vectors, batch), torch.stack(wanted))
    assert network(vectors, batch).shape == (3, 1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_other_residues_and_special_tokens_have_no_influence(pooling: str, rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    network = head(pooling).build(6, 2, "sequence_classification")
    vectors = torch.randn(len(batch.tokens), 6, requires_grad=True)
    network(vectors, batch).square().sum().backward()
    used = torch.isin(batch.positions, torch.tensor(POSITIONS))
    assert (vectors.grad[~used] == 0).all() and used.sum() == 9
    if pooling != "max":
        assert (vectors.grad[used].abs().sum(1) > 0).all()


def test_side_by_side_tells_which_site_is_which() -> None:
    """Two sites with their vectors exchanged: a mean is the same, side by side is not."""
    split = EncodedSplit([Record("a", "MKVLW", 0.0, "train")], TOKENIZERS["onehot_cnn"], KIND)
    batch = split.pack(np.array([0]))
    vectors = torch.randn(5, 6)
    exchanged = vectors[[0, 3, 2, 1, 4]]
    for pooling, same in (("mean", True), ("concat", False)):
        network = head(pooling, (2, 4)).build(6, 1, KIND)
        assert torch.allclose(network(vectors, batch), network(exchanged, batch)) is same


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["concat", "attention"])
def test_packed_is_one_at_a_time(family: str, pooling: str, rng: np.random.Generator) -> None:
    split, batch = packed(rng, family, LENGTHS)
    model = backbone(family)
    predictor = Predictor(model, head(pooling).build(model.width, 1, KIND), KIND).eval()
    alone = [predictor(split.pack(np.array([i]))) for i in range(3)]
    torch.testing.assert_close(predictor(batch), torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_a_step_has_the_same_gradients_however_it_is_cut(rng: np.random.Generator) -> None:
    """With normalisation over the step, where each part is pooled twice."""
    sequences = [random_sequence(rng, n) for n in (9, 8, 12, 7, 10, 9)]
    split = EncodedSplit(
        [Record(f"{i}", s, float(i), "train") for i, s in enumerate(sequences)], TOKENIZERS["esm2"], KIND
    )
    gradients = []
    for budget in (10_000, 25):
        model = backbone("esm2")
        torch.manual_seed(1)
        predictor = Predictor(model, head("concat", normalize=True).build(32, 1, KIND), KIND).train()
        model.eval()
        step = split.step(np.arange(6), budget)
        predictor.backward_step(step, lambda loss: loss.backward())
        gradients.append({name: p.grad for name, p in predictor.named_parameters() if p.grad is not None})
    assert len(step.micro) > 2 and gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=2e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: head("concat", None), "pooling=concat: set task.head.positions to the residues to put side by side"),
        (lambda: head("cls"), "pooling=cls uses no residue. Leave task.head.positions out"),
        (lambda: head("mean", (3, 5, 3)), r"positions=[3, 5, 3]: a position stands there twice"),
    ],
)
def test_options_that_do_not_go_together(make: Callable[[], SequenceHead], words: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert words in str(error.value)


def test_a_sequence_that_ends_before_a_position(rng: np.random.Generator) -> None:
    """Before training with file and row; and never a neighbour's residue, whoever calls the head."""
    targets = {"train": 12, "valid": 7, "test": 9}
    records = [
        Record(split, random_sequence(rng, length), 1.0, split, f"a.csv, line {n}")
        for n, (split, length) in enumerate(targets.items(), 2)
    ]
    dataset = build_dataset("t", KIND, records, source="a.csv")
    check_positions(head("concat"), dataset.splits.values())
    check_positions(head("mean", None), dataset.splits.values())
    with pytest.raises(InputError, match=r"a\.csv, line 3: 'valid' has 7 residues, but .*positions asks for residue 8"):
        check_positions(head("concat", (2, 8)), dataset.splits.values())
    for family in FAMILIES:
        _, batch = packed(rng, family, LENGTHS)
        network = head("concat", (2, 8)).build(6, 1, KIND)
        with pytest.raises(ValueError, match="a sequence has 7 residues, but residue 8 is asked for"):
            network(torch.randn(len(batch.tokens), 6), batch)


def test_attention_over_one_position_is_that_residue(rng: np.random.Generator) -> None:
    _, batch = packed(rng, "esm2", LENGTHS)
    vectors = torch.randn(len(batch.tokens), 6)
    chosen, part = at_positions(vectors, batch, (5,))
    torch.testing.assert_close(attention_pool(chosen, torch.randn(3), part), chosen)
