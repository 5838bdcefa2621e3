"""plmft.evaluate: what comes from the run, what from the command line; classes by name; one pass over the records."""

import json

import numpy as np
import pytest
import yaml
from rich.console import Console

from plmft import InputError
from plmft.config.compose import parts_of
from plmft.data.known_classes import in_known_classes
from plmft.data.options import Limit
from plmft.data.records import IGNORE, Record
from plmft.evaluate import composed
from plmft.export import export
from plmft.models.tuned import load
from plmft.models.tuning import Frozen
from plmft.training.distributed import ALONE, Ranks
from plmft.training.evaluated import Evaluated
from plmft.training.evaluating import Evaluation
from plmft.training.evaluation_pass import EvaluationPass, on_device
from plmft.training.evaluation_record import _counts, _scores
from plmft.training.hardware import Hardware
from plmft.training.result import Result
from tests.unit.exported_models import saved_model
from tests.unit.tuned_models import LORA, saved

SAVED = {
    "task": {
        "_target_": "plmft.tasks.planted_structure.planted_structure",
        "train": 7,
        "valid": 3,
        "test": 5,
        "seed": 11,
        "head": {"_target_": "plmft.models.head_spec.ResidueHead", "dropout": 0.0},
    },
    "seed": 4,
    "data": {"_target_": "plmft.data.options.Data", "dir": "/old", "length_policy": "window"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a model and a config."""
    folder = tmp_path_factory.mktemp("run")
    saved_model(folder / "model", "residue_classification")
    (folder / "config.yaml").write_text(yaml.safe_dump(SAVED))
    return folder


def test_task_seed_and_policy_are_the_runs_own(run):
    config = composed([f"run={run}", "task.test=9", "limit.test=2"])
    assert config["task"] == SAVED["task"] | {"test": 9}
    assert (config["seed"], config["data"]["length_policy"], config["data"]["dir"]) == (4, "window", None)
    assert config["limit"]["test"] == 2
    assert config["model"]["_target_"] == "plmft.models.spec.TransformerSpec"
    assert config["tuning"]["_target_"] == "plmft.models.tuning.Full"
    assert config["evaluated"] == {"folder": str(run / "model"), "run_id": None}


def test_what_is_given_wins(run):
    config = composed([f"run={run}", "task=secondary_structure", "seed=2", "data.length_policy=crop", "records=all"])
    assert config["task"]["_target_"].endswith("secondary_structure")
    assert (config["seed"], config["data"]["length_policy"], config["records"]) == (2, "crop", "all")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["task=fluorescence"],
            "fluorescence is sequence regression; .* tuned on demo, which is residue classification",
        ),
        (["model=esm2_8m"], "model=esm2_8m: run=.* brings its own model"),
        (["optim.lr=1"], "optim.lr=1: run=.* brings its own"),
        (["task.tset=1"], "task.tset: task has no key 'tset'. Did you mean 'test'"),
        (["records=some"], "must be test or all"),
        (["limit.tset=1"], "limit has no key 'tset'"),
        (["--run"], "--run: evaluation takes options of the form key=value"),
    ],
)
def test_mistakes(run, words, told):
    with pytest.raises(InputError, match=told):
        composed([f"run={run}", *words])


def test_a_run_that_is_given_as_a_model_is_told_the_word():
    with pytest.raises(InputError, match=r"model=1a2b3c4d: there is no such architecture.* give run=1a2b3c4d"):
        composed(["model=1a2b3c4d", "task=perplexity"])
    with pytest.raises(InputError, match=r"run=1a2b3c4d: there is no such option.* give model=1a2b3c4d"):
        export(["run=1a2b3c4d", "to=here", "as=onnx"])


def test_a_file_without_train_rows_is_scored_and_only_what_is_scored_is_counted(tmp_path):
    tuned = saved_model(tmp_path / "model", "sequence_regression")
    variants = ["MKTAYIAKQR" + letter + "ISFVKSHFSRQ" for letter in "ACDEFGHIKL"]
    file = tmp_path / "new.csv"

    config = composed([f"run={tmp_path / 'model'}", "task=table", f"task.file={file}"])
    parts = parts_of({key: config[key] for key in ("task", "hardware", "tracking", "data", "seed")})
    model = Evaluated.of(tmp_path / "model", None)

    def read(header, cells, records, limit=None):
        file.write_text("\n".join([header, *(f"{v},{i}.5{cells[i]}" for i, v in enumerate(variants))]) + "\n")
        limits = Limit(None, None, limit)
        evaluation = Evaluation(model, **parts, limit=limits, records=records, config=config)
        task, dataset, _ = evaluation._read(tmp_path / "runs", tuned)
        result = Result({s: [np.float32(0)] * len(r) for s, r in dataset.tests.items()}, None, {})
        return _counts(dataset), _scores(evaluation, task, tuned, dataset, result)

    for header, cells, records in (
        ("sequence,y", [""] * 10, "all"),
        ("sequence,y,split", [",test"] * 10, "all"),
        ("sequence,y,split", [",test"] * 10, "test"),
    ):
        counts, scores = read(header, cells, records)
        assert counts == {"data/test": 10} and not any(name.startswith("baseline/") for name in scores)
    counts, scores = read("sequence,y,split", [",train"] * 5 + [",valid"] * 2 + [",test"] * 3, "test", 2)
    assert counts == {"data/test": 2} and "baseline/mae" in scores


def test_a_folder_alone_needs_a_task(tmp_path):
    saved_model(tmp_path / "model", "residue_classification")
    with pytest.raises(InputError, match=r"its task isn't known. Choose one"):
        composed([f"run={tmp_path / 'model'}"])
    config = composed([f"run={tmp_path / 'model'}", "task=planted_structure"])
    assert (config["task"]["test"], config["seed"]) == (200, 0)
    (tmp_path / "model" / "plmft.json").write_text("{")
    with pytest.raises(InputError, match=r"plmft.json can't be read"):
        composed([f"run={tmp_path / 'model'}", "task=planted_structure"])


@pytest.mark.parametrize("text", ["a: 1", "[", "- task", "task: other\nseed: 1\ndata: {length_policy: crop}"])
@pytest.mark.parametrize("name", ["model", "copy"])
def test_what_lies_beside_a_copy_is_not_its_runs(tmp_path, text, name):
    folder = tmp_path / name
    saved_model(folder, "residue_classification")
    for file in ("config.yaml", "summary.json"):
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=r"its task isn't known. Choose one"):
        composed([f"run={folder}"])
    assert composed([f"run={folder}", "task=planted_structure"])["seed"] == 0
    assert Evaluated.of(folder, None).own_test() == {}


def test_a_copy_beside_another_runs_files_is_not_that_runs(tmp_path):
    saved_model(tmp_path / "copy", "residue_classification")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(SAVED))
    (tmp_path / "summary.json").write_text(json.dumps({"metrics": {}, "data_digest": "1"}))
    assert Evaluated.of(tmp_path / "copy", None).own_test() == {}
    assert composed([f"run={tmp_path / 'copy'}", "task=planted_structure"])["seed"] == 0
    (tmp_path / "copy").rename(tmp_path / "model")
    assert Evaluated.of(tmp_path / "model", None).own_test()["data_digest"] == "1"
    assert composed([f"run={tmp_path / 'model'}"])["seed"] == SAVED["seed"]


def record(target):
    return Record("a", "MKT", target, "test")


def test_classes_are_matched_by_name():
    known = ("a", "b", "c")
    (one,) = in_known_classes([record(1)], "sequence_classification", ("c", "b"), known, "t")
    (none,) = in_known_classes([record(IGNORE)], "pair_classification", ("c", "b"), known, "t")
    assert (one.target, none.target) == (1, IGNORE)
    residues = np.array([0, IGNORE, 1])
    (found,) = in_known_classes([record(residues)], "residue_classification", ("c", "b"), known, "t")
    assert found.target.tolist() == [2, IGNORE, 1]
    (several,) = in_known_classes([record(np.array([1, 0], np.int8))], "sequence_multilabel", ("c", "b"), known, "t")
    assert several.target.tolist() == [0, 0, 1] and several.target.dtype == np.int8
    with pytest.raises(InputError, match=r"not tuned on 'x'. It knows 'a', 'b', 'c'"):
        in_known_classes([record(0)], "sequence_classification", ("x", "b"), known, "t")


def hardware(**changes):
    return Hardware("cpu", "fp32", 64, 3.6, **changes)


def test_one_pass_gives_the_models_own_predictions_and_what_it_cost(tmp_path):
    tuned = saved_model(tmp_path / "model", "sequence_regression")
    device = hardware().resolve()
    tuned = on_device(tuned, device, hardware(), "fp32")
    sequences = ["MKT" * n for n in (5, 1, 9, 3, 7)]
    records = [Record(str(n), sequence, 0.0, "test") for n, sequence in enumerate(sequences)]
    tests = {"test": records, "test_far": records[3:]}
    console = Console(quiet=True)
    result = EvaluationPass(tuned, device, hardware(), ALONE, tmp_path / "cache", console).run(tests)
    wanted = tuned.predict(sequences)
    np.testing.assert_allclose(result.predictions["test"], wanted, rtol=1e-6)
    np.testing.assert_allclose(result.predictions["test_far"], wanted[3:], rtol=1e-6)
    cost = result.costs["test"]
    assert cost.values["usd"] == pytest.approx(cost.values["wall_time_s"] / 1000)  # 3.6 USD an hour
    assert list(result.costs) == ["test"]


@pytest.mark.parametrize("tuning", [Frozen(), LORA], ids=lambda t: t.name)
def test_a_run_that_held_weights_in_bfloat16_is_scored_in_float32(tmp_path, rng, tuning):
    saved(tmp_path / "model", "esm2", tuning, "sequence_regression", rng, precision="bf16_weights")
    device = hardware().resolve()
    tuned = on_device(load(tmp_path / "model"), device, hardware(), "fp32")
    records = [Record("a", "MKT" * 5, 0.0, "test")]
    once = EvaluationPass(tuned, device, hardware(), ALONE, tmp_path / "cache", Console(quiet=True))
    (found,) = once.run({"test": records}).predictions["test"]
    rounded = load(tmp_path / "model").predict(["MKT" * 5])[0]
    assert found != rounded and found == pytest.approx(rounded, rel=0.05, abs=0.05)


class Apart(Ranks):
    """A rank whose neighbours hand in `others`."""

    others: list

    def gather(self, value):
        return [value, *self.others] if self.first else []

    def first_alone(self):
        from contextlib import nullcontext

        return nullcontext()


def test_ranks_share_the_records_and_the_first_has_them_all(tmp_path):
    tuned = saved_model(tmp_path / "model", "sequence_regression")
    device, several = hardware().resolve(), hardware(devices=2, strategy="ddp")
    sequences = ["MKT" * n for n in (5, 1, 9, 3, 7)]
    records = [Record(str(n), sequence, 0.0, "test") for n, sequence in enumerate(sequences)]
    seen = {}
    for rank in (1, 0):
        ranks = Apart(rank, 2, rank)
        object.__setattr__(ranks, "others", [])
        evaluate = EvaluationPass(tuned, device, several, ranks, tmp_path / "cache", Console(quiet=True))
        batches = evaluate._batches(records)
        evaluate._meter.begin()
        evaluate._meter.steps.fetch_begin()
        seen[rank] = evaluate._predicted(batches, "test", len(records))
    assert seen[0].keys() | seen[1].keys() == set(range(5)) and not seen[0].keys() & seen[1].keys()
    wanted = tuned.predict(sequences)
    for number, value in {**seen[0], **seen[1]}.items():
        assert value == pytest.approx(wanted[number], rel=1e-6)


def test_json_of_the_model_becomes_a_config(run):
    from plmft.config.check import check

    config = composed([f"run={run}"])
    for key in ("evaluated", "records"):
        config.pop(key)
    check(config)  # raises where a part of plmft.json is no option of its class
    assert json.loads((run / "model" / "plmft.json").read_text())["model"]["name"] == config["model"]["name"]
