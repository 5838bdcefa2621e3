"""The sections about benchmarks, disputes, claims, and the list of runs that everything links to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from plmft.page.blocks import Cell, Picture, Section, Sentence, Table
from plmft.page.claims import Beside
from plmft.page.disputes import NARROWED, OPEN, SETTLED, Verdict
from plmft.page.figures import figure
from plmft.page.runs import Benchmark, Found, Row
from plmft.page.task_sections import claims_table

FEW = 6  # rows of a table that need not be opened
WORDS = {SETTLED: "settled", NARROWED: "narrowed", OPEN: "open"}
MEASURED_SHOWN = 6
SIZES = {"length": "length ", "batch": "batch ", "tokens_per_batch": "tokens a pass ", "sequences": "sequences "}


@dataclass(frozen=True)
class Race:
    """Which rows of a protocol compare. alike: what they share. size: of which the largest is told."""

    figure: str
    unit: str
    alike: tuple[str, ...]
    size: str
    highest: bool = False


RACES = {
    "latency": Race("step_time_ms_p50", "ms", ("model", "device", "threads", "batch"), "length"),
    "throughput": Race(
        "residues_per_s", "residues/s", ("model", "device", "threads", "precision", "material", "sequences"),
        "tokens_per_batch", highest=True,
    ),
}  # fmt: skip


def benchmark_sections(benchmarks: Sequence[Benchmark]) -> Iterator[Section]:
    """One a protocol."""
    for protocol in sorted({run.protocol for run in benchmarks}):
        runs = [run for run in benchmarks if run.protocol == protocol]
        section = Section(f"protocol-{protocol}", protocol, level=3)
        section.blocks += list(_fastest(RACES[protocol], runs)) if protocol in RACES else []
        for run in runs:
            if run.rows:
                section.blocks += list(_rows(run))
            else:
                section.blocks.append(Sentence(f"{run.model}: this run kept no rows.", (run.run_id,), tone="gap"))
        yield section


def _fastest(race: Race, runs: Sequence[Benchmark]) -> Iterator[Sentence]:
    """Of rows that differ in how they compute alone, at the largest size: the fastest beside the slowest."""
    groups: dict[tuple, list[tuple[float, Row, str]]] = {}
    for run in runs:
        for row in ({"model": run.model, "device": run.device, **row} for row in run.rows):
            if isinstance(value := row.get(race.figure), float) and value > 0:
                groups.setdefault(tuple(map(row.get, race.alike)), []).append((value, row, run.run_id))
    for found in groups.values():
        largest = max(_number(row.get(race.size)) for _, row, _ in found)
        rows = [one for one in found if _number(one[1].get(race.size)) == largest]
        if len(rows) > 1:
            yield _extremes(race, sorted(rows, key=lambda one: one[0], reverse=race.highest))


def _extremes(race: Race, rows: Sequence[tuple[float, Row, str]]) -> Sentence:
    """Args: rows: the fastest first."""
    (fast, row, first), (slow, other, last) = rows[0], rows[-1]
    told = (*(name for name in race.alike if name in ("batch", "material", "sequences")), race.size)
    sizes = "".join(f", {SIZES.get(name, '')}{_cell(row[name]).text}" for name in told if name in row)
    return Sentence(
        f"{row['model']} on {row['device']}{sizes}: {_way(row)} is fastest with {figure(fast)} {race.unit}, "
        f"{_way(other)} slowest with {figure(slow)} {race.unit} ({max(fast, slow) / min(fast, slow):.1f}x).",
        tuple(dict.fromkeys((first, last))),
    )


def _way(row: Row) -> str:
    return " ".join(str(row[name]) for name in ("precision", "implementation", "batching", "variant") if row.get(name))


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return 0.0


def _rows(run: Benchmark) -> Iterator[Sentence | Table]:
    """What is the same in all rows as a sentence, the rest as a table, and each note once below it."""
    names = [name for name in dict.fromkeys(name for row in run.rows for name in row) if name != "note"]
    same = [name for name in names if len({str(row.get(name)) for row in run.rows}) == 1 and len(run.rows) > 1]
    told = ", ".join(f"{name.replace('_', ' ')} {_cell(run.rows[0][name]).text}" for name in same if name != "model")
    state = "" if run.status == "finished" else f" This run is {run.status}: it kept what it had measured."
    yield Sentence(f"{run.model}: {told or 'one row'}.{state}", (run.run_id,))
    notes = list(dict.fromkeys(str(row["note"]) for row in run.rows if row.get("note")))
    shown = [name for name in names if name not in same]
    rows = [[*(_cell(row.get(name)) for name in shown), _note(row, notes)] for row in run.rows]
    numeric = frozenset(i for i, name in enumerate(shown) if any(isinstance(row.get(name), float) for row in run.rows))
    heads = (*(name.replace("_", " ") for name in shown), "note")
    caption = "; ".join(f"note {number}: {note}" for number, note in enumerate(notes, 1))
    yield Table(heads, rows, numeric, caption, f"{len(run.rows)} rows" if len(run.rows) > FEW else "")


def _note(row: Row, notes: Sequence[str]) -> Cell:
    return Cell(str(1 + notes.index(str(row["note"]))) if row.get("note") else "")


def _cell(value: object) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(figure(value), order=value) if isinstance(value, float) else Cell(str(value))


def dispute_section(verdicts: Sequence[Verdict]) -> Section:
    """All disputes: state, what arithmetic says, what runs measured, and the command that would settle it."""
    counts = {state: sum(one.state == state for one in verdicts) for state in WORDS}
    section = Section("disputes", "Disputes in the literature", short="Disputes")
    section.blocks.append(Sentence(
        f"A review of the field contradicts itself or known facts in {len(verdicts)} places. {counts[SETTLED]} are "
        f"settled, {counts[NARROWED]} narrowed (some of the figures are ruled out, or were measured on other "
        f"hardware, or not all under the same conditions), {counts[OPEN]} open. Each has a command that measures what "
        f"is missing."
    ))  # fmt: skip
    for group in dict.fromkeys(one.dispute.group for one in verdicts):
        of_group = [one for one in verdicts if one.dispute.group == group]
        rows = [[one.dispute.id, _state(one), one.dispute.subject, _finding(one), _next(one)] for one in of_group]
        heads = ("id", "state", "in dispute", "what is known", "what settles it")
        done = sum(one.state == SETTLED for one in of_group)
        section.blocks.append(Table(heads, rows, folded=f"{group}: {done} of {len(of_group)} settled"))
    return section


def _state(one: Verdict) -> Cell:
    return Cell(WORDS[one.state], badge=one.state)


def _finding(one: Verdict) -> Cell:
    runs = tuple(dict.fromkeys(measured.run for measured in one.measured))
    shown = [f"{m.text}{' (other hardware)' if m.elsewhere else ''}" for m in one.measured[:MEASURED_SHOWN]]
    measured = f"Measured: {'; '.join(shown)}." if shown else ""
    return Cell(" ".join(filter(None, (measured, *one.found, one.dispute.evidence))), runs)


def _next(one: Verdict) -> Cell:
    if one.state == SETTLED and not one.missing:
        return Cell("", command=one.dispute.command)
    few = one.missing[:3]
    more = f" and {len(one.missing) - len(few)} more" if len(one.missing) > len(few) else ""
    return Cell(f"Not measured: {', '.join(few)}{more}." if few else "", command=one.dispute.command)


def claim_section(claims: Sequence[Beside]) -> Section:
    """All claims, those with a figure of ours first."""
    both = [one for one in claims if one.ours]
    section = Section("claims", "The review's claims", short="Claims")
    said = f"{len(claims)} figures of the review's tables as facts to test; {len(both)} stand beside a figure of ours"
    section.blocks.append(Sentence(f"{said}. Conditions that differ are named; a ratio across them is no verdict."))
    if both:
        section.blocks.append(
            claims_table(both, "" if len(both) <= FEW else f"Beside ours ({len(both)})", searchable=False)
        )
    section.blocks.append(claims_table(claims, f"All claims ({len(claims)})", searchable=True))
    return section


def picture_section(pictures: Sequence[Picture]) -> Section:
    """Embeddings as runs drew them."""
    return Section("pictures", "Embeddings", list(pictures), short="Embeddings")


def run_section(found: Found, links: Mapping[str, str]) -> Section:
    """Every run that the page names, with its id in full and how to do it again."""
    rows = []
    for run in found.scored:
        again = f"python -m plmft.train --from-run {run.run_id}" if run.kind == "training" else ""
        name = f"{run.model} {run.tuning}, seed {run.seed}" if run.seed else f"{run.model} {run.tuning}"
        rows.append([_run(run.run_id, links), _day(run.started_ms), run.kind, f"{run.task}: {name}", run.weights,
                     run.device, Cell("", command=again)])  # fmt: skip
    for run in found.benchmarks:
        said = f"{run.protocol}: {run.model}"
        rows.append([_run(run.run_id, links), _day(run.started_ms), "benchmark", said, run.weights, run.device, ""])
    heads = ("run", "started (UTC)", "kind", "what", "weights", "device", "again")
    return Section(
        "runs", "Runs", [Table(heads, rows, folded=f"All runs ({len(rows)})", searchable=True)], short="Runs"
    )


def _run(run_id: str, links: Mapping[str, str]) -> Cell:
    return Cell(run_id, badge="anchor", command=links.get(run_id, ""))


def _day(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")
