"""Make the page: read the store, compare, judge, and write HTML and Markdown.

Costs MLflow's import, 2 to 4 ms a run, a download of each run's predictions, and 1,000 evaluations of the metric a run.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from plmft import InputError
from plmft.data.whole_file import write_whole
from plmft.page.blocks import Chooser, Fold, Picture, Section, Sentence, Tiles
from plmft.page.claims import Beside, beside
from plmft.page.configurations import Contest, contests
from plmft.page.disputes import SETTLED, Verdict, judge
from plmft.page.evaluations import without_rescores
from plmft.page.guide import guide
from plmft.page.html import NO_PLOTLY, to_html
from plmft.page.markdown import to_markdown
from plmft.page.model_costs import cost_per_model
from plmft.page.other_sections import (
    benchmark_sections,
    claim_section,
    dispute_section,
    picture_section,
    run_section,
)
from plmft.page.runs import Found, artifact_names, fetch, read_runs
from plmft.page.task_sections import chooser_data, task_sections, title_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PREDICTIONS = "predictions.parquet"
LOOKED_AT = 4096  # bytes of a file, which hold the title of a page
TITLE = "What to fine-tune, and what it costs"
FIRST = (
    "python -m plmft.train experiment=quickstart",
    "python -m plmft.train --multirun task=fluorescence model=onehot_cnn,esm2_8m tuning=frozen,lora,full seed=0,1,2",
    "python -m plmft.benchmark protocol=latency model=esm2_8m",
)


def write_page(output: Path, client: "MlflowClient | None", uri: str, task: str | None) -> tuple[list[Path], Found]:
    """Write `output` (.html with .md beside it, or .md alone).

    Args: client: None: there is no store yet; the page then says what to run. task: of this task alone.
    Returns: the files written, and what was found.
    Raises: InputError: no such task, or the place cannot be written.
    """
    check_output(output)
    found = Found() if client is None else read_runs(client, uri, task)
    if task is not None and not found.scored:
        known = ", ".join(sorted({run.task for run in read_runs(client, uri).scored})) if client else ""
        raise InputError(f"--task {task}: there is no finished run of it. Tasks with runs: {known or 'none'}.")
    with tempfile.TemporaryDirectory() as scratch:
        predictions, pictures = _artifacts(client, found, Path(scratch))
        found.scored = without_rescores(found.scored, predictions)
        sections = list(_sections(found, contests(found.scored, predictions), pictures, _links(found, uri)))
    return _written(output, _subtitle(found, uri), sections), found


def check_output(output: Path) -> None:
    """Before anything is read. Raises: InputError: a wrong name, another file of that name, or no Plotly."""
    if output.suffix not in (".html", ".md"):
        raise InputError(f"--output {output}: give a name that ends in .html (Markdown is written beside it) or .md.")
    if output.is_dir():
        raise InputError(f"--output {output}: is a folder. Give the name of a file.")
    if output.suffix == ".html" and find_spec("plotly") is None:
        raise InputError(NO_PLOTLY)
    for file in dict.fromkeys((output, output.with_suffix(".md"))):
        if file.exists() and not _is_page(file):
            raise InputError(f"--output {output}: {file} is there already, and is no such page. Choose another name.")


def _is_page(file: Path) -> bool:
    """Whether an earlier report left it, which a new one replaces."""
    try:
        with file.open("rb") as opened:
            return TITLE.encode() in opened.read(LOOKED_AT)
    except OSError:
        return False


def _written(output: Path, subtitle: str, sections: Sequence[Section]) -> list[Path]:
    texts = {output.with_suffix(".md"): to_markdown(TITLE, subtitle, sections)}
    if output.suffix == ".html":
        texts = {output: to_html(TITLE, subtitle, sections)} | texts
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            write_whole(file, text.encode())
    except OSError as error:
        raise InputError(f"--output {output}: cannot write there ({error.strerror or error}).") from error
    return list(texts)


def _artifacts(client: "MlflowClient | None", found: Found, scratch: Path) -> tuple[dict[str, Path], list[Picture]]:
    """Predictions by run, and pictures of embeddings."""
    predictions, pictures = {}, []
    for run in [*found.scored, *found.benchmarks]:
        names = artifact_names(client, run.run_id)
        drawn = [name for name in names if Path(name).name.startswith("embedding") and name.endswith(".png")]
        files = fetch(client, run.run_id, [*drawn, *(name for name in names if name == PREDICTIONS)], scratch)
        if PREDICTIONS in files:
            predictions[run.run_id] = files.pop(PREDICTIONS)
        for name, file in files.items():
            pictures.append(Picture(Path(name).stem.replace("_", " "), file.read_bytes(), run.run_id))
    return predictions, pictures


def _links(found: Found, uri: str) -> dict[str, str]:
    """Run id to its page in MLflow, where the store is a server."""
    if not uri.startswith(("http://", "https://")):
        return {}
    from plmft.tracking.lineage import mask

    address = mask(uri).rstrip("/")
    return {
        run.run_id: f"{address}/#/experiments/{run.experiment}/runs/{run.run_id}"
        for run in [*found.scored, *found.benchmarks]
    }


def _subtitle(found: Found, uri: str) -> str:
    from plmft.tracking.lineage import mask

    left = f"; unfinished runs left out: {found.unfinished:,}" if found.unfinished else ""
    return f"From {mask(uri)}{left}. Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by python -m plmft.report."


def _sections(
    found: Found, compared: Sequence[Contest], pictures: Sequence[Picture], links: Mapping[str, str]
) -> Iterator[Section]:
    verdicts, claims = judge(found), beside(found)
    yield _guide(found, compared, verdicts, claims)
    if compared:
        yield Section("tasks", "Accuracy against cost", short="Tasks")
        yield from task_sections(compared, claims)
    if found.benchmarks:
        costs = cost_per_model(found.benchmarks)
        yield Section("benchmarks", "Cost per model", [costs] if costs else [], short="Benchmarks")
        yield from benchmark_sections(found.benchmarks)
    if pictures:
        yield picture_section(pictures)
    yield dispute_section(verdicts)
    yield claim_section(claims)
    if not found.empty:
        yield run_section(found, links)
    yield _method()


def _guide(found: Found, compared: Sequence[Contest], verdicts: Sequence[Verdict], claims: Sequence[Beside]) -> Section:
    section = Section("guide", "What to take", short="Guide")
    settled = sum(one.state == SETTLED for one in verdicts)
    section.blocks.append(Tiles((
        (f"{len(found.scored):,}", "finished runs"),
        (f"{len({run.task for run in found.scored})}", "tasks"),
        (f"{len({run.model for run in [*found.scored, *found.benchmarks]})}", "models"),
        (f"{len(found.benchmarks):,}", "benchmark runs"),
        (f"{settled} of {len(verdicts)}", "disputes settled"),
        (f"{sum(one.ours is not None for one in claims)} of {len(claims)}", "claims beside ours"),
    )))  # fmt: skip
    if not compared:
        told = "There is no finished run to decide from" + (", only benchmarks" if found.benchmarks else "")
        section.blocks.append(Sentence(f"{told}. Begin with one of these, then make the page again.", tone="warning"))
        section.blocks += [Sentence("", command=command) for command in FIRST]
        return section
    section.blocks.append(Chooser([chooser_data(one, title_of(one, compared)) for one in compared]))
    said = {contest.key: guide(contest) for contest in compared}
    common = _common([[one for one in sentences if one.tone == "gap"] for sentences in said.values()])
    for contest in compared:
        section.blocks.append(Sentence(title_of(contest, compared), tone="heading"))
        section.blocks += [one for one in said[contest.key] if one.tone != "gap"]
        gaps = tuple(one for one in said[contest.key] if one.tone == "gap" and one.text not in common)
        if gaps:
            section.blocks.append(Fold(f"What these runs do not answer ({len(gaps)})", gaps))
    if common:
        section.blocks.append(Sentence("What no run here answers", tone="heading"))
        section.blocks += common.values()
    return section


def _common(gaps: Sequence[Sequence[Sentence]]) -> dict[str, Sentence]:
    """What is missing everywhere is said once; the runs and the command are those of the first."""
    if len(gaps) < 2:
        return {}
    everywhere = set.intersection(*({one.text for one in some} for some in gaps))
    return {one.text: one for one in gaps[0] if one.text in everywhere}


def _method() -> Section:
    texts = (
        "Take: of the configurations within the limits, the best on the test set; of those that the test set cannot "
        "tell from it (two-sided p of at least 0.05), the one that trains fastest on the same device.",
        "p: 1,000 paired resamples of the test records, the same for all runs; a draw among seeds where there are "
        "several; where none of them crosses zero, that of a normal difference of their mean and deviation; Holm's "
        "correction over the comparisons with the best. With one seed, scatter between seeds is not in it. Where "
        "predictions are not kept, p comes from the two intervals as if they were independent, and the table says so.",
        "Repeats: runs that differ in their seed alone are one configuration: mean ± standard deviation, and the means "
        "of the ends of their intervals; of one seed run twice, the newest counts. Configurations compare on the same "
        "test records alone, by their ids and measured values.",
        "Costs are measured by the run itself. What a machine cannot measure is a dash, never zero. Time, energy and "
        "money of frozen tuning hold the phase that embeds, memory is the higher of both; they are not known of a run "
        "that read embeddings which an earlier run had computed. Costs of two devices are not held against each other.",
        "Random weights are named as such, and are in no front and no choice where pretrained ones are there.",
        "Published values and the review's claims are named as such and are never mixed with measurements.",
    )
    return Section("method", "How this is computed", [Sentence(text) for text in texts], short="Method")
