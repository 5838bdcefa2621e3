"""What a run keeps of its code, packages and weights; and that secrets stay out of it."""

import importlib.metadata
from pathlib import Path

import pytest

from plmft.models.weights import Located
from plmft.tracking import lineage_files
from plmft.tracking.lineage_files import code_diff, installed, without_secrets
from plmft.tracking.weights_origin import weights_tags
from tests.unit.test_tracking_lineage import SECRET, git, repository  # noqa: F401


def test_a_clean_checkout_and_none_have_no_diff(repository: Path, tmp_path: Path) -> None:  # noqa: F811
    assert code_diff(repository) is None
    assert code_diff(tmp_path) is None


def test_the_diff_can_be_applied_to_the_commit(repository: Path, tmp_path: Path) -> None:  # noqa: F811
    (repository / "code.py").write_text("one = 2\ntoken = tokens[0]\n")
    (repository / "new.py").write_text("not kept")
    diff = code_diff(repository)
    assert diff.startswith("# untracked, not kept here: new.py\n")
    assert "not kept\n" not in diff
    git(tmp_path, "clone", "--quiet", str(repository), "again")
    (tmp_path / "code.diff").write_text(diff)
    git(tmp_path / "again", "apply", str(tmp_path / "code.diff"))
    assert (tmp_path / "again" / "code.py").read_text() == (repository / "code.py").read_text()


def test_a_staged_change_is_in_the_diff_and_names_of_bytes_do_no_harm(repository: Path) -> None:  # noqa: F811
    (repository / "code.py").write_bytes(b"one = '\xff'\n")
    git(repository, "add", ".")
    assert "+one = " in code_diff(repository)


def test_a_long_diff_is_cut_with_a_mark(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(lineage_files, "LONGEST_DIFF", 100)
    (repository / "code.py").write_text("x = 1\n" * 50)
    diff = code_diff(repository)
    assert diff.endswith(" characters more\n") and "# cut: " in diff
    assert len(diff) < 150


@pytest.mark.parametrize(
    "line",
    [
        f"+password: {SECRET}",
        f'+  "api_key": "{SECRET}",',
        f"+HF_TOKEN = '{SECRET} {SECRET}'",
        f"+MLFLOW_TRACKING_PASSWORD={SECRET}",
        f"+uri: postgresql://me:{SECRET}@host/db",
        "+login('hf_" + SECRET.replace("-", "") + "123456')",
        f"+-----BEGIN RSA PRIVATE KEY-----\n+{SECRET}\n+-----END RSA PRIVATE KEY-----",
        f"+print('{SECRET}')",  # what the environment calls a password
    ],
)
def test_secrets_are_masked_in_code(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if line.startswith("+print"):
        monkeypatch.setenv("SOME_PASSWORD", SECRET)
    masked = without_secrets(f"one = 1\n{line}\ntwo = 2")
    assert SECRET not in masked and SECRET.replace("-", "") not in masked
    assert masked.startswith("one = 1\n") and masked.endswith("two = 2")
    assert "***" in masked


def test_code_stays_as_it_is() -> None:
    code = "token = tokens[i]\nfor token in tokens:\n    secrets.token_hex(8)\ndef f(token: Tensor, n=1) -> int:"
    assert without_secrets(code) == code


def test_every_distribution_is_named_once_with_its_version() -> None:
    lines = installed()
    assert lines[0].startswith("# Python 3.")
    assert f"torch=={importlib.metadata.version('torch')}" in lines
    assert not [line for line in lines if line.startswith("plmft==")], "the index has another package of this name"
    assert [line for line in lines if line.startswith("# plmft==")]
    names = [line.removeprefix("# ").partition("==")[0].lower() for line in lines[1:]]
    assert names == sorted(set(names))


def test_weights_are_named_by_commit_digest_or_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = tmp_path / "cache", tmp_path / "weights.pt"
    assert weights_tags(Located("random"), 3, cache) == {"weights_seed": "3"}
    assert weights_tags(Located("hub", tmp_path, "c731"), 3, cache) == {"model_revision": "c731"}
    file.write_bytes(b"weights")
    local = Located("fair_esm", file)
    first = weights_tags(local, 3, cache)
    assert first == {"weights_digest": local.digest()}
    with monkeypatch.context() as patch:
        patch.setattr(Located, "digest", None)
        assert weights_tags(local, 3, cache) == first, (
            "known by its size and the time of its last change: not read again"
        )
    file.write_bytes(b"Weights")
    assert weights_tags(local, 3, cache) == {"weights_digest": local.digest()} != first
