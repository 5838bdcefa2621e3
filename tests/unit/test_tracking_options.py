import errno
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plmft import InputError
from plmft.tracking.options import Tracking, check_writable, runs_dir


def test_default_is_sqlite_in_the_runs_folder(tmp_path):
    assert Tracking().address(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://127.0.0.1:5000/", "http://127.0.0.1:5000"),
        ("https://mlflow.example.org/team", "https://mlflow.example.org/team"),
        ("postgresql+psycopg2://host/runs", "postgresql+psycopg2://host/runs"),
        ("sqlite:////data/runs.db", "sqlite:////data/runs.db"),
    ],
)
def test_other_stores(tmp_path, uri, address):
    assert Tracking(uri).address(tmp_path) == address


def test_a_relative_sqlite_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Tracking("sqlite:///here/runs.db").address(tmp_path / "mlruns") == f"sqlite:///{tmp_path}/here/runs.db"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "127.0.0.1:5000",
        "localhost",
        "./mlruns",
        "file:///mlruns",
        "sqlite://",
        "sqlite:///",
        "http://",
        "http://[",
        "http://host:port",
    ],
)
def test_an_address_of_another_kind_is_refused_with_what_is_allowed(uri):
    with pytest.raises(InputError, match=r"tracking\.uri=.*Allowed: null") as caught:
        Tracking(uri)
    assert uri in str(caught.value)


def test_a_refused_address_does_not_show_its_password():
    with pytest.raises(InputError) as caught:
        Tracking("ftp://user:hunter2@host")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["a%20b", "what?"])
def test_a_folder_that_sqlite_addresses_cannot_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="Take another folder"):
        Tracking().address(tmp_path / name)


CONFIGS = sorted((Path(__file__).parents[2] / "conf/tracking").glob("*.yaml"))


def test_there_are_configs():
    assert [file.stem for file in CONFIGS] == ["server", "sqlite"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_fit_the_options(file):
    config = yaml.safe_load(file.read_text())
    module, _, name = config.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), name)(**config) in (Tracking(), Tracking("http://127.0.0.1:5000"))


def test_runs_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLMFT_RUNS", raising=False)
    assert runs_dir() == tmp_path / "mlruns"
    monkeypatch.setenv("PLMFT_RUNS", "elsewhere")
    assert runs_dir() == tmp_path / "elsewhere"
    assert not runs_dir().exists()


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "new" / "mlruns")
    assert list((tmp_path / "new" / "mlruns").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/mlruns: cannot write .* bytes free .* PLMFT_RUNS"):
        check_writable(tmp_path / "file" / "mlruns")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        check_writable(tmp_path)


def test_a_full_disk_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    def no_space(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match=r"No space left on device; [\d,]+ bytes free"):
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_quota_is_found_by_writing(tmp_path):
    """A file-size limit of the process stands for a quota: free space alone would not show it."""
    code = (
        "import pathlib, resource, signal; from plmft.tracking.options import check_writable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"check_writable(pathlib.Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError" in done.stderr and "File too large" in done.stderr


def test_options_import_nothing_heavy():
    code = "import sys, plmft.tracking.options; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mlflow", "torch", "pandas", "matplotlib", "numpy", "requests"} & set(loaded)
