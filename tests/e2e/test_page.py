"""python -m plmft.report without a word: the page from a store, and what it refuses."""

import re
from pathlib import Path

import pytest

from plmft.report import main
from tests.e2e.page_store import RUNS, fill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> tuple[Path, list[str]]:
    """The runs folder, and ids."""
    runs = tmp_path_factory.mktemp("page")
    (runs / "mlflow.db").write_bytes(new_store.read_bytes())
    return runs, fill(runs)


@pytest.fixture(autouse=True)
def here(site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLMFT_RUNS", str(site[0]))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, *capsys.readouterr()


def test_the_page_is_written_and_each_run_it_names_is_in_it(site, tmp_path, capsys) -> None:
    _, ids = site
    code, out, err = report(capsys, "--output", str(tmp_path / "report.html"))
    assert (code, err) == (0, "")
    assert out == f"7 finished runs and 1 of benchmarks: {tmp_path / 'report.html'}, {tmp_path / 'report.md'}\n"
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    anchors = set(re.findall(r'id="run-(\w+)"', page))
    assert anchors == set(ids)
    assert set(re.findall(r'href="#run-(\w+)"', page)) == anchors, "all are linked, and nothing else"
    assert "data:image/png;base64" in page and "embedding pca" in text
    assert "**Take esm2_8m lora: spearman" in text and "± " in text
    assert "unfinished runs left out: 1" in text
    assert "bf16 packed is fastest with 450 ms" in text and "would not fit" in text
    assert re.search(r"\| C07 \| narrowed \|.*Measured: esm2_650m, cpu, batch 1, L 512", text)


def test_markdown_alone_and_one_task_alone(site, tmp_path, capsys) -> None:
    code, out, _ = report(capsys, "--output", str(tmp_path / "stability.md"), "--task", "stability")
    assert code == 0 and "2 finished runs" in out
    assert [file.name for file in tmp_path.iterdir()] == ["stability.md"]
    assert "### Fluorescence" not in (tmp_path / "stability.md").read_text()


def test_a_former_page_is_replaced_and_nothing_else(tmp_path, capsys) -> None:
    assert [report(capsys, "--output", str(tmp_path / "page.md"))[0] for _ in range(2)] == [0, 0]
    (tmp_path / "notes.md").write_text("mine")
    for name in ("notes.html", "notes.md"):
        code, _, err = report(capsys, "--output", str(tmp_path / name))
        assert code == 2 and "notes.md is there already" in err
    assert (tmp_path / "notes.md").read_text() == "mine" and not (tmp_path / "notes.html").exists()


def test_a_task_without_runs_is_refused_with_those_that_have_some(site, tmp_path, capsys) -> None:
    code, out, err = report(capsys, "--task", "folds", "--output", str(tmp_path / "report.md"))
    assert code == 2 and out == ""
    assert err == "plmft: --task folds: there is no finished run of it. Tasks with runs: fluorescence, stability.\n"


def test_a_folder_without_any_run_gives_a_page_and_makes_no_store(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PLMFT_RUNS", str(tmp_path / "none"))
    code, out, _ = report(capsys, "--output", str(tmp_path / "report.md"))
    assert code == 0 and "0 finished runs" in out
    assert not (tmp_path / "none").exists()


def test_a_named_store_that_is_not_there_is_told(tmp_path, capsys) -> None:
    code, _, err = report(capsys, "--uri", f"sqlite:///{tmp_path}/no.db", "--output", str(tmp_path / "report.md"))
    assert code == 2 and "there is no MLflow store" in err


def test_the_other_words_still_read_their_own_options(site, capsys) -> None:
    runs, _ = site
    code, out, _ = report(capsys, "runs", "--task", "stability", "--uri", f"sqlite:///{runs}/mlflow.db", "--csv")
    assert code == 0 and out.count("\n") == 4, "a heading and three runs"
    assert report(capsys, "runs", "--task", "folds")[0] == 2
    assert len(RUNS) == 7
