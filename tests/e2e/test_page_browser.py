"""The page in a real Chromium: widths of a desk and a phone, light and dark; nothing fetched, nothing broken.

With PLMFT_SCREENSHOTS=FOLDER the page is kept there as PNG; docs/report_*.png are such. PLMFT_REPORT=report.html takes
the pictures of your own page instead of one that is made up.
"""

import base64
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from plmft.page.choice import Limits, choose
from plmft.page.configurations import contests
from plmft.page.runs import fetch, read_runs
from plmft.report import main
from tests.e2e.page_store import fill
from tests.e2e.test_browser import FLAGS, PATIENCE_S

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
WIDTHS = {"desktop": 1280, "phone": 390}
HEIGHT = 2100


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    pytest.importorskip("selenium", reason="needs the Python package selenium")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("needs chromium and chromedriver (Debian: chromium and chromium-driver)")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, "--hide-scrollbars", f"--user-data-dir={tmp_path_factory.mktemp('chromium') / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    try:
        driver.set_page_load_timeout(PATIENCE_S)
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / "mlflow.db").write_bytes(new_store.read_bytes())
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of the store."""
    file = tmp_path_factory.mktemp("out") / "report.html"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("PLMFT_RUNS", str(runs))
        main(["--output", str(file), "--uri", f"sqlite:///{runs}/mlflow.db"])
    assert ended.value.code == 0
    return file


def show(driver, page: Path, width: int, scheme: str) -> None:
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.get(page.as_uri())
    wait(driver, lambda: driver.execute_script("return document.documentElement.dataset.ready == 'yes'"))


def keep(driver, folder: Path, name: str, width: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clip = {"x": 0, "y": 0, "width": width, "height": HEIGHT, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    (folder / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize(("device", "scheme"), list(itertools.product(WIDTHS, ("light", "dark"))))
def test_the_page_is_whole_at_every_width_and_colour(driver, page, tmp_path, device, scheme) -> None:
    width = WIDTHS[device]
    show(driver, Path(os.environ.get("PLMFT_REPORT", page)), width, scheme)
    folder = Path(os.environ.get("PLMFT_SCREENSHOTS", tmp_path))
    keep(driver, folder, f"report_{device}_{scheme}", width)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width, "nothing is cut off"
    assert not [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    assert driver.execute_script("return performance.getEntriesByType('resource').length") == 0
    back, text = driver.execute_script("""
        const style = getComputedStyle(document.body)
        return [style.backgroundColor, style.color].map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0))
    """)
    assert (back < text) == (scheme == "dark") and abs(back - text) > 500
    plots = driver.find_elements("css selector", ".front:not([hidden]) .plot")
    marks = [plot.find_elements("css selector", ".scatterlayer .point") for plot in plots]
    assert plots and all(marks)
    assert all(0 < plot.size["width"] <= width for plot in plots)


def title_of(driver) -> str:
    return driver.find_element("css selector", ".front .xtitle").get_attribute("textContent")


def wait(driver, condition) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, PATIENCE_S, poll_frequency=0.1).until(lambda _: condition())


def test_the_axis_of_cost_is_the_readers_choice(driver, page) -> None:
    show(driver, page, 1280, "light")
    select = driver.find_element("css selector", ".front select")
    titles = []
    for option in select.find_elements("css selector", "option"):
        option.click()
        titles.append(option.text)
        wait(driver, lambda wanted=option.text: title_of(driver) == wanted)
    assert len(titles) == 4 and titles[0] == "training time, s"


def test_the_form_answers_as_the_guide_does(driver, page, runs, tmp_path) -> None:
    from plmft.tracking.reading import open_existing

    uri = f"sqlite:///{runs}/mlflow.db"
    client = open_existing(uri)
    found = read_runs(client, uri).scored
    files = {run.run_id: fetch(client, run.run_id, ["predictions.parquet"], tmp_path) for run in found}
    known = contests(found, {run_id: next(iter(of.values())) for run_id, of in files.items()})
    show(driver, page, 1280, "light")
    asked = [(m, h, r) for m in (None, 0.6, 1.0, 2.5) for h in (None, 0.001, 0.05) for r in (None, 10, 1000)]
    told = driver.execute_script(
        """
        const contests = JSON.parse(document.querySelector(".chooser script").textContent)
        return contests.map(contest => arguments[0].map(([memory, hours, records]) => {
            const choice = choose(contest, {memory, hours, records, usd: null, device: null})
            return choice && [choice.take, choice.best]
        }))
        """,
        asked,
    )
    assert len(told) == len(known) == 2
    for contest, answers in zip(known, told, strict=True):
        for (memory, hours, records), answer in zip(asked, answers, strict=True):
            choice = choose(contest, Limits(records=records, memory_gb=memory, hours=hours))
            assert answer == (choice and [choice.take, choice.best]), (contest.task, memory, hours, records)
    assert len({str(answer) for answers in told for answer in answers}) > 3, "the limits matter"


def test_a_limit_is_typed_and_a_sentence_leads_to_its_run(driver, page) -> None:
    show(driver, page, 390, "light")
    before = driver.find_element("css selector", ".chooser output").text
    driver.find_element("css selector", ".chooser [name=memory]").send_keys("1.0")
    answer = driver.find_element("css selector", ".chooser output")
    assert answer.text != before and "Take onehot_cnn full" in answer.text
    link = answer.find_element("css selector", "a.chip")
    target = link.get_attribute("href").partition("#")[2]
    assert not driver.find_element("id", target).is_displayed(), "folded"
    driver.execute_script("arguments[0].click()", link)
    wait(driver, lambda: driver.find_element("id", target).is_displayed())
    driver.find_element("css selector", ".chooser [name=memory]").send_keys("e-9")
    assert "No run fits" in driver.find_element("css selector", ".chooser output").text


def test_tables_are_sorted_by_a_heading_and_searched(driver, page) -> None:
    show(driver, page, 1280, "light")
    table = driver.find_element("css selector", "#contest-0 table")
    column = [head.text for head in table.find_elements("css selector", "th")].index("training time")

    def values() -> list[float]:
        return driver.execute_script(
            "return [...arguments[0].tBodies[0].rows].map(row => +row.cells[arguments[1]].dataset.order)", table, column
        )

    head = table.find_elements("css selector", "th button")[column]
    head.click()
    assert values() == sorted(values())
    head.click()
    assert values() == sorted(values(), reverse=True) and len(set(values())) == 4
    driver.execute_script("document.querySelectorAll('#claims details').forEach(fold => fold.open = true)")
    driver.find_element("css selector", "#claims .search").send_keys("esm2_8m seqs")
    shown = driver.execute_script("""
        const table = document.querySelector("#claims .search").parentElement.querySelector("tbody")
        return [...table.rows].filter(row => row.offsetHeight).map(row => row.textContent)
    """)
    assert 0 < len(shown) < 5 and all("esm2_8m" in text for text in shown)
