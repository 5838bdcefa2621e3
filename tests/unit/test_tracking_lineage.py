import json
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plmft.tracking.lineage import (
    environment_tags,
    flatten,
    git_tags,
    gpu_tags,
    machine_tags,
    mask,
    scrub,
    version_tags,
)

SECRET = "s3cr3t-V4lue"


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text("one = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_git_commit_and_dirtiness(repository):
    commit = git(repository, "rev-parse", "HEAD")
    clean = {"git_commit": commit, "git_dirty": "false", "mlflow.source.git.commit": commit}
    assert git_tags(repository) == clean
    (repository / "code.py").write_text("one = 2\n")
    changed = git_tags(repository)
    assert changed == clean | {"git_dirty": "true", "git_diff": changed["git_diff"]}
    (repository / "code.py").write_text("one = 3\n")
    assert git_tags(repository)["git_diff"] != changed["git_diff"], "two changes of one commit are told apart"


def test_an_untracked_file_is_a_change(repository):
    (repository / "new_task.py").write_text("")
    assert git_tags(repository)["git_dirty"] == "true"


def test_git_variables_of_the_environment_do_not_mislead(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "another"))
    assert len(git_tags(repository)["git_commit"]) == 40


def test_a_package_inside_someone_elses_repository_has_no_commit(repository):
    installed = repository / "venv" / "site-packages"
    installed.mkdir(parents=True)
    assert git_tags(installed) == {}


def test_no_repository_no_commit_no_git(tmp_path, monkeypatch):
    assert git_tags(tmp_path) == {}
    git(tmp_path, "init", "--quiet")
    assert git_tags(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_tags(tmp_path) == {}


def test_versions_are_those_that_run():
    import torch

    tags = version_tags()
    assert tags["version.python"] == platform.python_version()
    assert tags["version.torch"] == torch.__version__
    assert {"version.plmft", "version.transformers", "version.peft", "version.mlflow"} < set(tags)


def test_versions_import_nothing():
    code = "import sys; from plmft.tracking.lineage import version_tags; version_tags(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_machine(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n" + "model name\t: Some CPU @ 2 GHz\n\n" * 2)
    (tmp_path / "meminfo").write_text("MemTotal:       15625000 kB\nMemFree: 1 kB\n")
    tags = machine_tags(tmp_path)
    assert tags["machine.cpu"] == "Some CPU @ 2 GHz"
    assert tags["machine.ram_gb"] == "16.0"
    assert int(tags["machine.usable_cores"]) <= int(tags["machine.logical_cores"])
    assert tags["machine.host"] == platform.node()


def test_what_the_machine_does_not_tell_is_left_out(tmp_path):
    assert not {"machine.cpu", "machine.ram_gb"} & set(machine_tags(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (host)\nGCC version: 12\n",
    ],
)
def test_gpus(tmp_path, text):
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2, get_device_name=lambda i: "NVIDIA H100")
    assert gpu_tags(cuda, tmp_path) == {"gpu.name": "NVIDIA H100", "gpu.count": "2"}
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text(text)
    assert gpu_tags(cuda, tmp_path)["gpu.driver"] == "550.54.15"


def test_no_gpu_no_tags(tmp_path):
    assert gpu_tags(SimpleNamespace(is_available=lambda: False), tmp_path) == {}


def test_environment_tags_are_text():
    tags = environment_tags()
    assert {"version.plmft", "machine.platform"} < set(tags)
    assert all(isinstance(value, str) and value for value in tags.values())


def test_flatten():
    optim = {"lr": 1e-05, "steps": None}
    config = {"optim": optim, "targets": ["a", 1], "on": True, "name": "x", "empty": {}, 3: "odd#", "parts": [{"a": 1}]}
    assert flatten(config) == {
        "optim.lr": "1e-05",
        "targets": '["a", 1]',
        "on": "true",
        "name": "x",
        "empty": "{}",
        "3": "odd#",
        "parts.0.a": "1",
    }
    assert list(flatten({"a#(b)": 1, "_target_": "plmft.models.tuning.LoRA", "licence": "MIT"})) == ["a__b_"]


@pytest.mark.parametrize(
    "config",
    [
        {"hf_token": SECRET},
        {"hub": {"token": SECRET}},
        {"token_value": SECRET},
        {"DB_PASSWORD": SECRET},
        {"db": {"passwd": {"value": SECRET}}},
        {"api-key": SECRET},
        {"apiKey": SECRET},
        {"aws_secret_access_key": SECRET},
        {"list": [{"client_secret": SECRET}]},
        {"tracking.password": SECRET},
        {"uri": f"http://user:{SECRET}@host:5000/path"},
        {"uri": f"https://{SECRET}@host"},
        {"dir": f"https:/user:{SECRET}@host/as-a-path-shows-it"},
        {"url": f"https://host/data?sig={SECRET}&X-Amz-Signature={SECRET}"},
        {"uri": f"postgresql+psycopg2://user:with/slash@{SECRET}@host/db"},
        {"uri": f"https://host/data?access_token={SECRET}&x=1"},
        {"overrides": ["model=esm2_8m", f"tracking.token={SECRET}"]},
        {"command": f"plmft.train db.password='{SECRET} {SECRET}' task=fluorescence"},
    ],
)
def test_secrets_are_masked(config):
    assert SECRET not in json.dumps(scrub(config))
    assert SECRET not in json.dumps(scrub(flatten(config)))
    assert "***" in json.dumps(scrub(config))


def test_what_is_no_secret_stays():
    config = {
        "hardware": {"tokens_per_batch": 4096},
        "tokenizer": "esm",
        "token_dropout": True,
        "pad_token_id": 1,
        "task": "secondary_structure",
        "secreted": "yes",
        "password": None,
        "uri": "http://host:5000/#/experiments",
        "mail": "someone@example.org",
        "command": "plmft.train model=esm2_8m hardware.tokens_per_batch=4096",
        "pair": (1, "two"),
    }
    assert scrub(config) == config
    flat = flatten(config)
    assert scrub(flat) == flat


def test_masked_addresses_keep_what_helps():
    assert mask("cannot reach http://user:pw@host:5000/x now") == "cannot reach http://***@host:5000/x now"


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(plain, st.sampled_from(["password", "x.hf_token", "API_KEY"]))
def test_scrubbing_masks_at_any_depth_keeps_the_shape_and_twice_is_once(config, name):
    scrubbed = scrub([config, {"outer": [{name: SECRET, "config": config}]}])
    assert SECRET not in json.dumps(scrubbed)
    assert scrub(scrubbed) == scrubbed
    assert type(scrubbed[0]) is type(config)
    if isinstance(config, dict):
        assert scrubbed[0].keys() == config.keys()
