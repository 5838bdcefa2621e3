from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import IGNORE
from plmft.metrics.baselines import mean_regression, residue_frequencies
from plmft.metrics.regression import regression_metrics


def test_each_letter_gets_the_frequencies_of_its_classes():
    found = residue_frequencies(["AAAC", "CG"], [np.array([0, 2, 2, 1]), np.array([1, 0])], ["GCA", "A"], 3)
    a, c, g = [1 / 3, 0, 2 / 3], [0, 1, 0], [1, 0, 0]
    for values, expected in zip(found, ([g, c, a], [a]), strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-6)
        assert values.dtype == np.float32


def test_ties_go_to_the_lower_class():
    assert list(residue_frequencies(["AACC"], [np.array([2, 1, 0, 2])], ["AC"], 3)[0].argmax(1)) == [1, 0]


def test_unseen_letters_get_the_frequencies_over_all_residues():
    labels = [np.array([2, 2, 0, IGNORE])]  # W stands in train, but without a label
    overall, c = [1 / 3, 0, 2 / 3], [1, 0, 0]
    np.testing.assert_allclose(residue_frequencies(["AACW"], labels, ["WYC"], 3)[0], [overall, overall, c], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_no_other_context_free_rule_is_better_on_train(seed):
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACDX"), n)) for n in rng.integers(1, 20, 4)]
    labels = [rng.choice([0, 1, 2, IGNORE], len(s)) for s in sequences]
    labels[0][0] = 1
    found = residue_frequencies(sequences, labels, sequences, 3)
    right = sum(int((f.argmax(1) == l).sum()) for f, l in zip(found, labels, strict=True))
    pairs = Counter((a, c) for s, l in zip(sequences, labels, strict=True) for a, c in zip(s, l, strict=True) if c >= 0)
    assert right == sum(max(pairs[a, c] for c in range(3)) for a in "ACDX")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "has 3 residues, but labels of shape"),
        ([0, 3, 1], "class outside 0 to 2"),
        ([0, -1, 1], "class outside"),
    ],
)
def test_wrong_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        residue_frequencies(["ACD"], [np.array(labels)], ["A"], 3)


def test_training_without_labels_is_refused():
    with pytest.raises(InputError, match="none of 1 training sequences has a label"):
        residue_frequencies(["AC"], [np.full(2, IGNORE)], ["A"], 3)


def test_mean_is_the_best_constant():
    targets = [1.0, 2.0, 6.0]
    found = mean_regression(targets, 3)
    assert found.tolist() == [3.0, 3.0, 3.0]
    assert regression_metrics(found, targets)["r2"] == 0.0
    assert len(mean_regression(targets, 0)) == 0


@pytest.mark.parametrize("targets", [[], [1.0, np.nan]])
def test_mean_of_nothing_is_refused(targets):
    with pytest.raises(ValueError, match="not defined"):
        mean_regression(targets, 2)
