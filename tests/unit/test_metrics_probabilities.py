"""Metrics of probabilities against scikit-learn and against slow references."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score, top_k_accuracy_score

from plmft import InputError
from plmft.data.records import IGNORE
from plmft.metrics.multilabel import THRESHOLDS, multilabel_interval, multilabel_metrics
from plmft.metrics.probabilities import (
    per_residue_interval,
    per_residue_metrics,
    sequence_interval,
    sequence_metrics,
)
from plmft.metrics.ranking import auroc, average_precision

samples = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=60)


@given(samples)
def test_ranking_equals_sklearn_with_ties(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s / 7 for s, _ in pairs]), np.array([p for _, p in pairs])
    if positive.all() or not positive.any():
        assert auroc(scores, positive) is None and average_precision(scores, positive) is None
        return
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores))


def drawn(rng: np.random.Generator, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, classes, n)
    scores = rng.dirichlet(np.ones(classes), n) + 0.7 * np.eye(classes)[labels]
    return scores / scores.sum(1, keepdims=True), labels


def test_sequence_metrics_equal_sklearn(rng: np.random.Generator) -> None:
    probabilities, labels = drawn(rng, 200, 8)
    names = [f"c {i}" for i in range(8)]
    found = sequence_metrics(list(probabilities), list(labels), names)
    per_class = [roc_auc_score(labels == c, probabilities[:, c]) for c in range(8)]
    assert found["auroc"] == pytest.approx(np.mean(per_class))
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels, probabilities.argmax(1)))
    assert {f"f1_c_{i}" for i in range(8)} <= found.keys()
    masked = np.r_[labels, [IGNORE] * 9]
    again = sequence_metrics([*probabilities, *rng.dirichlet(np.ones(8), 9)], list(masked), names)
    assert again == found


def test_two_classes_are_ranked_by_the_second(rng: np.random.Generator) -> None:
    probabilities, labels = drawn(rng, 90, 2)
    found = sequence_metrics(list(probabilities), list(labels), ("no", "yes"))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, probabilities[:, 1]))
    assert found["auprc"] == pytest.approx(average_precision_score(labels, probabilities[:, 1]))
    assert "top5_accuracy" not in found


def test_classes_that_do_not_occur_are_not_averaged(rng: np.random.Generator) -> None:
    """1,195 folds, of which the test holds few: a macro average is over these."""
    probabilities, labels = drawn(rng, 60, 3)
    wide = np.concatenate([probabilities, np.full((60, 400), 1e-6)], axis=1)
    names = [str(i) for i in range(403)]
    found, few = (
        sequence_metrics(list(wide), list(labels), names),
        sequence_metrics(list(probabilities), list(labels), names[:3]),
    )
    for name in ("accuracy", "f1_macro", "mcc", "auroc", "auprc"):
        assert found[name] == pytest.approx(few[name])
    assert not [name for name in found if name.startswith("f1_") and name != "f1_macro"]
    wide_ends = sequence_interval("f1_macro", list(wide), list(labels), names, 3)
    assert wide_ends == pytest.approx(sequence_interval("f1_macro", list(probabilities), list(labels), names[:3], 3))


def residues(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    predicted, measured = [], []
    for length in (5, 40, 1, 22, 9):
        probabilities, labels = drawn(rng, length, 2)
        labels[rng.random(length) < 0.2] = IGNORE
        predicted.append(probabilities)
        measured.append(labels)
    measured.append(np.full(7, IGNORE))
    predicted.append(drawn(rng, 7, 2)[0])
    return predicted, measured


def test_residue_ranking_is_over_all_labelled_residues(rng: np.random.Generator) -> None:
    predicted, measured = residues(rng)
    scores, labels = np.concatenate(predicted)[:, 1], np.concatenate(measured)
    kept = labels != IGNORE
    found = per_residue_metrics(predicted, measured, ("N", "B"))
    assert found["auroc"] == pytest.approx(roc_auc_score(labels[kept], scores[kept]))
    assert found["auprc"] == pytest.approx(average_precision_score(labels[kept], scores[kept]))
    assert found["mcc"] == pytest.approx(matthews_corrcoef(labels[kept], scores[kept] > 0.5))


@pytest.mark.parametrize("primary", ["auroc", "auprc", "mcc"])
def test_residue_intervals_resample_proteins(primary: str, rng: np.random.Generator) -> None:
    predicted, measured = residues(rng)
    draws, values = np.random.default_rng(4), []
    for _ in range(1000):
        chosen = draws.integers(0, 5, 5)  # the sixth has no label
        found = per_residue_metrics([predicted[i] for i in chosen], [measured[i] for i in chosen], ("N", "B"))
        values.append(found.get(primary))
    expected = np.quantile([v for v in values if v is not None], [0.025, 0.975])
    assert per_residue_interval(primary, predicted, measured, ("N", "B"), 4) == pytest.approx(expected)


def f_max_slowly(scores: np.ndarray, labels: np.ndarray) -> float:
    best = 0.0
    for threshold in THRESHOLDS:
        precisions, recalls = [], []
        for score, label in zip(scores, labels, strict=True):
            called = {c for c, value in enumerate(score) if value >= threshold}
            true = {c for c, value in enumerate(label) if value}
            if called:
                precisions.append(len(called & true) / len(called))
            if true:
                recalls.append(len(called & true) / len(true))
        precision = np.mean(precisions) if precisions else 0.0
        if precision + np.mean(recalls) > 0:
            best = max(best, 2 * precision * np.mean(recalls) / (precision + np.mean(recalls)))
    return best


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_f1_max_equals_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.random((12, 5)).round(2).astype(np.float32), rng.integers(0, 2, (12, 5)).astype(np.int8)
    labels[0], labels[1, 0] = 0, 1
    found = multilabel_metrics(list(scores), list(labels), [])
    assert found["f1_max"] == pytest.approx(f_max_slowly(scores, labels))
    assert found["auprc_micro"] == pytest.approx(average_precision_score(labels.ravel(), scores.ravel()))


@pytest.mark.parametrize("primary", ["f1_max", "auprc_micro", "auroc_macro"])
def test_multilabel_intervals_resample_proteins(primary: str, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 2, (30, 4))
    scores = 0.5 * rng.random((30, 4)) + 0.4 * labels
    draws, values = np.random.default_rng(4), []
    for _ in range(1000):
        i = draws.integers(0, 30, 30)
        values.append(multilabel_metrics(list(scores[i]), list(labels[i]), [])[primary])
    ends = multilabel_interval(primary, list(scores), list(labels), [], 4)
    assert ends == pytest.approx(np.quantile(values, [0.025, 0.975]))


def test_perfect_labels_score_one_and_none_at_all_is_refused() -> None:
    labels = [np.array([1, 0, 1]), np.array([0, 1, 0])]
    found = multilabel_metrics([label.astype(float) for label in labels], labels, [])
    assert (found["f1_max"], found["auprc_micro"], found["auroc_macro"]) == (1, 1, 1)
    with pytest.raises(InputError, match="none of 2 sequences has a label"):
        multilabel_metrics([np.zeros(3)] * 2, [np.zeros(3)] * 2, [])
