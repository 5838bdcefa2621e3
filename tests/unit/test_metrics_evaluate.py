import numpy as np
import pytest

from plmft.data.records import IGNORE
from plmft.metrics.evaluate import SCORERS, evaluate

N, CLASSES = 60, tuple("HECGBTS")
KINDS = tuple(kind for kind in SCORERS if kind not in ("contacts", "masked_lm"))  # which have tests of their own


def one_hot(numbers):
    return np.eye(len(CLASSES), dtype=np.float32)[numbers]


def samples(kind, seed=0):
    """(predicted, measured) of 60 samples; predictions are right in some 2 of 3 cases."""
    rng = np.random.default_rng(seed)
    if kind in ("sequence_regression", "variant_scoring"):
        measured = rng.normal(size=N).round(1)
        return measured + rng.normal(size=N).round(1), measured
    if kind == "sequence_multilabel":
        measured = rng.integers(0, 2, (N, len(CLASSES)))
        return 0.6 * rng.random((N, len(CLASSES))) + 0.3 * measured, measured
    measured = [rng.integers(0, len(CLASSES), length) for length in rng.integers(5, 30, N)]
    predicted = [np.where(rng.random(len(m)) < 0.5, m, rng.integers(0, len(CLASSES), len(m))) for m in measured]
    if kind in ("sequence_classification", "pair_classification"):
        probabilities = one_hot(np.array([p[0] for p in predicted])) + rng.random((N, len(CLASSES)))
        return probabilities / probabilities.sum(1, keepdims=True), np.array([m[0] for m in measured])
    for sequence in measured:
        sequence[rng.random(len(sequence)) < 0.2] = IGNORE
    measured[7][:] = IGNORE
    return [one_hot(p) for p in predicted], measured


def reorder(side, order):
    return side[order] if isinstance(side, np.ndarray) else [side[i] for i in order]


def score(kind, predicted, measured):
    primary = SCORERS[kind].names[0]
    return evaluate(kind, predicted, measured, classes=CLASSES, seed=0, with_intervals=False, primary=primary)


CASES = [(kind, primary) for kind in KINDS for primary in SCORERS[kind].names]


@pytest.mark.parametrize(("kind", "primary"), CASES)
def test_every_primary_metric_lies_inside_its_interval(kind, primary):
    found = evaluate(kind, *samples(kind), classes=CLASSES, seed=0, primary=primary)
    assert set(SCORERS[kind].names) <= found.keys()
    assert found[f"{primary}_ci_low"] < found[primary] < found[f"{primary}_ci_high"]
    assert sum(name.endswith(("_ci_low", "_ci_high")) for name in found) == 2
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_intervals_equal_scoring_each_resample_anew(kind):
    predicted, measured = samples(kind)
    labelled = [i for i in range(N) if kind != "residue_classification" or (measured[i] != IGNORE).any()]
    rng, scores = np.random.default_rng(5), []
    for _ in range(1000):
        chosen = [labelled[i] for i in rng.integers(0, len(labelled), len(labelled))]
        pair = reorder(predicted, chosen), reorder(measured, chosen)
        scores.append(score(kind, *pair))
    for primary in SCORERS[kind].names:
        found = evaluate(kind, predicted, measured, classes=CLASSES, seed=5, primary=primary)
        ends = found[f"{primary}_ci_low"], found[f"{primary}_ci_high"]
        assert ends == pytest.approx(np.quantile([s[primary] for s in scores], [0.025, 0.975]), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_order_do_not_matter(kind):
    predicted, measured = samples(kind)
    order = np.random.default_rng(1).permutation(N)
    scores = [
        score(kind, *pair) for pair in ((predicted, measured), (reorder(predicted, order), reorder(measured, order)))
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_seed_fixes_the_interval_and_nothing_else(kind):
    primary = SCORERS[kind].names[0]
    first, again, other = (evaluate(kind, *samples(kind), classes=CLASSES, seed=s, primary=primary) for s in (1, 1, 2))
    assert first == again
    assert {k for k in first if first[k] != other[k]} <= {f"{primary}_ci_low", f"{primary}_ci_high"}


@pytest.mark.parametrize("kind", KINDS)
def test_perfect_predictor(kind):
    _, measured = samples(kind)
    predicted = measured
    if kind == "residue_classification":
        predicted = [one_hot(np.where(m == IGNORE, 0, m)) for m in measured]
    elif kind in ("sequence_classification", "pair_classification"):
        predicted = one_hot(measured)
    found = evaluate(kind, predicted, measured, classes=CLASSES, seed=0, primary=SCORERS[kind].names[0])
    errors = {name: found.pop(name) for name in ("mae", "mse", "rmse") if name in found}
    found.pop("f1_max_threshold", None)
    assert set(found.values()) == {1.0}
    assert set(errors.values()) <= {0.0}


def test_constant_prediction_has_neither_correlation_nor_interval():
    measured = np.arange(10.0)
    found = evaluate("sequence_regression", np.full(10, 4.5), measured, seed=0, primary="spearman")
    assert found == {"mae": 2.5, "mse": 8.25, "rmse": 8.25**0.5, "r2": 0.0}


def test_lists_of_scalars_are_samples():
    predicted, measured = samples("sequence_regression")
    as_lists = [np.asarray(x) for x in predicted], [np.asarray(x) for x in measured]
    scores = [
        evaluate("sequence_regression", *pair, seed=0, primary="spearman") for pair in ((predicted, measured), as_lists)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("kind", "primary", "message"),
    [
        (
            "sequence_regresion",
            "spearman",
            "'sequence_regresion' is no known kind. Did you mean 'sequence_regression'?",
        ),
        ("contact_map", "accuracy", "'contact_map' is no known kind"),
        ("sequence_regression", "spearmen", "no known metric of sequence_regression. Did you mean 'spearman'?"),
        ("residue_classification", "mc", "Known: accuracy, accuracy_per_protein, f1_macro, mcc, auroc, auprc"),
    ],
)
def test_unknown_kind_or_primary_metric_is_named(kind, primary, message):
    with pytest.raises(ValueError) as error:
        evaluate(kind, [], [], seed=0, primary=primary)
    assert message in str(error.value)
