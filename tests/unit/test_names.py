"""Names from a config that folders are called by cannot lead out of the runs folder, nor break a file system."""

import pytest
from omegaconf import OmegaConf

from plmft import InputError
from plmft.config.check import check
from plmft.config.compose import compose_config
from plmft.tracking.store import experiment_id


@pytest.fixture(scope="module")
def config() -> dict:
    return OmegaConf.to_container(compose_config(["task=table", "task.file=my.csv"]), resolve=True)


def named(config: dict, part: str, name: str) -> dict:
    return config | {part: config[part] | {"name": name}}


@pytest.mark.parametrize("part", ["model", "task"])
@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../../up",
        "/absolute",
        "a/../../b",
        ".hidden",
        "~",
        "a\\b",
        "nul\0byte",
        "two\nlines",
        "x" * 300,
        "é" * 60,
    ],
    ids=repr,
)
def test_a_name_that_leads_away_is_refused(config: dict, part: str, name: str) -> None:
    with pytest.raises(InputError, match=rf"^{part}\.name=.*it names folders") as told:
        check(named(config, part, name))
    assert len(str(told.value)) < 300 and "\n" not in str(told.value)


@pytest.mark.parametrize("part", ["model", "task"])
@pytest.mark.parametrize("name", ["esm2_8m", "GB1 (mine): v2", "Größe [°C]", "a..b", "x" * 100])
def test_other_names_pass(config: dict, part: str, name: str) -> None:
    check(named(config, part, name))


class Store:
    """Takes experiments, and keeps where their artifacts would go."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> "Store | None":
        return self if name in self.made else None

    def create_experiment(self, name: str, artifact_location: str) -> None:
        self.made[name] = self.artifact_location = artifact_location

    lifecycle_stage, experiment_id = "active", "1"


@pytest.mark.parametrize("name", ["..", ".", "../../up", "/absolute"])
def test_no_experiment_keeps_its_artifacts_elsewhere(name: str, tmp_path) -> None:
    store = Store()
    experiment_id(store, "sqlite:///mlflow.db", name, tmp_path / "runs")
    (folder,) = (tmp_path / "runs" / "artifacts").iterdir()
    assert store.made[name] == folder.as_uri()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_link_in_the_place_of_an_experiments_artifacts_is_told(tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "artifacts").mkdir(parents=True)
    (tmp_path / "runs" / "artifacts" / "mine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"mine is a link to another folder.*Remove it"):
        experiment_id(Store(), "sqlite:///mlflow.db", "mine", tmp_path / "runs")
    assert not list((tmp_path / "elsewhere").iterdir())
