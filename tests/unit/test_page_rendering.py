"""The page asks no network for anything, runs nothing that a name holds, and has the same tables in Markdown."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plmft import InputError
from plmft.page.blocks import Cell, Chooser, Fold, Front, Picture, Section, Sentence, Span, Table, Tiles
from plmft.page.figures import duration, figure, memory, probability
from plmft.page.html import to_html
from plmft.page.markdown import to_markdown
from plmft.page.runs import Found, read_rows
from plmft.page.write import write_page
from tests.unit.page_runs import benchmark

EVIL = '</script><img src=x onerror="alert(1)">|a'
RUN = "ab12cd34" * 4


def sections() -> list[Section]:
    data = {"axes": [], "fronts": {}, "points": [{"name": EVIL}], "metric": EVIL}
    rows = [[Cell(EVIL, (RUN,), Span(0, 1, 2, 0, 4), "take", 1.5), EVIL], [Cell(RUN, badge="anchor"), "b"]]
    blocks = [
        Sentence(EVIL, (RUN,), EVIL, "answer"),
        Sentence(EVIL, tone="heading"),
        Table((EVIL, "x"), rows, frozenset({1}), EVIL, EVIL, True),
        Front("f", data, EVIL, (Sentence(EVIL),)),
        Chooser([{"title": EVIL}]),
        Picture(EVIL, b"png", RUN),
        Fold(EVIL, (Sentence(EVIL),)),
        Tiles(((EVIL, EVIL),)),
    ]
    return [Section("s", EVIL, blocks)]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


def test_what_runs_are_called_is_text_and_never_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plmft.page.html._plotly", lambda: "")
    tags = Tags()
    tags.feed(to_html(EVIL, EVIL, sections()))
    assert not [attrs for _, attrs in tags.found if "onerror" in attrs or attrs.get("src") == "x"]
    assert [tag for tag, _ in tags.found].count("img") == 1, "the picture"


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plmft.page.html._plotly", lambda: "")
    tags = Tags()
    tags.feed(to_html("t", "s", sections()))
    links = [attrs[name] for _, attrs in tags.found for name in ("src", "href") if attrs.get(name)]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    (policy,) = [a["content"] for tag, a in tags.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    style = (Path(sys.modules[to_html.__module__].__file__).parent / "page.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_without_plotly_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=re.escape('pip install -e ".[page]"')):
        to_html("t", "s", sections())
    assert to_html("t", "s", sections()[:0]), "with nothing to plot it is not needed"


def test_markdown_tables_hold_together() -> None:
    text = to_markdown("t", "s", sections())
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1


def test_without_runs_the_page_says_what_to_run(tmp_path: Path) -> None:
    files, found = write_page(tmp_path / "new" / "report.html", None, "sqlite:///none.db", None)
    assert found.empty and [file.suffix for file in files] == [".html", ".md"]
    text = files[1].read_text()
    assert "python -m plmft.train experiment=quickstart" in text and "C65" in text and "nan" not in text.lower().split()
    assert len(files[0].read_bytes()) < 1_000_000, "no Plotly where there is nothing to plot"


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"\.html"):
        write_page(tmp_path / name, None, "sqlite:///none.db", None)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write there"):
        write_page(tmp_path / "file" / "report.md", None, "sqlite:///none.db", None)


def test_rows_leave_out_what_was_not_measured_and_tell_each_note_once() -> None:
    from plmft.page.other_sections import benchmark_sections

    rows = list(read_rows("model,batch,step_time_ms_p50,note\nesm2_8m,1,2.5,\nesm2_8m,8,,too large\n"))
    assert rows == [
        {"model": "esm2_8m", "batch": 1.0, "step_time_ms_p50": 2.5},
        {"model": "esm2_8m", "batch": 8.0, "note": "too large"},
    ]
    (section,) = benchmark_sections([benchmark("latency", *rows)])
    text = to_markdown("t", "s", [section])
    assert "| 8 | – | 1 |" in text and "note 1: too large" in text
    assert read_rows("") is not None and Found().empty


def test_throughput_is_compared_at_equal_tokens_material_and_precision() -> None:
    from plmft.page.other_sections import benchmark_sections

    def row(batching: str, rate: float, **more: object) -> dict[str, object]:
        same = {"model": "esm2_8m", "material": "proteins", "precision": "bf16", "tokens_per_batch": 8192.0}
        return same | {"batching": batching, "residues_per_s": rate, "step_time_ms_p50": 1 / rate} | more

    rows = [row("packed", 300.0), row("unsorted", 100.0), row("packed", 9000.0, material="random residues")]
    rows += [row("packed", 2.0, tokens_per_batch=2048.0), row("packed", 1.0, precision="fp32")]
    (section,) = benchmark_sections([benchmark("throughput", *rows)])
    told = [block.text for block in section.blocks if isinstance(block, Sentence) and "fastest" in block.text]
    assert told == [
        "esm2_8m on cpu, proteins, tokens a pass 8,192: bf16 packed is fastest with 300 residues/s, "
        "bf16 unsorted slowest with 100 residues/s (3.0x)."
    ]
    (section,) = benchmark_sections([benchmark("latency", *({"step_time_ms_p50": time} for time in (2.0, 1.0)))])
    assert "batch" not in section.blocks[0].text and "fastest with 1 ms" in section.blocks[0].text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (figure(0), "0"),
        (figure(12345.6), "12,346"),
        (figure(0.012345), "0.0123"),
        (figure(2.5e-7), "2.50e-7"),
        (duration(119), "119 s"),
        (duration(180), "3 min"),
        (duration(3600 * 50), "2.08 days"),
        (memory(0.5), "500 MB"),
        (memory(12.34), "12.3 GB"),
        (probability(0.002), "< 0.01"),
    ],
)
def test_figures_are_written_as_a_reader_expects(written: str, expected: str) -> None:
    assert written == expected
