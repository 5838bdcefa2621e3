"""Coverage holds as promised where records are exchangeable; everything else against its definition."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from plmft.data.records import IGNORE
from plmft.metrics.calibration import expected_calibration_error
from plmft.metrics.confidence import LEAST_RECORDS, LEVEL, Confidence, conformal_bound, fit_confidence, rank

LEVELS = st.integers(1, 19).map(lambda twentieths: Fraction(twentieths, 20))


def test_the_least_number_of_records_is_the_one_that_is_told() -> None:
    assert rank(LEAST_RECORDS, LEVEL) <= LEAST_RECORDS
    assert rank(LEAST_RECORDS - 1, LEVEL) > LEAST_RECORDS - 1


@given(st.lists(st.integers(0, 9), min_size=0, max_size=50), LEVELS)
def test_bound_is_the_least_that_holds_enough_errors(errors: list[int], level: Fraction) -> None:
    enough = [e for e in sorted(errors) if sum(x <= e for x in errors) >= (len(errors) + 1) * level]
    assert conformal_bound(np.array(errors, float), float(level)) == (enough[0] if enough else None)


@pytest.mark.parametrize(("n", "covered"), [(9, 9 / 10), (19, 18 / 20), (24, 23 / 25), (100, 91 / 101)])
def test_coverage_is_exactly_as_promised(n: int, covered: float) -> None:
    """Over draws of validation and one new record, coverage is ⌈0.9(n + 1)⌉/(n + 1); within 5 standard errors."""
    rng, draws = np.random.default_rng(1), 20_000
    errors = rng.exponential(size=(draws, n + 1))
    inside = np.mean([row[-1] <= conformal_bound(row[:-1], 0.9) for row in errors])
    assert inside == pytest.approx(covered, abs=5 * np.sqrt(covered * (1 - covered) / draws))


def test_ties_cover_more_never_less() -> None:
    rng, draws = np.random.default_rng(2), 5_000
    errors = rng.integers(0, 3, (draws, 20))
    inside = np.mean([row[-1] <= conformal_bound(row[:-1].astype(float), 0.9) for row in errors])
    assert inside >= 0.9 - 5 * np.sqrt(0.09 / draws)


def classified(rng: np.random.Generator, n: int, sharper: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    logits = rng.normal(size=(n, 6))
    labels = (softmax(logits, axis=1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=5)
    return softmax(sharper * logits, axis=1).astype(np.float32), labels


def test_sets_cover_although_the_model_is_too_sure() -> None:
    """The mean over 300 validation splits of 29 is 27/30, whatever the model."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(300):
        confidence = fit_confidence("sequence_classification", *classified(rng, 29))
        found.append(confidence.metrics(*classified(rng, 200))["conformal_coverage_90"])
    assert np.mean(found) == pytest.approx(0.9, abs=5 * np.std(found) / np.sqrt(300))


def test_regression_intervals(rng: np.random.Generator) -> None:
    measured = rng.normal(size=999)
    predicted = measured + rng.normal(size=999)
    confidence = fit_confidence("sequence_regression", predicted, measured)
    bound = np.sort(np.abs(predicted - measured))[899]
    assert confidence == Confidence("sequence_regression", 0.9, 999, bound)
    assert confidence.apply(2.0) == (2.0 - bound, 2.0 + bound)
    new = rng.normal(size=5000)
    guess = new + rng.normal(size=5000)
    found = confidence.metrics(guess, new)
    low, high = np.array([confidence.apply(g) for g in guess]).T
    assert found == {
        "conformal_coverage_90": np.mean((low <= new) & (new <= high)),
        "conformal_width_90": pytest.approx((high - low).mean()),
    }
    assert found["conformal_width_90"] == pytest.approx(2 * 1.645, rel=0.1)  # the normal distribution's 90 %


def test_class_metrics_equal_their_definition(rng: np.random.Generator) -> None:
    predicted, measured = classified(rng, 500)
    confidence = fit_confidence("pair_classification", predicted, measured, level=0.8)
    new, labels = classified(rng, 300)
    sets = [{c for c in range(6) if 1 - float(p[c]) <= confidence.bound} for p in new]
    assert confidence.metrics(list(new), list(labels)) == {
        "conformal_coverage_80": pytest.approx(np.mean([label in s for s, label in zip(sets, labels, strict=True)])),
        "conformal_set_size_80": pytest.approx(np.mean([len(s) for s in sets])),
        "temperature": confidence.temperature,
        "ece": expected_calibration_error(new, labels),
        "ece_calibrated": expected_calibration_error(np.stack([confidence.apply(p) for p in new]), labels),
    }
    assert [set(np.flatnonzero(confidence.classes(p))) for p in new] == sets
    assert confidence.temperature == pytest.approx(3, rel=0.3)
    unlabelled = [*measured, *[IGNORE] * 50]
    assert fit_confidence("pair_classification", [*predicted, *new[:50]], unlabelled, level=0.8) == confidence


def proteins(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    predicted, measured = [], []
    for _ in range(n):
        probabilities, labels = classified(rng, int(rng.integers(1, 80)))
        labels[rng.random(len(labels)) < 0.2] = IGNORE
        predicted.append(probabilities)
        measured.append(labels)
    return [*predicted, np.full((4, 6), 1 / 6)], [*measured, np.full(4, IGNORE)]


def test_residues_are_calibrated_over_labelled_ones_and_have_no_sets(rng: np.random.Generator) -> None:
    predicted, measured = proteins(rng, 60)
    confidence = fit_confidence("residue_classification", predicted, measured)
    assert (confidence.bound, confidence.records) == (None, sum(bool((m != IGNORE).any()) for m in measured))
    found = confidence.metrics(predicted, measured)
    assert set(found) == {"temperature", "ece", "ece_calibrated"}
    assert found["ece_calibrated"] < found["ece"]
    flat, labels = np.concatenate(predicted), np.concatenate(measured)
    assert found["ece"] == expected_calibration_error(flat[labels != IGNORE], labels[labels != IGNORE])
    assert confidence.apply(predicted[0]).shape == predicted[0].shape
    with pytest.raises(ValueError, match="residue_classification has no conformal sets"):
        confidence.classes(predicted[0])


def test_labels_are_calibrated(rng: np.random.Generator) -> None:
    scores = rng.random((400, 5))
    there = (rng.random((400, 5)) < scores).astype(np.int8)
    sure = scores**3 / (scores**3 + (1 - scores) ** 3)  # logits times 3
    confidence = fit_confidence("sequence_multilabel", list(sure), list(there))
    assert confidence.temperature == pytest.approx(3, rel=0.15)
    found = confidence.metrics(list(sure), list(there))
    assert set(found) == {"temperature", "ece", "ece_calibrated"}
    assert found["ece_calibrated"] < 0.05 < found["ece"]
    np.testing.assert_allclose(confidence.apply(sure), scores, atol=0.05)


def samples(kind: str, rng: np.random.Generator, n: int) -> tuple[list, list]:
    if kind == "sequence_regression":
        return list(rng.normal(size=n)), list(rng.normal(size=n))
    if kind == "residue_classification":
        return tuple(part[:n] for part in proteins(rng, n))
    predicted, measured = classified(rng, n)
    return list(predicted), list(np.eye(6, dtype=np.int8)[measured] if kind == "sequence_multilabel" else measured)


ALL = ["sequence_regression", "sequence_classification", "sequence_multilabel", "residue_classification"]


@pytest.mark.parametrize("kind", ALL)
def test_order_does_not_matter(kind: str, rng: np.random.Generator) -> None:
    predicted, measured = samples(kind, rng, 80)
    order = rng.permutation(80)
    one = fit_confidence(kind, predicted, measured)
    other = fit_confidence(kind, [predicted[i] for i in order], [measured[i] for i in order])
    assert (one.bound, one.records) == (other.bound, other.records)
    assert (one.temperature or 0) == pytest.approx(other.temperature or 0, rel=1e-4)
    assert other.metrics(predicted, measured) == pytest.approx(one.metrics(predicted, measured), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_json_gives_it_back_to_the_last_bit(kind: str, seed: int) -> None:
    confidence = fit_confidence(kind, *samples(kind, np.random.default_rng(seed), 40))
    assert Confidence.from_dict(json.loads(json.dumps(confidence.to_dict()))) == confidence


@pytest.mark.parametrize("kind", ALL)
def test_too_few_records_say_nothing(kind: str, rng: np.random.Generator) -> None:
    predicted, measured = samples(kind, rng, 40)
    enough = sum(bool(np.any(np.asarray(m) != IGNORE)) for m in measured[:9])
    assert enough == 9
    assert fit_confidence(kind, predicted[:8], measured[:8]) is None
    assert fit_confidence(kind, predicted[:9], measured[:9]) is not None
    assert fit_confidence(kind, [], []) is None
    assert fit_confidence(kind, predicted[:9], measured[:9], level=0.95) is None


@pytest.mark.parametrize("kind", ["contacts", "masked_lm", "variant_scoring"])
def test_other_kinds_have_none(kind: str) -> None:
    assert fit_confidence(kind, [0.0] * 40, [0.0] * 40) is None


def test_perfect_predictors() -> None:
    exact = fit_confidence("sequence_regression", np.arange(20.0), np.arange(20.0))
    assert exact.metrics(np.arange(5.0), np.arange(5.0)) == {"conformal_coverage_90": 1, "conformal_width_90": 0}
    hard, labels = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    found = fit_confidence("sequence_classification", hard, labels).metrics(hard, labels)
    assert (found["conformal_coverage_90"], found["conformal_set_size_90"], found["ece"]) == (1, 1, 0)


def test_a_test_split_without_labels_gives_nothing(rng: np.random.Generator) -> None:
    confidence = fit_confidence("sequence_classification", *classified(rng, 40))
    assert confidence.metrics(np.full((3, 6), 1 / 6), np.full(3, IGNORE)) == {}


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"level=90: it must lie between 0 and 1\."):
        fit_confidence("sequence_regression", np.zeros(20), np.zeros(20), level=90)
    with pytest.raises(ValueError, match=r"predicted: 1 of 20 values are not finite"):
        fit_confidence("sequence_regression", np.r_[np.zeros(19), np.nan], np.zeros(20))
    predicted, measured = classified(rng, 30)
    predicted[4, 2] = np.nan
    with pytest.raises(ValueError, match="probabilities: nan of class 2 in row 4"):
        fit_confidence("sequence_classification", predicted, measured)
    values = Confidence("sequence_regression", 0.9, 20, 1.0).to_dict()
    with pytest.raises(ValueError, match=r"is no confidence\. It has bound, kind, level, records, temperature"):
        Confidence.from_dict({**values, "q": 1})
    with pytest.raises(ValueError, match="of a known kind"):
        Confidence.from_dict({**values, "kind": "contacts"})
