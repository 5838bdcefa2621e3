import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn import metrics as sk

from plmft.metrics.regression import pearson, regression_metrics

FEW_VALUES = st.sampled_from([-2.5, -1.0, 0.0, 0.1, 0.3, 7.0])  # many ties
WIDE = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))


@st.composite
def pairs(draw, smallest=1):
    n = draw(st.integers(smallest, 40))
    values = draw(st.sampled_from([FEW_VALUES, WIDE]))
    return draw(arrays(np.float64, n, elements=values)), draw(arrays(np.float64, n, elements=values))


def constant(values):
    return (values == values[0]).all()


@settings(max_examples=50, deadline=None)
@given(pairs())
def test_equals_scipy_and_sklearn(pair):
    predicted, measured = pair
    found = regression_metrics(predicted, measured)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(measured, predicted), rel=1e-12)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(measured, predicted), rel=1e-12)
    if constant(measured):
        assert "r2" not in found
    else:
        assert found["r2"] == pytest.approx(sk.r2_score(measured, predicted), rel=1e-9)
    if constant(predicted) or constant(measured):
        assert not {"spearman", "pearson"} & found.keys()
    else:
        assert found["spearman"] == pytest.approx(stats.spearmanr(predicted, measured).statistic, abs=1e-12)
        assert found["pearson"] == pytest.approx(stats.pearsonr(predicted, measured).statistic, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(pairs(smallest=2))
def test_perfect_predictor_is_exactly_perfect(pair):
    _, measured = pair
    assume(not constant(measured))
    assert regression_metrics(measured, measured) == {
        "spearman": 1.0,
        "pearson": 1.0,
        "mae": 0.0,
        "mse": 0.0,
        "rmse": 0.0,
        "r2": 1.0,
    }


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-8, -3e7])
def test_constant_prediction_has_no_correlation(value):
    measured = np.array([1.0, 2.0, 6.0])  # mean 3
    found = regression_metrics(np.full(3, value), measured)
    assert found.keys() == {"mae", "mse", "rmse", "r2"}
    assert found["mse"] == pytest.approx(((measured - value) ** 2).mean())


def test_the_mean_as_prediction_has_r2_of_zero():
    measured = np.array([1.0, 2.0, 6.0])
    found = regression_metrics(np.full(3, 3.0), measured)
    assert found == {"mae": 2.0, "mse": pytest.approx(14 / 3), "rmse": pytest.approx((14 / 3) ** 0.5), "r2": 0.0}


def test_one_sample_has_only_errors():
    assert regression_metrics([1.5], [1.0]) == {"mae": 0.5, "mse": 0.25, "rmse": 0.5}


@settings(max_examples=50, deadline=None)
@given(pairs(smallest=2), st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(pair, random):
    predicted, measured = pair
    order = list(range(len(measured)))
    random.shuffle(order)
    assert regression_metrics(predicted[order], measured[order]) == pytest.approx(
        regression_metrics(predicted, measured), rel=1e-9, abs=1e-9
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_spearman_sees_only_ranks(seed):
    rng = np.random.default_rng(seed)
    predicted, measured = rng.integers(-5, 6, (2, 30)).astype(float)
    original = regression_metrics(predicted, measured)["spearman"]
    assert regression_metrics(np.exp(predicted), measured**3)["spearman"] == original
    assert regression_metrics(-predicted, measured)["spearman"] == pytest.approx(-original, abs=1e-15)


def test_spearman_is_not_the_mean_over_batches():
    predicted, measured = np.array([0.0, 1.0, 10.0, 11.0]), np.array([10.0, 11.0, 0.0, 1.0])
    halves = [regression_metrics(predicted[h], measured[h])["spearman"] for h in (slice(2), slice(2, 4))]
    assert halves == [1.0, 1.0]
    assert regression_metrics(predicted, measured)["spearman"] == pytest.approx(-0.6)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_pearson_neither_overflows_nor_vanishes(scale):
    assert pearson(np.array([1.0, 2.0, 4.0]) * scale, np.array([2.0, 4.0, 8.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("side", ["predicted", "measured"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(side, bad):
    values = {"predicted": np.arange(6.0), "measured": np.arange(6.0)}
    values[side][[2, 5]] = bad
    with pytest.raises(ValueError, match=rf"{side}: 2 of 6 values are not finite \(first samples 2: {bad}, 5: {bad}\)"):
        regression_metrics(**values)


@pytest.mark.parametrize(("predicted", "measured"), [([1.0], [1.0, 2.0]), ([[1.0], [2.0]], [1.0, 2.0]), ([], [])])
def test_wrong_shapes_are_refused(predicted, measured):
    with pytest.raises(ValueError, match="one number a sample"):
        regression_metrics(predicted, measured)


def test_takes_float32_and_a_list_of_scalars():
    values = np.array([0.5, 2.0, 1.0], np.float32)
    assert regression_metrics(list(values), [np.asarray(v) for v in (0.5, 2.0, 1.0)])["pearson"] == 1.0
