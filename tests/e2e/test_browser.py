"""MLflow's pages in a real Chromium over a finished sweep: accuracy and cost of its runs, side by side.

The sweep (two models, two seeds) and the server are made once for the file. With PLMFT_SCREENSHOTS=FOLDER the pages are
kept there as PNG; docs/mlflow_*.png are such.
"""

import json
import math
import os
import shlex
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.command import run_apart, stored_runs
from tests.integration.test_tracking_server import free_port, serving

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SWEEP = (
    "--multirun",
    "experiment=quickstart",
    "task.train=60",
    "task.valid=10",
    "task.test=20",
    "optim.epochs=2",
)  # enough steps for a step time
MODELS, SEEDS = ("esm2_tiny", "onehot_cnn"), ("0", "1")
SHOWN = (
    "test/accuracy",
    "baseline/accuracy",
    "cost/step_time_ms_p50",
    "cost/residues_per_s",
    "cost/peak_host_memory_gb",
)
AXES = ("cost/step_time_ms_p50", "cost/residues_per_s", "cost/peak_host_memory_gb", "test/accuracy")  # the last: colour
# --no-sandbox: tests may run as root; the rest keeps Chromium from calling its makers.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1800,1200",
)
PATIENCE_S = 90


@dataclass(frozen=True)
class Site:
    """MLflow's UI over a finished sweep: its jobs in the order that they ran, and the parent's run id."""

    url: str
    runs: Path
    experiment: str
    summaries: tuple[dict, ...]
    parent: str

    @property
    def ids(self) -> list[str]:
        return [summary["run_id"] for summary in self.summaries]

    def compare_page(self) -> str:
        runs, experiments = (quote(json.dumps(ids)) for ids in (self.ids, [self.experiment]))
        return f"{self.url}/#/compare-runs?runs={runs}&experiments={experiments}"

    def runs_page(self) -> str:
        return f"{self.url}/#/experiments/{self.experiment}/runs"

    def run_page(self, run: str, part: str = "") -> str:
        return f"{self.runs_page()}/{run}{part}"


class Page:
    """A Chromium tab; what is asked for is waited for."""

    def __init__(self, driver, screenshots: Path) -> None:
        self.driver, self._screenshots = driver, screenshots

    def open(self, url: str) -> None:
        self.driver.get(url)
        close = "[data-component-id='mlflow.assistant.chat_panel.close']"
        if not self.script("return window.plmftTidied"):  # a new document, in which MLflow's assistant opens by itself
            self.element(close).click()
            self.wait(lambda: not self.elements(close))
            self.element("[aria-label='Toggle sidebar']").click()
            self.script("window.plmftTidied = true")

    def elements(self, css: str, text: str | None = None) -> list:
        found = self.driver.find_elements("css selector", css)
        return [element for element in found if text is None or element.text == text]

    def element(self, css: str, text: str | None = None):
        return self.wait(lambda: self.elements(css, text))[0]

    def script(self, code: str, *arguments):
        return self.driver.execute_script(code, *arguments)

    def wait(self, condition: Callable):
        from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        waiting = WebDriverWait(
            self.driver, PATIENCE_S, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            return waiting.until(lambda _: condition())
        except TimeoutException as error:
            self.keep("timeout")
            raise AssertionError(f"{self.driver.current_url} shows: {self.text()}") from error

    def text(self) -> str:
        return self.element("body").text

    def keep(self, name: str) -> None:
        assert self.driver.save_screenshot(str(self._screenshots / f"{name}.png"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    pytest.importorskip("selenium", reason="needs the Python package selenium")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium and chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    folder = tmp_path_factory.mktemp("chromium")
    screenshots = Path(os.environ.get("PLMFT_SCREENSHOTS", folder / "screenshots"))
    screenshots.mkdir(parents=True, exist_ok=True)
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        yield Page(driver, screenshots)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def site(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A quick sweep, and the UI by the command that it prints."""
    runs = tmp_path_factory.mktemp("site")
    printed = run_apart(runs, *SWEEP, f"model={','.join(MODELS)}", f"seed={','.join(SEEDS)}").succeeded()
    summaries = tuple(json.loads(file.read_text()) for file in sorted(runs.glob("work/*/summary.json")))
    (parent,) = [run for run in stored_runs(runs) if "sweep" in run.data.tags]
    hint = shlex.split(printed.splitlines()[-1].removeprefix("Compare runs: "))
    assert hint == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{runs}/mlflow.db"]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*hint[1:], "--port", str(port), "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # its background jobs are a load of their own
        with serving(*command, health=f"{url}/health", folder=runs):
            yield Site(url, runs, parent.info.experiment_id, summaries, parent.info.run_id)


def figures(summary: dict) -> dict[str, float]:
    """What summary.json says under the names that the pages must show."""
    both = summary["metrics"] | summary["cost"]
    return {name: both[name] for name in SHOWN}


def rounded_as_compare_page(value: float) -> float:
    """MLflow's compare page shows three decimals below 10, two below 100, else one; halves go up."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1
    return math.floor(value * 10**digits + 0.5) / 10**digits


def rows(page: Page) -> dict[str, list[str]]:
    """The compare page's tables of runs, parameters and tags: name to one text a run."""
    return page.script("""
        const rows = [...document.querySelectorAll('tr')].map(row => [...row.children].map(cell => cell.textContent))
        return Object.fromEntries(rows.map(([name, ...texts]) => [name, texts]))
    """)


def metric_rows(page: Page) -> dict[str, list[str]]:
    """The compare page's metrics. Only rows in view are in the document, so the table is scrolled from top to end."""
    page.wait(lambda: len(page.elements(".ReactVirtualized__Grid")) == 2)
    found, top, height = {}, 0, math.inf
    while top < height:
        names, height = page.wait(lambda top=top: page.script(METRICS_AT, top))
        found |= names
        top += 150
    return found


# Scrolls to arguments[0]; null until the rows there are drawn in both parts of the table, of names and of values. The
# names follow one scroll event late, as they do for a user's wheel; so each call moves by a pixel.
METRICS_AT = """
    const grids = [...document.querySelectorAll('.ReactVirtualized__Grid')], [beside, table] = grids
    const top = cell => parseFloat(cell.style.top), left = cell => parseFloat(cell.style.left)
    const last = grid => grid.scrollHeight - grid.clientHeight  // differ where the table has a bar at its foot
    const target = Math.min(arguments[0], last(table)), followed = Math.min(target, last(beside))
    table.scrollTop = table.scrollTop == target ? Math.abs(target - 1) : target
    const [names, values] = grids.map(grid => [...grid.querySelector('[role=rowgroup]').children])
    const end = Math.min(target + table.clientHeight, table.scrollHeight) - 1
    const drawn = cells => cells.some(cell => top(cell) + cell.clientHeight >= end)
    if (Math.abs(beside.scrollTop - followed) > 1 || !drawn(names) || !drawn(values)) return null
    const rows = names.map(name => [name.textContent, values
        .filter(value => top(value) == top(name)).sort((a, b) => left(a) - left(b)).map(value => value.textContent)])
    return [Object.fromEntries(rows.filter(([name, texts]) => texts.length)), table.scrollHeight]
"""


def choose_columns(page: Page, names: tuple[str, ...]) -> None:
    """Tick columns of the experiment's table of runs in the menu Columns, or untick those that were."""
    from selenium.webdriver.common.keys import Keys

    page.element("[data-testid=column-selection-dropdown]", "Columns").click()
    search = page.element("input[placeholder='Search columns']")
    for name in names:
        search.send_keys(Keys.CONTROL, "a")
        search.send_keys(name)
        title = page.element(".du-bois-light-tree-title", name)
        title.find_element("xpath", "./ancestor::*[@role='treeitem' or contains(@class,'treenode')][1]").find_element(
            "css selector", "[class*=tree-checkbox]"
        ).click()
    search.send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.elements("input[placeholder='Search columns']"))


def plotted(page: Page) -> dict[str, list]:
    """What the parallel coordinates are drawn from: an axis's name to a value for each run."""
    dimensions = page.script("""
        const plot = document.querySelector('.js-plotly-plot')
        if (!plot || !plot.data || plot.data[0].type != 'parcoords') return null
        return plot.data[0].dimensions.map(axis => [axis.label, axis.ticktext
            ? [...axis.values].map(value => axis.ticktext[axis.tickvals.indexOf(value)]) : [...axis.values]])
    """)
    return dict(dimensions or ())


def choose_axes(page: Page, parameters: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Of the compare page's parallel coordinates, instead of those that MLflow begins with."""
    from selenium.webdriver.common.keys import Keys

    page.element("button", "Clear All").click()
    for place, names in enumerate((parameters, metrics)):
        for name in names:
            box = page.wait(lambda: page.elements("input[role=combobox]"))[place]
            box.send_keys(name)
            option = f"[class*=select-item-option][title='{name}']"
            page.wait(lambda option=option: visible(page.elements(option)))[0].click()
        page.elements("input[role=combobox]")[place].send_keys(Keys.ESCAPE)


def visible(elements: list) -> list:
    return [element for element in elements if element.is_displayed()]


def test_parallel_coordinates_show_accuracy_and_cost_across_the_runs(page, site):
    page.open(site.compare_page())
    page.wait(lambda: "Comparing 4 Runs from 1 Experiment" in page.text())
    choose_axes(page, ("model.name", "seed"), AXES)
    axes = page.wait(lambda: found if set(AXES) <= (found := plotted(page)).keys() else None)
    assert list(axes) == ["model.name", "seed", *AXES]
    assert axes["model.name"] == [summary["model"] for summary in site.summaries]
    for name in AXES:
        assert axes[name] == [figures(summary)[name] for summary in site.summaries], name
    headings = page.script("return [...document.querySelectorAll('.parcoords .axis-title')].map(e => e.textContent)")
    assert set(headings) >= set(AXES), "they can be read"
    page.element("h1, h2, h3, h4", "Comparing 4 Runs from 1 Experiment").click()  # takes the cursor out of the plot
    page.keep("parallel")


def test_the_compare_page_holds_accuracy_and_cost_of_all_runs(page, site):
    page.open(site.compare_page())
    page.wait(lambda: "Comparing 4 Runs from 1 Experiment" in page.text())
    texts = page.wait(lambda: rows(page) if "model.name" in rows(page) else None)
    assert texts["Run ID:"] == site.ids
    assert texts["model.name"] == [model for model in MODELS for _ in SEEDS]
    assert texts["seed"] == [*SEEDS, *SEEDS]
    assert not [name for name in texts if "_target_" in name]

    shown = metric_rows(page)
    for name in SHOWN:
        expected = [rounded_as_compare_page(figures(summary)[name]) for summary in site.summaries]
        assert [float(text) for text in shown[name]] == expected, name
    names = set().union(*(summary["metrics"].keys() | summary["cost"].keys() for summary in site.summaries))
    assert names <= shown.keys(), "all of summary.json is in the table"
    page.wait(lambda: page.script(METRICS_AT, 600))
    page.script(
        "arguments[0].scrollIntoView({block: 'center', inline: 'nearest'})", page.elements(".ReactVirtualized__Grid")[0]
    )
    page.keep("compare")


def widen(page: Page, column: str) -> None:
    """Make a column of the table of runs as wide as what it holds, by a double click on its edge."""
    from selenium.webdriver import ActionChains

    edge = page.element(f".ag-header-cell[col-id='{column}'] .ag-header-cell-resize")
    before = page.element(f".ag-header-cell[col-id='{column}']").size["width"]
    ActionChains(page.driver).double_click(edge).perform()
    page.wait(lambda: page.element(f".ag-header-cell[col-id='{column}']").size["width"] != before)


def test_the_table_of_runs_shows_the_columns_that_a_user_picks(page, site):
    """Of the jobs of a sweep, once it is opened; their names begin with the model."""
    page.open(site.runs_page())
    page.element(f"[row-id='{site.parent}'] button").click()
    choose_columns(page, ("Dataset", "Source", "Models", *SHOWN))  # the first three were ticked
    for summary in site.summaries:
        for name, value in figures(summary).items():
            cell = page.element(f"[row-id='{summary['run_id']}'] [col-id='metrics.`{name}`']")
            page.wait(lambda cell=cell: cell.text)
            assert float(cell.text) == value, name
        row = " ".join(cell.text for cell in page.elements(f"[row-id='{summary['run_id']}']"))
        assert summary["model"] in row
    for name in ("attributes.`Run Name`", *(f"metrics.`{name}`" for name in SHOWN)):
        widen(page, name)
    page.keep("runs")


def test_the_sweep_keeps_its_table_and_its_plot(page, site):
    page.open(site.run_page(site.parent, "/artifacts/sweep.csv"))
    page.wait(lambda: "sweep.csv" in page.text().splitlines() and "test/accuracy" in page.text())
    for model in MODELS:
        assert model in page.text()
    page.element("[data-testid=artifact-tree-node]", "figures").click()
    page.element("[data-testid=artifact-tree-node]", "accuracy_against_cost.png").click()
    assert shown_size(page) == size_of(site.runs, site.parent, "figures/accuracy_against_cost.png")
    path = next(element for element in page.elements("div, span") if element.text.startswith("Path: file:"))
    page.script("arguments[0].style.visibility = 'hidden'", path)  # of this machine
    page.keep("sweep")


def test_a_run_page_shows_data_set_and_model(page, site):
    page.open(site.run_page(site.ids[0]))
    page.wait(lambda: "Logged models (1)" in page.text() and "Datasets" in page.text())
    text = page.text()
    digest = site.summaries[0]["data_digest"][:36]
    assert f"planted_structure ({digest})" in text
    assert f"cost/step_time_ms_p50\n{site.summaries[0]['cost']['cost/step_time_ms_p50']}" in text
    page.keep("run")
    page.element("a[href*='/models/m-']").click()
    page.wait(lambda: "About this logged model" in page.text())
    page.wait(lambda: "Status\nReady" in page.text() and site.ids[0] in page.text())
    page.keep("model")
    page.open(page.driver.current_url.split("?")[0] + "/artifacts")
    page.wait(lambda: {"MLmodel", "input_example.json"} <= set(page.text().splitlines()))
    page.keep("model_artifacts")


def shown_size(page: Page) -> list[int]:
    """Width and height of the image in view, once it is loaded."""
    image = page.element("img[src^='blob:']")
    page.wait(lambda: page.script("return arguments[0].complete && arguments[0].naturalWidth", image))
    return page.script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image)


def size_of(runs: Path, run: str, artifact: str) -> list[int]:
    (file,) = runs.glob(f"artifacts/*/{run}/artifacts/{artifact}")
    return list(struct.unpack(">II", file.read_bytes()[16:24]))  # in a PNG's header


def test_the_artifacts_show_the_learning_curve(page, site):
    page.open(site.run_page(site.ids[0], "/artifacts/figures/learning_curve.png"))
    kept = {"config.yaml", "predictions.parquet", "requirements.txt", "summary.json"}
    page.wait(lambda: kept <= set(page.text().splitlines()))
    assert shown_size(page) == size_of(site.runs, site.ids[0], "figures/learning_curve.png")
    page.keep("learning_curve")
