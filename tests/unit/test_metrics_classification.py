import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from plmft import InputError
from plmft.data.records import IGNORE
from plmft.metrics.classification import class_metrics, confusion, residue_metrics

CLASSES = ("H", "E", "C")
RESIDUE_KEYS = {"accuracy", "accuracy_per_protein", "f1_macro"}


@st.composite
def proteins(draw):
    """(predicted, measured) of a few proteins; some residues, perhaps whole proteins, have no label, but one has."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))
    classes = st.integers(0, draw(st.integers(0, 2)))
    predicted = [draw(arrays(np.int64, n, elements=classes)) for n in lengths]
    measured = [draw(arrays(np.int64, n, elements=classes | st.just(IGNORE))) for n in lengths]
    measured[0][0] = 0
    return predicted, measured


def labelled(predicted, measured):
    predicted, measured = np.concatenate(predicted), np.concatenate(measured)
    return predicted[measured != IGNORE], measured[measured != IGNORE]


@settings(max_examples=50, deadline=None)
@given(proteins())
def test_residue_metrics_equal_sklearn(pair):
    found = residue_metrics(*pair, CLASSES)
    predicted, measured = labelled(*pair)
    assert found["accuracy"] == sk.accuracy_score(measured, predicted)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(measured, predicted, average="macro"), abs=1e-12)
    occurring = sorted(set(predicted) | set(measured))
    by_class = sk.f1_score(measured, predicted, average=None, labels=occurring)
    expected = {f"f1_{CLASSES[c]}": pytest.approx(f1) for c, f1 in zip(occurring, by_class, strict=True)}
    assert {k: v for k, v in found.items() if k not in RESIDUE_KEYS} == expected
    each = [sk.accuracy_score(m, p) for p, m in (labelled([p], [m]) for p, m in zip(*pair, strict=True)) if len(m)]
    assert found["accuracy_per_protein"] == pytest.approx(np.mean(each))


@settings(max_examples=50, deadline=None)
@given(proteins())
def test_class_metrics_equal_sklearn(pair):
    predicted, measured = labelled(*pair)
    found = class_metrics(predicted, measured, CLASSES)
    assert found["accuracy"] == sk.accuracy_score(measured, predicted)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(measured, predicted, average="macro"), abs=1e-12)
    if len(set(predicted)) == 1 or len(set(measured)) == 1:
        assert "mcc" not in found
    else:
        assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(measured, predicted), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(proteins())
def test_confusion_equals_sklearn_with_measured_in_rows(pair):
    predicted, measured = labelled(*pair)
    found = confusion(predicted, measured, 3)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, sk.confusion_matrix(measured, predicted, labels=[0, 1, 2]))


@settings(max_examples=50, deadline=None)
@given(proteins())
def test_perfect_predictor_is_exactly_perfect(pair):
    _, measured = pair
    found = residue_metrics([np.where(m == IGNORE, 1, m) for m in measured], measured, CLASSES)
    assert set(found.values()) == {1.0}


def test_perfect_classes_have_mcc_of_one():
    classes = np.array([0, 1, 1, 2, 0])
    assert class_metrics(classes, classes, CLASSES) == {"accuracy": 1.0, "f1_macro": 1.0, "mcc": 1.0}


def test_constant_predictor_has_its_known_value():
    measured = [np.array([0, 0, 1, IGNORE]), np.array([1, 2]), np.array([IGNORE])]
    found = residue_metrics([np.zeros(len(m), int) for m in measured], measured, CLASSES)
    # 2 of 5 residues are H: precision 2/5, recall 1; the third protein has no label
    assert found == pytest.approx(
        {"accuracy": 0.4, "accuracy_per_protein": 1 / 3, "f1_macro": 4 / 21, "f1_H": 4 / 7, "f1_E": 0, "f1_C": 0}
    )
    found = class_metrics(np.zeros(5, int), np.array([0, 0, 1, 1, 2]), CLASSES)
    assert found == pytest.approx({"accuracy": 0.4, "f1_macro": 4 / 21})


@settings(max_examples=50, deadline=None)
@given(proteins(), st.integers(0, 2**32))
def test_what_is_predicted_under_the_mask_does_not_matter(pair, seed):
    predicted, measured = pair
    noise = np.random.default_rng(seed)
    other = [
        np.where(m == IGNORE, noise.integers(-200, 200, len(m)), p) for p, m in zip(predicted, measured, strict=True)
    ]
    assert residue_metrics(other, measured, CLASSES) == residue_metrics(predicted, measured, CLASSES)


@settings(max_examples=50, deadline=None)
@given(proteins(), st.randoms(use_true_random=False))
def test_order_of_proteins_does_not_matter(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    shuffled = [[side[i] for i in order] for side in pair]
    assert residue_metrics(*shuffled, CLASSES) == pytest.approx(residue_metrics(*pair, CLASSES), abs=1e-15)


def test_residues_and_proteins_are_averaged_apart():
    measured = [np.zeros(1, int), np.zeros(9, int)]
    found = residue_metrics([np.zeros(1, int), np.ones(9, int)], measured, CLASSES)
    assert (found["accuracy"], found["accuracy_per_protein"]) == (0.1, 0.5)


def test_class_metrics_leave_out_sequences_without_label():
    predicted, measured = np.array([0, 1, 2, 0]), np.array([0, 1, IGNORE, 1])
    assert class_metrics(predicted, measured, CLASSES) == class_metrics(
        predicted[[0, 1, 3]], measured[[0, 1, 3]], CLASSES
    )


def test_mcc_of_many_samples_does_not_overflow():
    counts = np.repeat([0, 1], 100_000)
    assert class_metrics(counts, counts, CLASSES)["mcc"] == 1.0


@pytest.mark.parametrize("score", [residue_metrics, class_metrics])
def test_everything_masked_is_refused(score):
    masked = np.full(3, IGNORE)
    pair = ([np.zeros(3, int)], [masked]) if score is residue_metrics else (np.zeros(3, int), masked)
    with pytest.raises(InputError, match="all 3 measured classes are -100"):
        score(*pair, CLASSES)


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        ([[0, 1]], [[0, 1, 1]], r"protein 0: predicted has shape \(2,\) and measured \(3,\)"),
        ([[0]], [[0], [1]], "1 predicted proteins, but 2 measured ones"),
        ([[0], [1, 3]], [[0], [0, 0]], r"protein 1: predicted class 3 at position 1 \(from 0\); classes are 0 to 2"),
        ([[0, 0]], [[IGNORE, -1]], r"protein 0: measured class -1 at position 1"),
        ([[0.9, 0.1]], [[0, 1]], "protein 0: predicted is float64, not integer class numbers"),
        ([[[0.9, 0.1, 0.0]]], [[0]], r"predicted has shape \(1, 3\)"),
    ],
)
def test_wrong_input_is_named(predicted, measured, message):
    with pytest.raises(ValueError, match=message):
        residue_metrics([np.array(p) for p in predicted], [np.array(m) for m in measured], CLASSES)
