"""F-max, its threshold and its interval where the answer is known; and names of classes that no metric may have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft.metrics.classification import f1_names, residue_metrics
from plmft.metrics.multilabel import THRESHOLDS, multilabel_interval, multilabel_metrics
from plmft.metrics.probabilities import sequence_metrics

LABELS = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], np.int8)


def test_a_constant_predictor_calls_all_labels() -> None:
    """Precision: mean of 1/4, 2/4, 0 and 1/4; recall 1."""
    found = multilabel_metrics(list(np.full((4, 4), 0.7, np.float32)), list(LABELS), [])
    assert found["f1_max"] == pytest.approx(2 * 0.25 / 1.25)
    assert (found["auroc_macro"], found["auprc_micro"]) == (0.5, pytest.approx(0.25))


@pytest.mark.parametrize("threshold", [0.01, 0.29, 0.57, 0.7, 0.95, 1.0])
def test_a_probability_reaches_the_threshold_that_it_equals(threshold: float) -> None:
    scores = np.where(LABELS, threshold, 0).astype(np.float32)
    found = multilabel_metrics(list(scores), list(LABELS), [])
    assert found["f1_max"] == 1
    last = np.flatnonzero(np.float32(threshold) >= THRESHOLDS)[-1]
    assert (last, found["f1_max_threshold"]) == (round(100 * threshold) - 1, 0.01)


def test_a_protein_without_calls_is_left_out_of_precision_alone() -> None:
    scores, labels = np.array([[0.9, 0.0], [0.0, 0.0]], np.float32), np.array([[1, 0], [1, 0]], np.int8)
    assert multilabel_metrics(list(scores), list(labels), [])["f1_max"] == pytest.approx(2 * 0.5 / 1.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_neither_the_order_of_proteins_nor_of_labels_matters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((9, 5)).round(1).astype(np.float32), rng.integers(0, 2, (9, 5)).astype(np.int8)
    labels[0, 0] = 1
    rows, columns = rng.permutation(9), rng.permutation(5)
    found = multilabel_metrics(list(scores), list(labels), [])
    again = multilabel_metrics(list(scores[rows][:, columns]), list(labels[rows][:, columns]), [])
    assert again == pytest.approx(found)


def test_interval_leaves_out_resamples_in_which_nothing_has_a_label() -> None:
    labels = np.zeros((200, 3), np.int8)
    labels[:8, 1] = 1
    scores = np.linspace(0.2, 0.8, 600).reshape(200, 3)
    low, high = multilabel_interval("f1_max", list(scores), list(labels), [], 0)
    assert 0 <= low <= multilabel_metrics(list(scores), list(labels), [])["f1_max"] <= high <= 1
    assert multilabel_interval("f1_max", list(scores[[0, 100, 150]]), list(labels[[0, 100, 150]]), [], 0) is None


def test_names_of_classes_become_names_of_metrics(rng: np.random.Generator) -> None:
    classes = ["Gram+", "a//b", "../x", "macro", "a b", "a_b", "Cell (inner)", "Zelle\u00e4"]
    names = ["f1_Gram_", "f1_a__b", "f1_.._x", "f1_macro_3", "f1_a_b", "f1_a_b_5", "f1_Cell__inner_", "f1_Zelle_"]
    assert f1_names(classes) == names
    probabilities = list(np.eye(8, dtype=np.float32))
    found = sequence_metrics(probabilities, list(range(8)), classes)
    assert {*names, "f1_macro"} <= found.keys()
    residues = residue_metrics([np.array([0, 1, 0])], [np.array([0, 1, 1])], ["*", "+"])
    assert residues["f1__"] == pytest.approx(2 / 3) and residues["f1___1"] == pytest.approx(2 / 3)
