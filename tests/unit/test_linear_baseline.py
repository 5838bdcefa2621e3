"""Linear baselines: features by hand, fits against the normal equations and scikit-learn, choice on the valid split."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from plmft import InputError
from plmft.data.records import AMINO_ACIDS, DataSet, Record, build_dataset
from plmft.data.task import Task
from plmft.models import onehot_features
from plmft.models.direct_spec import MajoritySpec, OneHotLinearSpec
from plmft.models.linear_baseline import choose_features, fit_linear
from plmft.models.loss_spec import Loss
from plmft.models.onehot_features import Aligned, Composition, Window, chunks, sequence_features
from plmft.training.direct import DirectLearner
from tests.conftest import random_sequence

LINEAR = OneHotLinearSpec("onehot_linear", (100.0, 1.0, 0.01), 5, "", "")
MAJORITY = MajoritySpec("majority", "", "")
KINDS = [
    "sequence_regression",
    "sequence_classification",
    "pair_classification",
    "sequence_multilabel",
    "residue_classification",
]


def record(sequence: str, target: object = 0.0, split: str = "train", partner: str = "") -> Record:
    return Record(f"{split}{sequence}{partner}", sequence, target, split, "row", partner)


def one_hot(sequence: str, length: int) -> list[float]:
    """By hand: 20 numbers a position."""
    row = [float(letter == other) for letter in sequence for other in AMINO_ACIDS]
    return row + [0.0] * (20 * length - len(row))


# features


def test_positions_stand_side_by_side_and_short_sequences_end_early() -> None:
    sequences = ["ACDW" * 10, "WXYU" * 9 + "ACD"]
    rows = Aligned(40, equal=False).rows([record(s) for s in sequences]).toarray()
    np.testing.assert_array_equal(rows, [one_hot(s, 40) for s in sequences])


def test_windows_see_their_neighbours_and_nothing_beyond_the_ends() -> None:
    sequences = ["ACDEF", "W", "XY"]
    rows = Window(3).rows([record(s) for s in sequences]).toarray()
    wanted = [one_hot(f".{s}."[i : i + 3], 3) for s in sequences for i in range(len(s))]
    np.testing.assert_array_equal(rows, wanted)


@pytest.mark.parametrize("width", [1, 3, 15, 31])
def test_windows_do_not_depend_on_who_stands_beside(width: int, rng: np.random.Generator) -> None:
    made = [record(random_sequence(rng, n)) for n in (1, 30, 2, 8)]
    together = Window(width).rows(made).toarray()
    np.testing.assert_array_equal(together, np.vstack([Window(width).rows([r]).toarray() for r in made]))


def test_composition_by_hand() -> None:
    sequence = "AACXA"
    train = [record(sequence), record("ACDEFGHIKLMNPQRSTVWY" * 3), record("WWWWWWWW")]
    found = Composition.of(train)
    raw = np.array([onehot_features._composition(r.sequence) for r in train])
    wanted = dict.fromkeys([*AMINO_ACIDS, *(a + b for a in AMINO_ACIDS for b in AMINO_ACIDS)], 0.0)
    wanted |= {"A": 3 / 5, "C": 1 / 5, "AA": 1 / 4, "AC": 1 / 4}  # CX and XA have a letter that is none of the 20
    np.testing.assert_allclose(raw[0], [*wanted.values(), np.log(5)])
    varies = raw.std(0) > 0
    rows = found.rows(train)
    np.testing.assert_allclose(rows[:, varies], ((raw - raw.mean(0)) / raw.std(0).clip(1e-12))[:, varies], rtol=1e-5)
    assert not rows[:, ~varies].any() and found.columns == 421


def test_the_order_of_a_pair_does_not_matter(rng: np.random.Generator) -> None:
    made = [record(random_sequence(rng, 20), 0, partner=random_sequence(rng, 30)) for _ in range(5)]
    features = sequence_features(made, made)
    swapped = [record(r.partner, 0, partner=r.sequence) for r in made]
    assert features.columns == 842 and "pairs" in features.told
    np.testing.assert_allclose(features.rows(made), features.rows(swapped))


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ([237, 237], "237 positions x 20 amino acids, one-hot."),
        ([237, 235], "237 positions x 20 amino acids, one-hot; shorter sequences are filled up on the right"),
        ([100, 105], "105 positions"),
        ([100, 106], "lengths differ by more than 5%"),
    ],
)
def test_lengths_decide_the_features(lengths: list[int], told: str, rng: np.random.Generator) -> None:
    made = [record(random_sequence(rng, n)) for n in lengths]
    assert told in choose_features("sequence_regression", made, made[:1], 15).told


def test_chunks_hold_every_record_once(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(onehot_features, "CHUNK_RESIDUES", 100)
    made = [record(random_sequence(rng, int(n))) for n in rng.integers(1, 250, 40)]
    parts = list(chunks(made))
    assert [r for part in parts for r in part] == made and len(parts) > 10 and all(parts)


# fits


def fitted(kind: str, made: list[Record], penalties: tuple[float, ...], n_classes: int = 3, **options: object):
    features = choose_features(kind, made, made, 5)
    return fit_linear(kind, features, made, [], n_classes, penalties=penalties, score=lambda found: 0.0, **options)


@pytest.mark.parametrize("penalty", [100.0, 0.1])
@pytest.mark.parametrize("lengths", [[12], [5, 30]], ids=["aligned", "composition"])
def test_ridge_solves_the_normal_equations(penalty: float, lengths: list[int], rng: np.random.Generator) -> None:
    made = [record(random_sequence(rng, int(rng.choice(lengths))), float(rng.normal(5, 2))) for _ in range(120)]
    model = fitted("sequence_regression", made, (penalty,))
    rows = model.features.rows(made)
    rows = np.asarray(rows if isinstance(rows, np.ndarray) else rows.toarray(), np.float64)
    targets = np.array([r.target for r in made])
    centred = rows - rows.mean(0)
    slopes = np.linalg.solve(
        centred.T @ centred + penalty * np.eye(rows.shape[1]), centred.T @ (targets - targets.mean())
    )
    wanted = centred @ slopes + targets.mean()
    found = model.predict(made)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert isinstance(found[0], np.float64)


@pytest.mark.parametrize("penalty", [10.0, 1.0])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_logistic_regression_equals_scikit_learns(kind: str, penalty: float, rng: np.random.Generator) -> None:
    made = labelled(kind, rng, 150)
    model = fitted(kind, made, (penalty,))
    if kind == "residue_classification":
        rows, targets = model.features.labelled(made)
    else:
        rows, targets = model.features.rows(made), np.array([r.target for r in made])
        keep = targets != -100 if targets.ndim == 1 else slice(None)
        rows, targets = rows[keep], targets[keep]
    probabilities = model._probabilities(np.asarray(rows @ model.weights[:-1] + model.weights[-1]))
    options = {"C": 1 / penalty, "tol": 1e-8, "max_iter": 5000}
    if kind == "sequence_multilabel":
        wanted = np.column_stack(
            [LogisticRegression(**options).fit(rows, column).predict_proba(rows)[:, 1] for column in targets.T]
        )
    else:
        wanted = LogisticRegression(**options).fit(rows, targets).predict_proba(rows)
    np.testing.assert_allclose(probabilities, wanted, atol=2e-3)


@pytest.mark.parametrize("kind", ["sequence_classification", "sequence_multilabel"])
def test_class_weights_count_as_repeated_rows(kind: str, rng: np.random.Generator) -> None:
    made = labelled(kind, rng, 60)
    weights = np.array([1.0, 3.0, 2.0])
    found = fitted(kind, made, (1.0,), class_weights=weights).predict(made)
    if kind == "sequence_multilabel":  # one label, so that rows can be repeated for it alone
        made = [Record(r.id, r.sequence, r.target[1:2], r.split, "row") for r in made]
        found = [p[1:2] for p in found]
        repeats = [3 if r.target[0] else 1 for r in made]
    else:
        repeats = [int(weights[r.target]) if r.target >= 0 else 1 for r in made]
    features = choose_features(kind, made, made, 5)
    repeated = [r for r, n in zip(made, repeats, strict=True) for _ in range(n)]
    outputs = 1 if kind == "sequence_multilabel" else 3
    same = fit_linear(kind, features, repeated, [], outputs, penalties=(1.0,), score=lambda found: 0.0)
    if isinstance(features, Composition):
        raise AssertionError("lengths must be equal, or scaling differs")
    np.testing.assert_allclose(same.predict(made), found, atol=2e-3)


def labelled(kind: str, rng: np.random.Generator, count: int) -> list[Record]:
    """Random sequences of 12 whose targets follow from their third letter (or each residue's own), with noise."""
    made = []
    for i in range(count):
        sequence = random_sequence(rng, 12)
        noise = rng.random(12) < 0.2
        classes = np.where(noise, rng.integers(0, 3, 12), [AMINO_ACIDS.index(a) % 3 for a in sequence])
        unlabelled = rng.random(12) < 0.1
        targets = {
            "sequence_regression": float(classes[2] + rng.normal(0, 0.1)),
            "sequence_classification": -100 if unlabelled[2] else int(classes[2]),
            "pair_classification": -100 if unlabelled[2] else int(classes[2]),
            "sequence_multilabel": (classes[:3] == 0).astype(np.int8),
            "residue_classification": np.where(unlabelled, -100, classes),
        }
        split = "train" if i < 0.6 * count else "valid" if i < 0.8 * count else "test"
        partner = random_sequence(rng, 9) if kind == "pair_classification" else ""
        made.append(Record(f"r{i}", sequence, targets[kind], split, f"row {i}", partner))
    return made


def test_the_validation_split_chooses_the_penalty_until_two_are_no_better(rng: np.random.Generator) -> None:
    made = labelled("sequence_regression", rng, 30)
    features = choose_features("sequence_regression", made, made, 5)
    scores = iter([None, 0.3, 0.2, 0.5, 0.4, 0.5, 0.9])
    grid = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 0.001)
    model = fit_linear("sequence_regression", features, made, made, 0, penalties=grid, score=lambda found: next(scores))
    assert model.penalty == 10.0 and next(scores) == 0.9
    assert model.notes[-1] == (
        "Penalty 10, chosen on valid (10000: undefined, 1000: 0.3000, 100: 0.2000, 10: 0.5000, 1: 0.4000, 0.1: 0.5000)."
    )


def test_of_many_residues_every_kth_chain_is_fitted_to(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator):
    made = labelled("residue_classification", rng, 30)
    monkeypatch.setattr(onehot_features, "FITTED_RESIDUES", 100)
    assert "Fitted to 8 of 30 training sequences" in fitted("residue_classification", made, (1.0,)).notes[1]
    monkeypatch.setattr(onehot_features, "FITTED_RESIDUES", 360)
    assert len(fitted("residue_classification", made, (1.0,)).notes) == 2


def test_nothing_to_learn_from_is_told(rng: np.random.Generator) -> None:
    made = [record(random_sequence(rng, 8), -100) for _ in range(4)]
    with pytest.raises(InputError, match="none of 4 training sequences has a label"):
        fitted("sequence_classification", made, (1.0,))
    with pytest.raises(InputError, match=r"model=onehot_linear: there is none for contacts\. Choose model=majority"):
        choose_features("contacts", made, made, 5)
    with pytest.raises(InputError, match=r"model\.window=4: has no middle residue"):
        OneHotLinearSpec("onehot_linear", (1.0,), 4, "", "")


# as a run


def dataset_and_job(kind: str, spec: object, rng: np.random.Generator) -> tuple[DataSet, SimpleNamespace]:
    classes = () if kind == "sequence_regression" else ("H", "E", "C")
    primary = {"sequence_regression": "spearman", "sequence_multilabel": "f1_max"}.get(kind, "accuracy")
    task = Task("demo", kind, primary, None, None, "", "", classes=classes)
    dataset = build_dataset("demo", kind, labelled(kind, rng, 200), source="here", n_classes=len(classes))
    hardware = SimpleNamespace(usd_per_hour=36.0)
    return dataset, SimpleNamespace(model=spec, task=task, seed=0, loss=Loss("equal", True), hardware=hardware)


SHAPES = {"sequence_regression": (), "residue_classification": (12, 3)}


@pytest.mark.parametrize("spec", [LINEAR, MAJORITY], ids=lambda s: s.name)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_runs_and_gives_what_a_predictor_gives(
    tmp_path: Path, kind: str, spec: object, rng: np.random.Generator
) -> None:
    dataset, job = dataset_and_job(kind, spec, rng)
    learner = DirectLearner(job, dataset)
    result = learner.learn(tmp_path, lambda *_: None, Console(quiet=True))
    assert learner.predictor is None and not list(tmp_path.iterdir())
    assert {split: len(found) for split, found in result.predictions.items()} == {"test": 40}
    assert len(result.valid) == 40 and set(result.costs) == {"fit", "test"}
    for prediction in result.predictions["test"]:
        assert prediction.shape == SHAPES.get(kind, (3,))
        assert prediction.dtype == (np.float64 if kind == "sequence_regression" else np.float32)
        if kind not in ("sequence_regression", "sequence_multilabel"):
            np.testing.assert_allclose(prediction.sum(-1), 1, rtol=1e-5)
    fit = result.costs["fit"].values
    assert fit["wall_time_s"] > 0 and fit["sequences_per_s"] > 0
    assert fit["usd"] == pytest.approx(fit["wall_time_s"] / 100)
    if kind == "residue_classification" and spec is LINEAR:
        found = np.concatenate(result.predictions["test"]).argmax(1)
        measured = np.concatenate([r.target for r in dataset.splits["test"]])
        assert (found == measured)[measured >= 0].mean() > 0.75  # 0.8 + 0.2 / 3 follow from the letter
        assert learner.parameters == {"total": 303, "trainable": 303}


def test_an_error_as_the_primary_metric_is_made_small(tmp_path: Path, rng: np.random.Generator) -> None:
    dataset, job = dataset_and_job("sequence_regression", LINEAR, rng)
    told = {}
    for primary in ("mse", "r2"):
        job.task = Task("demo", "sequence_regression", primary, None, None, "", "")
        told[primary] = DirectLearner(job, dataset).learn(tmp_path, lambda *_: None, Console(quiet=True)).notes[-1]
    assert told["mse"].split(",")[0] == told["r2"].split(",")[0]  # the smallest error is the highest R²


def test_without_a_training_split_there_is_nothing_to_fit(rng: np.random.Generator) -> None:
    dataset, job = dataset_and_job("sequence_regression", MAJORITY, rng)
    empty = DataSet("demo", {**dataset.splits, "train": ()}, "", "", {})
    with pytest.raises(InputError, match="model=majority: demo has no training split to fit it to"):
        DirectLearner(job, empty)
