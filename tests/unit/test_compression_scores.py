"""The difference of a metric between two models, and what goes between the command and its processes."""

import numpy as np
import pytest

from plmft.bench.compress_material import read_predictions, read_records, write_predictions, write_records
from plmft.bench.compress_score import Scores
from plmft.data.records import IGNORE
from plmft.data.task import Task
from plmft.metrics.evaluate import evaluate
from plmft.metrics.intervals import resampled_indices
from plmft.metrics.paired import paired_difference
from tests.unit.any_kind import made

CLASSES = ("H", "E", "C")
KINDS = {
    "sequence_regression": ("spearman", "mae"),
    "sequence_classification": ("accuracy", "f1_macro", "auroc"),
    "residue_classification": ("accuracy", "accuracy_per_protein", "mcc", "f1_macro", "auprc"),
    "sequence_multilabel": ("f1_max",),
    "contacts": ("precision_at_l5",),
}
CASES = [(kind, metric) for kind, metrics in KINDS.items() for metric in metrics]


def drawn(kind, rng, n=14):
    """Measured values and predictions of two models, the first the better one."""
    lengths = rng.integers(12, 30, n)
    if kind == "sequence_regression":
        measured = rng.normal(size=n)
        return list(measured), *(list(measured + noise * rng.normal(size=n)) for noise in (0.3, 2.0))
    if kind == "contacts":
        chain = [np.cumsum(rng.normal(size=(length, 3)) * 2, 0) for length in lengths]
        return chain, *([rng.random((length, length)) for length in lengths] for _ in range(2))
    if kind == "sequence_multilabel":
        measured = rng.integers(0, 2, (n, 3))
        return list(measured), *(list(measured * 0.5 + rng.random((n, 3)) * noise) for noise in (0.6, 3.0))
    shape = [(length,) for length in lengths] if kind == "residue_classification" else [()] * n
    measured = [rng.integers(0, 3, part) for part in shape]
    models = []
    for noise in (0.8, 4.0):
        scores = [
            np.eye(3)[labels] + noise * rng.random((*part, 3)) for labels, part in zip(measured, shape, strict=True)
        ]
        models.append([part / part.sum(-1, keepdims=True) for part in scores])
    if kind == "residue_classification":
        measured[2][:] = IGNORE
        measured[3][:4] = IGNORE
    else:
        measured[2] = np.array(IGNORE)
    return measured, *models


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_it_is_what_evaluating_each_resample_gives(kind, metric, rng):
    measured, one, other = drawn(kind, rng)
    found = paired_difference(kind, metric, one, other, measured, classes=CLASSES, seed=3, resamples=40)

    def by_evaluate(indices):
        parts = [[values[i] for i in indices] for values in (one, other, measured)]
        options = {"classes": CLASSES, "seed": 0, "primary": metric, "with_intervals": False}
        first, second = (evaluate(kind, part, parts[2], **options).get(metric) for part in parts[:2])
        return None if first is None or second is None else first - second

    assert found.value == pytest.approx(by_evaluate(range(len(measured))), abs=1e-12)
    kept = [i for i, target in enumerate(measured) if kind == "contacts" or (np.asarray(target) != IGNORE).any()]
    if len(kept) < len(measured) and metric in ("auroc", "auprc"):
        kept = list(range(len(measured)))  # computed anew: a sample without a label may be drawn
    values = [by_evaluate([kept[i] for i in drawn]) for drawn in resampled_indices(len(kept), 3, 40)]
    low, high = np.quantile([v for v in values if v is not None], [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_a_model_does_not_differ_from_itself(rng):
    measured, one, _ = drawn("residue_classification", rng)
    found = paired_difference("residue_classification", "accuracy", one, one, measured, classes=CLASSES, seed=0)
    assert (found.value, found.low, found.high, found.is_significant) == (0, 0, 0, False)


def test_what_is_hard_for_both_drops_out(rng):
    measured = rng.normal(size=200)
    shared = rng.normal(size=200)
    one, other = (list(measured + shared + 0.05 * rng.normal(size=200)) for _ in range(2))
    found = paired_difference("sequence_regression", "spearman", one, other, measured, seed=0, resamples=200)
    alone = evaluate("sequence_regression", one, measured, primary="spearman", seed=0)
    assert found.high - found.low < 0.5 * (alone["spearman_ci_high"] - alone["spearman_ci_low"])


def test_a_metric_that_is_not_defined_gives_no_difference():
    constant = [1.0, 1.0, 1.0]
    assert paired_difference("sequence_regression", "spearman", constant, constant, [1.0, 2.0, 3.0], seed=0) is None


@pytest.mark.parametrize(
    "kind", ["sequence_regression", "sequence_multilabel", "residue_classification", "contacts", "pair_classification"]
)
def test_records_and_predictions_arrive_as_they_were(kind, tmp_path, rng):
    records = made(kind, [7, 12, 9])
    write_records(tmp_path / "r.json", kind, records, records[:1])
    test, calibration = read_records(tmp_path / "r.json")
    assert len(calibration) == 1
    for found, wanted in zip(test, records, strict=True):
        assert (found.id, found.sequence, found.partner) == (wanted.id, wanted.sequence, wanted.partner)
        np.testing.assert_array_equal(np.asarray(found.target), np.asarray(wanted.target))
        assert np.asarray(found.target).dtype == np.asarray(wanted.target).dtype
    shapes = {"sequence_regression": [(), (), ()], "contacts": [(7, 7), (12, 12), (9, 9)]}.get(kind, [(7, 3), (12, 3)])
    predictions = [np.asarray(rng.random(shape)) for shape in shapes]
    write_predictions(tmp_path / "p.npz", predictions)
    for found, wanted in zip(read_predictions(tmp_path / "p.npz"), predictions, strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert found.shape == wanted.shape


def test_rows_are_held_against_the_first(tmp_path, rng):
    records = made("sequence_regression", [5] * 20)
    task = Task("demo", "sequence_regression", "mae", None, None, "", "")
    scores = Scores(task, records, seed=0)
    targets = [record.target for record in records]
    for name, off in (("fp32", 0.5), ("half", 1.5)):
        write_predictions(tmp_path / f"{name}.npz", [np.asarray(target + off) for target in targets])
    first = {"disk_mb": 8.0, "latency_ms_p50": 10.0, "residues_per_s": 100.0}
    row = scores.row(first, tmp_path / "fp32.npz")
    assert row["score"] == pytest.approx(0.5) and "score_delta" not in row
    row = scores.row({"disk_mb": 4.0, "latency_ms_p50": 5.0, "residues_per_s": 300.0}, tmp_path / "half.npz")
    assert (row["disk_ratio"], row["latency_ratio"], row["throughput_ratio"]) == (2.0, 2.0, 3.0)
    assert row["score_delta"] == pytest.approx(1.0)
    assert row["score_delta_ci_low"] == pytest.approx(1.0)
    absent = {"note": "can't run here: no such kernel"}
    assert scores.row(absent, tmp_path / "none.npz") == absent
