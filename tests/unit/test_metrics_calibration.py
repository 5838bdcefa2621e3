"""Calibration against slow references, and against probabilities from which the classes were drawn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from plmft.metrics.calibration import (
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    label_reliability,
    labels_with_temperature,
    reliability,
    two_classes,
    with_temperature,
)

SEEDS = st.integers(0, 2**32)


def drawn(rng: np.random.Generator, n: int, sharper: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Classes drawn from softmax(z), and the probabilities of a model that says softmax(sharper · z)."""
    logits = 1.5 * rng.normal(size=(n, 4))
    labels = (softmax(logits, axis=1).cumsum(1) < rng.random((n, 1))).sum(1).clip(max=3)
    return softmax(sharper * logits, axis=1).astype(np.float32), labels


def error_slowly(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = []
        for row, label in zip(probabilities, labels, strict=True):
            confidence = max(row)
            if low < confidence <= high or (number == 0 and confidence == 0):
                inside.append((confidence, list(row).index(confidence) == label))
        if inside:
            total += abs(sum(c for c, _ in inside) - sum(r for _, r in inside))
    return total / len(labels)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(2, 5), st.sampled_from([1, 5, 10, 15]))
def test_calibration_error_equals_a_loop_also_at_the_edges_of_bins(seed: int, n: int, classes: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities = rng.multinomial(10, np.ones(classes) / classes, n) / 10  # in tenths: many on an edge
    labels = rng.integers(0, classes, n)
    found = expected_calibration_error(probabilities, labels, bins)
    assert found == pytest.approx(error_slowly(probabilities, labels, bins))


def test_a_known_error(rng: np.random.Generator) -> None:
    """It says 0.9 and is right in 6 of 10."""
    probabilities, labels = np.tile([0.9, 0.1], (10, 1)), np.array([0] * 6 + [1] * 4)
    found = reliability(probabilities, labels, bins=15)
    assert found.error == pytest.approx(0.3)
    assert found.count.tolist() == [0] * 13 + [10, 0]
    assert (found.confidence[13], found.accuracy[13]) == (pytest.approx(0.9), pytest.approx(0.6))
    assert np.isnan(found.accuracy[:13]).all()


def test_calibrated_probabilities_have_hardly_an_error(rng: np.random.Generator) -> None:
    """Half a standard error for each of 15 bins of 200,000 samples is below 0.005."""
    assert expected_calibration_error(*drawn(rng, 200_000)) < 0.005
    assert expected_calibration_error(*drawn(rng, 200_000, sharper=2.5)) > 0.1
    scores = rng.random((2000, 100))
    assert label_reliability(scores, rng.random((2000, 100)) < scores).error < 0.005


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float, rng: np.random.Generator) -> None:
    probabilities, labels = drawn(rng, 30_000, sharper=temperature)
    found = fit_temperature(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.04)  # the standard error of 1/T is about 1 %
    assert expected_calibration_error(with_temperature(probabilities, found), labels) < 0.015


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_labels_have_a_temperature_too(temperature: float, rng: np.random.Generator) -> None:
    logits = 2 * rng.normal(size=(1000, 40)) - 2
    there = (rng.random(logits.shape) < expit(logits)).astype(np.int8)
    said = expit(temperature * logits)
    found = fit_temperature(*two_classes(said, there))
    assert found == pytest.approx(temperature, rel=0.05)
    np.testing.assert_allclose(labels_with_temperature(said, found), expit(temperature / found * logits), atol=1e-6)


def loss_slowly(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    logs = []
    for row, label in zip(probabilities.astype(float), labels, strict=True):
        powers = [p ** (1 / temperature) for p in row]
        logs.append(np.log(max(powers[label], 1e-300) / sum(powers)))
    return -float(np.mean(logs))


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(5, 40))
def test_temperature_is_the_best_of_a_grid(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, labels = drawn(rng, n, sharper=float(rng.choice([0.5, 1, 3])))
    found = fit_temperature(probabilities, labels)
    best = min(loss_slowly(probabilities, labels, t) for t in np.geomspace(*TEMPERATURES, 50))
    assert loss_slowly(probabilities, labels, found) <= best + 1e-6


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(*TEMPERATURES))
def test_temperature_keeps_the_likeliest_class(seed: int, temperature: float) -> None:
    probabilities, _ = drawn(np.random.default_rng(seed), 20)
    scaled = with_temperature(probabilities, temperature)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.sum(1), 1, rtol=1e-5)
    picked = np.take_along_axis(scaled, probabilities.argmax(1)[:, None], axis=1)[:, 0]
    assert (picked == scaled.max(1)).all()
    np.testing.assert_allclose(with_temperature(probabilities, 1.0), probabilities, rtol=1e-5)


def test_order_does_not_matter(rng: np.random.Generator) -> None:
    probabilities, labels = drawn(rng, 500, sharper=2)
    order = rng.permutation(500)
    assert fit_temperature(probabilities[order], labels[order]) == pytest.approx(fit_temperature(probabilities, labels))


def test_zeros_ones_and_all_right_are_finite() -> None:
    hard, labels = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array([0, 1, 2, 0])
    assert TEMPERATURES[0] <= fit_temperature(hard, labels) < 2  # sure and right: any low one will do
    assert fit_temperature(hard, np.array([0, 1, 2, 1])) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    almost = np.tile([0.6, 0.4], (4, 1))
    assert fit_temperature(almost, np.zeros(4, int)) == pytest.approx(TEMPERATURES[0], rel=1e-3)
    assert np.isfinite(labels_with_temperature(np.array([0.0, 1.0, 0.5], np.float32), 0.05)).all()


@pytest.mark.parametrize(
    ("probabilities", "measured", "message"),
    [
        (
            [[0.5, 0.5], [np.nan, 0.5]],
            [0, 1],
            r"probabilities: nan of class 0 in row 1 \(from 0\); they lie in \[0, 1\]",
        ),
        ([[0.5, -0.5]], [0], r"probabilities: -0.5 of class 1 in row 0"),
        ([[0.5, 0.5]], [2], r"measured: classes 2 to 2; known are 0 to 1\. Leave out what has no label\."),
        ([[0.5, 0.5]], [-100], r"measured: classes -100 to -100; known are 0 to 1\."),
        ([[0.5, 0.5]], [0, 1], r"probabilities have shape \(1, 2\) and measured \(2,\)"),
        (np.empty((0, 2)), [], r"with n at least 1"),
    ],
)
def test_bad_input_is_named(probabilities: list, measured: list, message: str) -> None:
    for function in (fit_temperature, reliability):
        with pytest.raises(ValueError, match=message):
            function(np.array(probabilities), np.array(measured))
    with pytest.raises(ValueError, match="they lie in"):
        label_reliability(np.array([[0.2, 1.7]]), np.array([[0, 1]]))
