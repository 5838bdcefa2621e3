"""Weights of classes, and decisions from probabilities."""

import numpy as np
import pytest
import torch

from plmft import InputError
from plmft.data.records import IGNORE
from plmft.models.decisions import decided, likeliest_contacts, named
from plmft.models.loss_spec import Loss
from plmft.models.objectives import OBJECTIVES

BALANCED = Loss("balanced", standardize=True)


def test_balanced_weights_let_each_class_count_the_same_and_keep_the_sum() -> None:
    labels = [np.array([0] * 90 + [1] * 9 + [IGNORE] * 50), np.array([2])]
    weights = BALANCED.weights("residue_classification", labels, 4)
    counts = np.array([90, 9, 1])
    np.testing.assert_allclose(weights[:3] * counts, 100 / 3, rtol=1e-6)
    assert weights[3] == 1  # a class that training never shows
    assert (weights[:3] * counts).sum() == pytest.approx(100)


def test_balanced_labels_count_as_much_as_their_absence() -> None:
    weights = BALANCED.weights(
        "sequence_multilabel", [np.array([1, 0, 1]), np.array([0, 0, 1]), np.array([0, 0, 1])], 3
    )
    np.testing.assert_allclose(weights, [2, 1, 1])


def test_equal_weights_are_none_and_regression_has_no_classes() -> None:
    assert Loss("equal", True).weights("sequence_classification", [0, 1], 2) is None
    with pytest.raises(InputError, match=r"loss.class_weights=balanced: this task has no classes. Set equal."):
        BALANCED.weights("sequence_regression", [0.5], 1)


def test_weighted_entropies_equal_a_loop(rng: np.random.Generator) -> None:
    outputs, targets = torch.randn(9, 3), torch.tensor([0, 1, 2, IGNORE, 1, 1, 0, 2, 2])
    weights = torch.tensor([0.5, 2.0, 1.0])
    expected = sum(-weights[t] * o.log_softmax(0)[t] for o, t in zip(outputs, targets, strict=True) if t != IGNORE)
    found = OBJECTIVES["sequence_classification"].loss(outputs, targets, weights)
    torch.testing.assert_close(found, expected)


def test_names_are_what_a_user_reads() -> None:
    classes = ("Nucleus", "Cytoplasm", "Golgi")
    assert named("sequence_classification", classes, decided("sequence_classification", np.array([0.1, 0.7, 0.2]))) == (
        "Cytoplasm"
    )
    assert named("sequence_multilabel", classes, decided("sequence_multilabel", np.array([0.5, 0.49, 0.9]))) == (
        "Nucleus;Golgi"
    )
    assert named("residue_classification", "HEC", np.array([2, 0, IGNORE, 1])) == "CH.E"
    assert named("pair_classification", classes, IGNORE) == "."


def test_the_likeliest_contacts_are_six_apart_and_counted_from_one() -> None:
    scores = np.zeros((8, 8), np.float32)
    scores[0, 6] = scores[6, 0] = 0.5
    scores[1, 7] = scores[7, 1] = 0.75
    scores[0, 1] = scores[1, 0] = 1.0  # neighbours say nothing
    assert likeliest_contacts(scores) == "2-8:0.750;1-7:0.500;1-8:0.000"
