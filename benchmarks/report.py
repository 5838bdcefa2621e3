"""docs/benchmarks.md from the rows' records: generated, never edited by hand; what is said by hand is in notes.py."""

from pathlib import Path

from benchmarks.compare import Entry, Row
from benchmarks.notes import NOTES

TITLES = {
    "full": "Full tuning",
    "lora": "LoRA",
    "fluorescence": "Sequences of one length",
    "same_result": "The same result",
    "embedding": "Embedding",
    "frozen": "Frozen, with cached embeddings",
    "framework": "What the framework adds",
    "bound": "Share of the machine's bound",
    "startup": "Starting",
    "growth": "Growth with the data",
}
HEAD = """# Benchmarks

<!-- Written by `python -m benchmarks.peers`; `--report` writes it anew with the notes of benchmarks/notes.py. -->

Both sides in one run on one machine, in turns; medians over rounds, in brackets the lowest and the highest round.
Weights are random (speed does not depend on them), drawn once and loaded by every side. A training step is timed from
the end of one to the end of the next, loader included, after {warmup} step of warm-up, in residues (no special tokens,
no padding).
plmft is the whole command with its defaults (Lightning, meters, MLflow, progress bar); the Trainer is as its
documentation has it, with bf16 and batches of 8; both optimise by AdamW with linear decay and clipping.
"""


def page(rows: list[Row], about: dict[str, str]) -> str:
    """The whole page, in Markdown."""
    parts = [HEAD.format(warmup=about["warm-up steps"]), _about(about), *_runs(rows), _table(rows)]
    parts += [_section(row) for row in rows]
    return "\n".join(parts).rstrip() + "\n"


def write(file: Path, rows: list[Row], about: dict[str, str]) -> None:
    """Write the page at once or not at all."""
    part = file.with_suffix(".part")
    part.write_text(page(rows, about))
    part.replace(file)


def _about(about: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in about.items()]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _runs(rows: list[Row]) -> list[str]:
    """Rows that were measured again are not of one run with the others, which must be told."""
    runs = sorted({row.run for row in rows if row.run})
    if len(runs) < 2:
        return []
    named = [f"{', '.join(TITLES[r.name].lower() for r in rows if r.run == run)} in the run of {run}" for run in runs]
    return [f"Measured in {len(runs)} runs: {'; '.join(named)}.\n"]


def _table(rows: list[Row]) -> str:
    """Lines that have a goal; the rest stands in the sections."""
    lines = ["| measure | model | plmft | peer | came to | goal | reached |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        if row.error is not None:
            lines.append(f"| {TITLES[row.name]} | | | | not measured: {_cell(row.error)} | | no |")
        lines += [_line(entry) + f" {entry.goal} | {_verdict(entry)} |" for entry in row.entries if entry.goal]
    return "\n".join(["## Goals", "", *lines, ""])


def _section(row: Row) -> str:
    lines = [f"## {TITLES[row.name]}", ""]
    if row.error is not None:
        lines += [f"Not measured: {row.error}", ""]
    compared = [entry for entry in row.entries if not entry.goal]
    if compared:
        lines += ["| for comparison | model | plmft | peer | came to |", "|---|---|---|---|---|"]
        lines += [*map(_line, compared), ""]
    missed = [f"{e.measure}, {e.model}: {_shown(e, e.value)}, goal {e.goal}" for e in row.entries if e.reached is False]
    if missed:
        lines += [f"Not reached: {'; '.join(missed)}.", ""]
    lines += [text + "\n" for text in row.text]
    if row.name in NOTES:
        lines += [NOTES[row.name].strip(), ""]
    if row.finished:
        lines += [f"Measured {row.finished}, in {row.seconds:.0f} s.", ""]
    return "\n".join(lines)


def _line(entry: Entry) -> str:
    spread = f" ({_shown(entry, entry.low)} to {_shown(entry, entry.high)})" if entry.low != entry.high else ""
    cells = (entry.measure, entry.model, entry.plmft, entry.peer, f"**{_shown(entry, entry.value)}**{spread}")
    return f"| {' | '.join(map(_cell, cells))} |"


def _shown(entry: Entry, value: float) -> str:
    if entry.unit == "%":
        return f"{value:.1%}"
    if entry.unit == "difference":
        return f"{value:+.4f}"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{text}×" if entry.unit == "×" else f"{text} {entry.unit}"


def _verdict(entry: Entry) -> str:
    return "yes" if entry.reached else "no"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def lines(row: Row) -> list[str]:
    """What the terminal is told of a row."""
    if row.error is not None:
        return [f"  failed: {row.error}"]
    told = []
    for entry in row.entries:
        goal = f"  goal {entry.goal}: {_verdict(entry)}" if entry.goal else ""
        told.append(
            f"  {entry.measure} {entry.model}: {_shown(entry, entry.value)} "
            f"({_shown(entry, entry.low)} to {_shown(entry, entry.high)}) "
            f"{entry.plmft}{' | ' if entry.peer else ''}{entry.peer}{goal}"
        )
    return told
