from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import IGNORE
from plmft.metrics.baselines import mean_regression, residue_majority
from plmft.metrics.regression import regression_metrics


def test_each_letter_gets_its_most_frequent_class():
    found = residue_majority(["AAAC", "CG"], [np.array([0, 2, 2, 1]), np.array([1, 0])], ["GCA", "A"], 3)
    assert [list(f) for f in found] == [[0, 1, 2], [2]]
    assert all(f.dtype == np.int64 for f in found)


def test_ties_go_to_the_lower_class():
    assert list(residue_majority(["AACC"], [np.array([2, 1, 0, 2])], ["AC"], 3)[0]) == [1, 0]


def test_unseen_letters_get_the_overall_most_frequent_class():
    labels = [np.array([2, 2, 0, IGNORE])]  # W stands in train, but without a label
    assert list(residue_majority(["AACW"], labels, ["WYC"], 3)[0]) == [2, 2, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_no_other_context_free_rule_is_better_on_train(seed):
    rng = np.random.default_rng(seed)
    sequences = ["".join(rng.choice(list("ACDX"), n)) for n in rng.integers(1, 20, 4)]
    labels = [rng.choice([0, 1, 2, IGNORE], len(s)) for s in sequences]
    labels[0][0] = 1
    found = residue_majority(sequences, labels, sequences, 3)
    right = sum(int((f == l).sum()) for f, l in zip(found, labels, strict=True))
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
        residue_majority(["ACD"], [np.array(labels)], ["A"], 3)


def test_training_without_labels_is_refused():
    with pytest.raises(InputError, match="none of 1 training sequences has a label"):
        residue_majority(["AC"], [np.full(2, IGNORE)], ["A"], 3)


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
