"""The contract of every task: one file in tasks/, one in conf/task/, and records that fit their kind."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from plmft.config.compose import compose_config, config_folder
from plmft.data.propensity import class_probabilities
from plmft.data.records import LETTERS, SPLITS, build_dataset
from plmft.data.task import DataPlace, Task
from plmft.metrics.evaluate import SCORERS
from plmft.models.head_spec import PairHead, ResidueHead, SequenceHead
from plmft.tasks.planted_structure import LENGTHS, ceiling
from plmft.training.scoring import baseline_metrics, measured, metrics_of_test

ALL = sorted(file.stem for file in (config_folder() / "task").glob("*.yaml"))


def task(name: str, *overrides: str) -> Task:
    return instantiate(compose_config([f"task={name}", *overrides]).task, _convert_="all")


def test_there_are_tasks_and_each_has_both_files() -> None:
    import plmft.tasks

    files = {f.stem for folder in plmft.tasks.__path__ for f in Path(folder).glob("*.py")} - {"__init__"}
    assert ALL and set(ALL) == files


@pytest.mark.parametrize("name", ALL)
def test_a_task_keeps_the_contract(name: str) -> None:
    made = task(name)
    assert made.name == name
    assert made.primary_metric in SCORERS[made.kind].names
    assert made.citation and made.licence
    if made.kind == "sequence_regression":
        assert made.unit and not made.classes and isinstance(made.head, SequenceHead) and made.outputs == 1
    elif made.kind == "residue_classification":
        assert isinstance(made.head, ResidueHead) and made.outputs == len(made.classes) >= 2
        assert all(len(c) == 1 for c in made.classes)
    elif made.kind == "contacts":
        assert isinstance(made.head, PairHead) and made.outputs == 1 and not made.classes
    elif made.kind in ("sequence_classification", "sequence_multilabel", "pair_classification"):
        assert isinstance(made.head, SequenceHead) and made.outputs == len(made.classes)


@pytest.mark.parametrize("name", ALL)
def test_files_stay_short(name: str) -> None:
    import plmft.tasks

    assert len((Path(plmft.tasks.__path__[0]) / f"{name}.py").read_text().splitlines()) < 80
    assert len((config_folder() / "task" / f"{name}.yaml").read_text().splitlines()) < 80


def planted() -> tuple[Task, dict]:
    made = task("planted_structure", "task.train=300", "task.valid=5", "task.test=200")
    loaded = made.read(DataPlace(None, Path("/nowhere")))
    assert "generated" in loaded.source
    return made, build_dataset(made.name, made.kind, loaded.records, source=loaded.source, n_classes=3).splits


def test_planted_records_are_what_they_say() -> None:
    made, splits = planted()
    assert [len(splits[s]) for s in SPLITS] == [300, 5, 200]
    for record in splits["test"]:
        assert LENGTHS[0] <= len(record.sequence) <= LENGTHS[1] and LETTERS.issuperset(record.sequence)
        assert set(record.target.tolist()) <= {0, 1, 2}
    again = made.read(DataPlace(None, Path("/nowhere"))).records
    assert {r.id: r.sequence for r in again} == {r.id: r.sequence for s in SPLITS for r in splits[s]}


def test_the_ceiling_is_reached_by_the_rule_and_not_by_one_residue() -> None:
    """The rule scores at the ceiling within the noise of 20,000 residues; the context-free baseline far below."""
    made, splits = planted()
    test = splits["test"]
    rule = [class_probabilities(r.sequence) for r in test]
    metrics = metrics_of_test(made, test, rule, seed=0)
    assert metrics["test/accuracy_ceiling"] == pytest.approx(ceiling(test))
    assert abs(metrics["test/accuracy"] - ceiling(test)) < 4 * (0.75 * 0.25 / 20_000) ** 0.5
    baseline = baseline_metrics(made, splits["train"], test, seed=0)["baseline/accuracy"]
    assert baseline < ceiling(test) - 0.2


def test_class_probabilities_are_drawn_from_a_window_of_five() -> None:
    """Hand-counted: alanine among glycines sees one A in five; the ends see fewer residues."""
    probabilities = class_probabilities("GGAGG")
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    scores = 11.4 * np.array([(1.42 + 4 * 0.57) / 5, (0.83 + 4 * 0.75) / 5, (0.66 + 4 * 1.56) / 5])
    np.testing.assert_allclose(probabilities[2], np.exp(scores) / np.exp(scores).sum())
    scores = 11.4 * np.array([(1.42 + 2 * 0.57) / 3, (0.83 + 2 * 0.75) / 3, (0.66 + 2 * 1.56) / 3])
    np.testing.assert_allclose(probabilities[0], np.exp(scores) / np.exp(scores).sum())


def test_regression_is_scored_over_all_and_within_each_mode(rng: np.random.Generator) -> None:
    from plmft.data.records import Record

    made = task("fluorescence")
    values = np.concatenate([rng.normal(1.5, 0.1, 50), rng.normal(3.6, 0.1, 50)])
    records = [Record(str(i), "MKV", float(v), "test") for i, v in enumerate(values)]
    found = list(np.where(values > 2.5, 3.6, 1.5) + rng.normal(0, 1e-6, 100))  # knows the mode and nothing else
    metrics = metrics_of_test(made, records, found, seed=0)
    assert metrics["test/records_bright"] == metrics["test/records_dark"] == 50
    assert metrics["test/spearman"] > 0.7
    assert abs(metrics["test/spearman_bright"]) < 0.4 and abs(metrics["test/spearman_dark"]) < 0.4
    assert (
        metrics["test/spearman_bright_ci_low"]
        < metrics["test/spearman_bright"]
        < metrics["test/spearman_bright_ci_high"]
    )
    perfect = metrics_of_test(made, records, measured(records), seed=0)
    assert perfect["test/spearman"] == perfect["test/r2"] == perfect["test/spearman_dark"] == 1.0
