"""Which folder a user's word means: a run's id, name or folder, a registered model; and what is told where none is."""

import json
from pathlib import Path

import pytest

from plmft import InputError
from plmft.tracking import model_of_run
from plmft.tracking.model_of_run import find_model


class Run:
    """As MLflow gives it."""

    def __init__(self, run_id, name, status="FINISHED", models=(), **tags):
        self.info = type("Info", (), {"run_id": run_id, "run_name": name, "status": status})
        outputs = [type("Output", (), {"model_id": model}) for model in models]
        self.data = type("Data", (), {"tags": tags})
        self.outputs = type("Outputs", (), {"model_outputs": outputs}) if models else None


class Client:
    """A store of these runs, whose logged models lie in `folder`."""

    def __init__(self, runs, folder):
        self.runs, self.folder = runs, folder

    def get_logged_model(self, model_id):
        return type("Model", (), {"artifact_location": (self.folder / model_id).as_uri(), "source_run_id": "aaa1"})

    def get_run(self, run_id):
        return next(run for run in self.runs if run.info.run_id == run_id)

    def get_model_version(self, name, version):
        return type("Version", (), {"model_id": None, "source": "models:/m-1", "run_id": "aaa1"})

    def get_model_version_by_alias(self, name, alias):
        return type("Version", (), {"model_id": None, "source": f"runs:/{alias}/model", "run_id": alias})


def tuned(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "plmft.json").write_text("{}")
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    stored = [
        Run("aaa1", "first", models=["m-1"], folder="gone"),
        Run("aaa2", "second", folder="work2"),
        Run("abc3", "twice", status="RUNNING"),
        Run("abd4", "twice"),
        Run("e5", "a sweep", sweep="true"),
        Run("f6", "zero", tuning="none"),
        Run("f7", "costs", **{"plmft.kind": "benchmark"}),
        Run("12345678", "digits", folder="work2"),
        Run("12349999", "digits", **{"plmft.kind": "evaluation", "plmft.parent_run": "12345678"}),
    ]
    tuned(tmp_path / "work" / "work2" / "model")
    tuned(tmp_path / "store" / "m-1" / "artifacts" / "tuned")

    def all_runs(client, uri, within, where, order=(), few=0):
        key, sign, value = where.replace("attributes.", "").replace("tags.", "").partition(" ")
        value = sign and where.split('"')[1]
        for run in stored:
            known = {"run_id": run.info.run_id, "run_name": run.info.run_name, "folder": run.data.tags.get("folder")}
            if known[key] == value or (value.endswith("%") and known[key].startswith(value[:-1])):
                yield run

    monkeypatch.setattr("plmft.tracking.reading.open_existing", lambda uri: Client(stored, tmp_path / "store"))
    monkeypatch.setattr("plmft.tracking.reading.experiments", lambda client, uri: {"task": "1"})
    monkeypatch.setattr("plmft.tracking.reading.all_runs", all_runs)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "run_id"),
    [
        ("aaa2", "aaa2"),
        ("AAA2", "aaa2"),
        ("second", "aaa2"),
        ("work2", None),  # two runs have a folder of this name
        ("1234", "12345678"),  # an evaluation's id begins so, too, and has its name
        ("digits", "12345678"),
        ("runs:/aaa2/model", "aaa2"),
    ],
)
def test_runs_of_this_machine(runs, word, run_id):
    if run_id is None:
        with pytest.raises(InputError, match="several runs"):
            find_model(word, "sqlite:///x", runs)
        return
    found = find_model(word, "sqlite:///x", runs)
    assert found.folder == runs / "work" / "work2" / "model"
    assert found.run_id == run_id


@pytest.mark.parametrize("word", ["aaa1", "first", "models:/m-1", "models:/name/3", "models:/name@aaa1"])
def test_models_that_the_store_keeps(runs, word):
    found = find_model(word, "sqlite:///x", runs)
    assert found.folder == runs / "store" / "m-1" / "artifacts" / "tuned"
    assert found.run_id == "aaa1"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("aa", r"aa: several runs .*aaa1 \(first\), aaa2 \(second\)"),
        ("twice", "several runs"),
        ("none", "has no such run, and there is no such folder"),
        ("abc3", r"abc3 \(twice\) did not finish: it is RUNNING"),
        ("abd4", "has no tuned model"),
        ("e5", "is a sweep"),
        ("f6", "as it is \\(tuning=none\\)"),
        ("f7", "of the kind benchmark"),
        ("12349", "of the kind evaluation, of 12345678. Name a training run"),
        ("models:/name", "NAME/VERSION"),
        ("/no/such/folder", "there is no such folder"),
        ("", "there is no such folder"),
        ("./no", "there is no such folder"),
        ('a"b', "no run is called so"),
    ],
)
def test_what_is_told_where_there_is_no_model(runs, word, told):
    with pytest.raises(InputError, match=told):
        find_model(word, "sqlite:///x", runs)


def test_folders_need_no_store(tmp_path, monkeypatch):
    monkeypatch.setattr("plmft.tracking.reading.open_existing", lambda uri: pytest.fail("a store was opened"))
    run = tuned(tmp_path / "run" / "model").parent
    for place in (run, run / "model"):
        assert find_model(str(place), "sqlite:///x", tmp_path).folder == run / "model"
    logged = tuned(tmp_path / "logged" / "artifacts" / "tuned")
    assert find_model(str(tmp_path / "logged"), "sqlite:///x", tmp_path).folder == logged
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no tuned model \(no plmft.json\)"):
        find_model(str(tmp_path / "empty"), "sqlite:///x", tmp_path)


def test_a_remote_model_is_fetched_once_and_whole(tmp_path, monkeypatch):
    fetched = []

    def download(source, dst_path, **_):
        fetched.append(source)
        return str(tuned(Path(dst_path) / "artifacts" / "tuned"))

    client = type("C", (), {"get_logged_model": lambda self, name: type("M", (), {"artifact_location": "s3://b/m"})})()
    monkeypatch.setattr("mlflow.artifacts.download_artifacts", download)
    for _ in range(2):
        kept = model_of_run._fetched(client, "http://host", "m-9", tmp_path)
    assert kept == tmp_path / "cache" / "models" / "m-9"
    assert json.loads((kept / "plmft.json").read_text()) == {}
    assert fetched == ["s3://b/m/artifacts/tuned"]
    assert [file.name for file in kept.parent.iterdir()] == ["m-9"]
