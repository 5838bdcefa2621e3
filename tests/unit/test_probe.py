"""The linear probe: what is linear is found, labels belong to vectors by id, what the user must mend is told."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from plmft import InputError
from plmft.data.records import IGNORE, Record
from plmft.embeddings import linear_probe, probed
from plmft.embeddings.probe import Probe, main
from plmft.embeddings.probed import Probed, Scaled, probe
from plmft.metrics.intervals import spearman_interval
from plmft.metrics.regression import regression_metrics
from tests.unit.embedded_files import clustered, write_embeddings

PENALTIES = (1e4, 1e2, 1.0, 1e-2)
DEFAULTS = Probe("", "", None, None, None, "auto", None, "refuse", None, PENALTIES, (0.8, 0.1, 0.1), None, 0)
COUNT = 240


@pytest.fixture
def files(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """Embeddings, and a table in another order: a linear number with noise, a cluster, the words of splits."""
    vectors, own = clustered(rng, COUNT, 3)
    ids = [f"p{number:03}" for number in range(COUNT)]
    path = write_embeddings(tmp_path / "e.safetensors", ids, vectors)
    number = vectors @ rng.normal(size=16) + 0.5 * rng.normal(size=COUNT)
    words = np.array(["train"] * 150 + ["valid"] * 40 + ["test"] * 50)
    table = pd.DataFrame({"id": ids, "number": number, "place": np.array(["a", "b", "c"])[own], "split": words})
    return path, table.sample(frac=1, random_state=1)


def run(path: Path, table: pd.DataFrame, **changed: object) -> Probed:
    file = path.parent / "labels.csv"
    table.to_csv(file, index=False)
    return probe(replace(DEFAULTS, embeddings=str(path), labels=str(file), **changed))


def test_a_linear_number_is_found_and_scored_as_training_scores(files) -> None:
    path, table = files
    found = run(path, table, target="number")
    measured = np.array([r.target for r in found.labelled.records if r.split == "test"])
    predicted = np.array(found.predictions["test"])
    assert found.metrics["test/spearman"] > 0.97
    for name, value in regression_metrics(predicted, measured).items():
        assert found.metrics[f"test/{name}"] == value
    mean = np.mean([r.target for r in found.labelled.records if r.split == "train"])
    mse = np.mean((measured - mean) ** 2)
    assert f"  {'mse, no model':28} {mse:.3f}" in found.lines()
    assert not any("spearman, no model" in line for line in found.lines())
    low, high = spearman_interval(predicted, measured, seed=0)
    assert (found.metrics["test/spearman_ci_low"], found.metrics["test/spearman_ci_high"]) == (low, high)
    by_id = table.set_index("id")["number"]
    assert [r.target for r in found.labelled.records] == [by_id[r.id] for r in found.labelled.records]


def test_the_ridge_is_the_one_of_the_formula(files) -> None:
    path, table = files
    found = run(path, table, target="number", penalties=(10.0,))
    train = [r for r in found.labelled.records if r.split == "train"]
    rows = found.model.features.rows(train)
    assert np.allclose(rows.mean(0), 0) and np.allclose(rows.std(0), 1)
    y = np.array([r.target for r in train])
    weights = np.linalg.solve(rows.T @ rows + 10 * np.eye(16), rows.T @ (y - y.mean()))
    np.testing.assert_allclose(found.model.weights[:-1, 0], weights, rtol=1e-6)
    assert found.model.weights[-1, 0] == pytest.approx(y.mean())


def test_fewer_records_than_dimensions(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(12, 40)).astype(np.float32)
    records = [Record(str(n), "", float(rng.normal()), "train") for n in range(12)]
    features = Scaled(vectors, records, records)
    rows, y = features.rows(records), np.array([r.target for r in records])
    (model,) = linear_probe.fit_each("sequence_regression", features, records, 1, [3.0])
    weights = np.linalg.solve(rows.T @ rows + 3 * np.eye(40), rows.T @ (y - y.mean()))
    np.testing.assert_allclose(model.weights[:-1, 0], weights, atol=1e-9)


def test_classes_are_found_and_the_baseline_stands_beside(files) -> None:
    found = run(*files, target="place")
    assert found.task.classes == ("a", "b", "c") and found.task.primary_metric == "accuracy"
    assert found.metrics["test/accuracy"] > 0.95 > 0.7 > found.metrics["baseline/accuracy"]
    assert found.metrics["test/accuracy_ci_low"] <= found.metrics["test/accuracy"]
    told = "\n".join(found.lines())
    assert "Logistic probe of esm2_tiny (random weights, seed 0), layer 2, mean" in told
    assert "accuracy, no model" in told and "train 150, valid 40, test 50" in told


def test_the_penalty_is_chosen_on_valid_alone(files) -> None:
    path, table = files
    first = run(path, table, target="number")
    other = table.assign(number=np.where(table["split"] == "test", -table["number"], table["number"]))
    second = run(path, other, target="number")
    np.testing.assert_array_equal(first.model.weights, second.model.weights)
    assert "chosen on valid" in first.model.notes[-1] and second.metrics["test/spearman"] < -0.9


def test_the_logistic_is_the_one_of_the_formula(files) -> None:
    from sklearn.linear_model import LogisticRegression

    path, table = files
    noisy = table.assign(place=np.where(np.arange(COUNT) % 3 == 0, "a", table["place"]))  # not to be parted by a line
    found = run(path, noisy, target="place", penalties=(5.0,))
    train = [r for r in found.labelled.records if r.split == "train"]
    rows = found.model.features.rows(train)
    reference = LogisticRegression(C=1 / 5.0, tol=1e-8, max_iter=1000).fit(rows, [r.target for r in train])
    np.testing.assert_allclose(found.model.predict(train), reference.predict_proba(rows), atol=1e-3)


def test_strong_penalties_that_all_do_nothing_do_not_end_the_choice(files) -> None:
    found = run(*files, target="place", penalties=(1e9, 1e8, 1e7, 1e6, 1.0))
    assert found.model.penalty == 1 and found.metrics["test/accuracy"] > 0.95
    assert "It is the weakest that was tried" in found.model.notes[-1]
    assert "1: " in found.model.notes[-1]
    assert run(*files, target="place", penalties=(1e9, 1e8)).model.penalty == 1e9  # of equal ones the strongest


def test_what_gets_worse_three_times_is_not_fitted_further() -> None:
    from plmft.models.linear_baseline import Linear

    scores = {9: 0.1, 8: 0.1, 7: 0.1, 6: 0.1, 5: 0.4, 4: None, 3: 0.5, 2: 0.5, 1: 0.2, 0.5: 0.3, 0.25: 0.9}
    models = (Linear("sequence_regression", None, np.zeros((2, 1)), penalty) for penalty in scores)
    chosen = linear_probe.choose(models, lambda model: scores[model.penalty])
    assert chosen.penalty == 3 and "0.5: 0.3000)." in chosen.notes[-1] and next(models).penalty == 0.25


def test_sets_of_labels(files) -> None:
    path, table = files
    sets = table["place"].map({"a": "x", "b": "x;y", "c": ""})
    found = run(path, table.assign(place=sets), target="place", kind="multilabel")
    assert found.task.classes == ("x", "y") and found.metrics["test/f1_max"] > 0.95


def test_further_test_sets_are_scored_apart(files) -> None:
    path, table = files
    words = table["split"].where(table["id"] > "p020", "test_new")
    found = run(path, table.assign(split=words), target="place")
    assert found.metrics["data/test_new"] == 21 and found.metrics["test_new/accuracy"] > 0.8


def test_without_a_split_equal_vectors_stay_together(files, rng, tmp_path: Path) -> None:
    vectors, _ = clustered(rng, 60, 3)
    twice = np.vstack([vectors, vectors])
    ids = [f"q{n}" for n in range(120)]
    path = write_embeddings(tmp_path / "twice.safetensors", ids, twice)
    found = run(path, pd.DataFrame({"id": ids, "y": twice[:, 0]}))
    split = {r.id: r.split for r in found.labelled.records}
    assert all(split[f"q{n}"] == split[f"q{n + 60}"] for n in range(60))
    assert set(split.values()) == {"train", "valid", "test"}
    assert any("split at random" in note for note in found.labelled.notes)


def test_without_a_validation_split_one_is_taken_out_of_train(files) -> None:
    path, table = files
    found = run(path, table.replace({"split": {"valid": "train"}}), target="place")
    assert found.metrics["data/test"] == 50 and found.metrics["data/valid"] == pytest.approx(21, abs=3)
    assert any("taken out of train" in note for note in found.labelled.notes)


def test_what_stands_on_one_side_alone_is_counted(files) -> None:
    path, table = files
    more = pd.concat([table[table["id"] != "p003"], table.head(1).assign(id="new")])
    found = run(path, more, target="place")
    assert "1 rows of labels.csv have no embedding (first: new)." in found.labelled.notes
    assert "1 embeddings have no row in labels.csv (first: p003)." in found.labelled.notes


def test_a_dimension_that_does_not_vary_in_train_counts_for_nothing(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(30, 3)).astype(np.float32)
    vectors[:20, 1] = 7.3
    records = [Record(str(n), "", 0.0, "train") for n in range(30)]
    scaled = Scaled(vectors, records, records[:20])
    assert (scaled.rows(records)[:, 1] == 0).all() and "1 do not vary" in scaled.told


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({}, {}, "which column holds the labels. Set target"),
        ({}, {"target": "plaze"}, "target=plaze: .*Did you mean 'place'"),
        ({"place": "a"}, {"target": "place"}, "the class 'a' alone.*is target right"),
        ({"number": "7"}, {"target": "number"}, "different whole numbers: classes or quantities.*kind=classification"),
        ({}, {"target": "place", "kind": "regression"}, "line 2: column 'place': .* is not a number.*set kind="),
        ({}, {"target": "place", "metric": "spearman"}, "metric=spearman: no metric of classification"),
        ({"split": "dev"}, {"target": "place"}, "'split' has no train rows"),
        ({"id": "x"}, {"target": "place"}, "id 'x' was used before"),
        ({}, {"target": "place", "id": "split"}, "used before"),
        ({}, {"target": "place", "labels": "absent.csv"}, "no such file"),
    ],
    ids=str,
)
def test_mistakes_are_told(files, change: dict, options: dict, told: str) -> None:
    path, table = files
    with pytest.raises(InputError, match=told) as error:
        if "labels" in options:
            probe(replace(DEFAULTS, embeddings=str(path), **options))
        run(path, table.assign(**change), **options)
    assert "task." not in str(error.value)


def test_rows_without_a_target_are_refused_or_dropped(files) -> None:
    path, table = files
    holes = table.assign(number=table["number"].where(table["id"] > "p004"))
    with pytest.raises(InputError, match=r"'number' is empty in 5 rows, here first.*missing=drop"):
        run(path, holes, target="number")
    assert run(path, holes, target="number", missing="drop").metrics["data/train"] == 145


def test_ids_that_never_meet_are_shown(files) -> None:
    path, table = files
    with pytest.raises(InputError, match=r"none of its 240 ids is among the 240.*'P9-.*; in the embeddings: p000"):
        run(path, table.assign(id="P9-" + table["id"]), target="place")


def test_a_class_that_train_lacks_is_told(files) -> None:
    path, table = files
    rare = table.assign(place=table["place"].where(table["id"] != "p239", "rare"))
    with pytest.raises(InputError, match="'rare' is in test but nowhere in train"):
        run(path, rare, target="place")


def test_the_command_writes_what_it_prints(files, capsys) -> None:
    path, table = files
    table.to_csv(path.parent / "labels.tsv", index=False, sep="\t")
    out = path.parent / "out"
    options = [f"embeddings={path}", f"labels={path.parent / 'labels.tsv'}", "target=place", f"output={out}"]
    main(options)
    told = json.loads((out / "probe.json").read_text())
    assert f"{told['metrics']['test/accuracy']:.3f}" in capsys.readouterr().out
    assert told["embeddings"]["model"] == "esm2_tiny" and told["options"]["target"] == "place"
    rows = pd.read_parquet(out / "predictions.parquet")
    truth = table.set_index("id")["place"]
    assert list(rows["measured"]) == [truth[id_] for id_ in rows["id"]] and len(rows) == 50
    assert (rows["measured"] == rows["predicted"]).mean() == told["metrics"]["test/accuracy"]
    before = (out / "probe.json").read_bytes()
    with pytest.raises(InputError, match=f"output={out}: is there already, and is not replaced"):
        main(options)
    assert (out / "probe.json").read_bytes() == before
    with pytest.raises(InputError, match=r"add up to 1\.5"):
        main([*options, "fractions=[0.5,0.5,0.5]"])


def test_a_probe_that_breaks_off_leaves_nothing_in_the_way(files, monkeypatch) -> None:
    path, table = files
    found = run(path, table, target="place")
    out = path.parent / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(probed, "write_whole", Mock(side_effect=[None, KeyboardInterrupt]))
        found.write(out)
    assert not list(path.parent.glob("*out*"))
    found.write(out)
    assert {file.name for file in out.iterdir()} == {"probe.json", "predictions.parquet"}


@pytest.fixture
def residues(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    """A vector a residue, of 40 proteins; a letter a residue that the first dimension tells, and a dot now and then."""
    vectors = [rng.normal(size=(length, 5)).astype(np.float32) for length in rng.integers(5, 30, 40)]
    labels = ["".join(np.where(v[:, 0] > 0, "H", "C")) for v in vectors]
    labels = [f".{text[1:]}" for text in labels]
    words = ["train"] * 24 + ["valid"] * 8 + ["test"] * 8
    table = pd.DataFrame({"id": [f"p{n}" for n in range(40)], "structure": labels, "split": words})
    path = write_embeddings(tmp_path / "r.safetensors", list(table["id"]), vectors)
    return path, table.sample(frac=1, random_state=3)


def test_residues_are_told_by_their_own_vectors(residues) -> None:
    path, table = residues
    found = run(path, table, target="structure")
    assert found.task.kind == "residue_classification" and found.metrics["test/accuracy"] > 0.95
    assert found.metrics["baseline/accuracy"] < 0.7 and "test/accuracy_ci_low" in found.metrics
    by_id = table.set_index("id")["structure"]
    for record, probabilities in zip(found._records("test"), found.predictions["test"], strict=True):
        assert probabilities.shape == (len(by_id[record.id]), 2) and record.target[0] == IGNORE
        assert ["CH"[n] for n in record.target[1:]] == list(by_id[record.id][1:])
    assert "40 residues of" in " ".join(found.labelled.notes)


def test_so_many_residues_are_fitted_to_evenly(residues, monkeypatch) -> None:
    monkeypatch.setattr(linear_probe, "FITTED_RESIDUES", 150)
    found = run(*residues, target="structure")
    assert any("of 24 training proteins, evenly drawn" in note for note in found.labelled.notes)
    assert found.metrics["data/train"] == 24 and found.metrics["test/accuracy"] > 0.9


def test_residues_and_sequences_are_not_mixed_up(residues, files) -> None:
    path, table = residues
    with pytest.raises(InputError, match="kind=regression: the embeddings hold a vector a residue"):
        run(path, table, target="structure", kind="regression")
    shorter = table.assign(structure=table["structure"].where(table["id"] != "p9", "HH"))
    with pytest.raises(InputError, match=r"line \d+: column 'structure': 'p9' has \d+ residues but 2 labels"):
        run(path, shorter, target="structure")
    with pytest.raises(InputError, match="kind=residue_classes: the embeddings hold a vector a sequence"):
        run(*files, target="place", kind="residue_classes")


def test_one_value_alone_is_nothing_to_learn(files) -> None:
    path, table = files
    with pytest.raises(InputError, match="column 'number' holds one value alone in the training records"):
        run(path, table.assign(number=3.0), target="number", kind="regression")
