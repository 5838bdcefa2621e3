"""Where the review contradicts itself, and what settles each dispute: arithmetic, facts, or cells that runs must fill.

disputes.csv has one line a dispute. `check` names functions of plmft.page.arithmetic; `check_settles` says whether
that, or the evidence alone, ends the matter. `select` names cells that must be measured:

    rows protocol=latency/throughput model=esm2_650m batch=1,8 length=512 device=A100 show=inference_seqs_per_s
    runs task=fluorescence model=protbert tuning=frozen,full whole pretrained show=spearman

Of values parted by `,` each is needed, of those parted by `/` any will do; `*` stands for any text. Rows on another
device than `device` narrow a dispute and do not settle it. Which of two is faster or larger is told by rows that agree
in all that `same` names, as same=device,threads,precision; what neither has counts as agreed. Speed and memory do not
hang on the weights' values, so rows on random weights count; accuracies of pretrained models need `pretrained`, all
records need `whole`.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from plmft.page.arithmetic import computed
from plmft.page.claims import QUANTITIES, conditions_of
from plmft.page.figures import figure, score
from plmft.page.runs import Found

TABLE = Path(__file__).with_name("disputes.csv")
SETTLED, NARROWED, OPEN = "settled", "narrowed", "open"
RATES = ("per_s", "per_day", "efficiency", "throughput")


@dataclass(frozen=True)
class Dispute:
    """A line of disputes.csv. tables: of the review. command: what would settle it."""

    id: str
    group: str
    subject: str
    tables: str
    protocol: str
    command: str
    check: str
    check_settles: bool
    select: str
    evidence: str


@dataclass(frozen=True)
class Measured:
    """A cell that runs have filled, as text.

    Args: elsewhere: on another device than the one in dispute. alike: its values of what must be the same in all cells.
    """

    text: str
    run: str
    elsewhere: bool = False
    alike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Where a dispute stands. found: sentences of arithmetic. missing: cells that no run has filled."""

    dispute: Dispute
    state: str
    found: tuple[str, ...]
    measured: tuple[Measured, ...]
    missing: tuple[str, ...]


@cache
def load() -> tuple[Dispute, ...]:
    """All disputes."""
    with TABLE.open(newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    return tuple(Dispute(**(line | {"check_settles": line["check_settles"] == "yes"})) for line in lines)


def judge(found: Found) -> list[Verdict]:
    """Every dispute, by these runs."""
    return [_verdict(dispute, found) for dispute in load()]


def _verdict(dispute: Dispute, found: Found) -> Verdict:
    sentences = tuple(computed(dispute.check))
    measured, missing = [], []
    for selector in filter(None, (part.strip() for part in dispute.select.split(" ; "))):
        wanted = list(cells(selector))
        options = [list(_of_runs(cell, found) if cell.kind == "runs" else _of_rows(cell, found)) for cell in wanted]
        filled = [_chosen(cell, fitting) for cell, fitting in zip(wanted, _together(options), strict=True)]
        measured += [one for one in filled if one]
        absent = [cell.text for cell, one in zip(wanted, filled, strict=True) if not one]
        alike = f" (in rows of equal {', '.join(wanted[0].same)})" if wanted[0].same else ""
        missing += [*absent[:-1], *(text + alike for text in absent[-1:])]
    here = bool(measured) and not missing and not any(one.elsewhere for one in measured)
    if dispute.check_settles or here:
        state = SETTLED
    else:
        state = NARROWED if measured or _rules_out(dispute, sentences) else OPEN
    return Verdict(dispute, state, sentences, tuple(measured), tuple(missing))


def _rules_out(dispute: Dispute, sentences: Sequence[str]) -> bool:
    """Whether arithmetic leaves fewer of the figures standing."""
    lists = dispute.check.startswith(("above_peak", "below_floor"))
    ruled = any("Impossible:" in text or "; below the floor" in text for text in sentences)
    return ruled if lists else bool(sentences) and not dispute.check.startswith("batch_hides")


@dataclass(frozen=True)
class Cell:
    """One combination that must be measured.

    Args: wanted: name to the values of which any will do. same: what must agree with the selector's other cells.
    """

    kind: str
    wanted: tuple[tuple[str, tuple[str, ...]], ...]
    flags: frozenset[str]
    device: str
    show: str
    same: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is missing, in words."""
        sizes = {"batch": "batch ", "length": "L ", "devices": "devices "}
        words = [
            sizes.get(name, "") + " or ".join(value.strip("*") for value in values)
            for name, values in self.wanted
            if name != "protocol"
        ]
        words += [f"on {self.device}"] if self.device else []
        return " ".join(words) or dict(self.wanted)["protocol"][0]


def cells(selector: str) -> Iterator[Cell]:
    """Each combination of values that a selector asks for."""
    kind, *words = selector.split()
    pairs = [word.partition("=") for word in words if "=" in word]
    options = {name: [tuple(one.split("/")) for one in values.split(",")] for name, _, values in pairs}
    device, show = (options.pop(name, [("",)])[0][0] for name in ("device", "show"))
    same = tuple(name for (name,) in options.pop("same", []))
    flags = frozenset(word for word in words if "=" not in word)
    for combination in itertools.product(*options.values()):
        yield Cell(kind, tuple(zip(options, combination, strict=True)), flags, device, show, same)


Option = tuple[float, Measured]


def _together(options: Sequence[Sequence[Option]]) -> list[list[Option]]:
    """Of each cell those that are alike: of the kind that fills most cells, on the device in dispute if it can be."""
    kinds = dict.fromkeys(one.alike for fitting in options for _, one in reversed(fitting))  # the newest first
    sorted_out = [[[pair for pair in fitting if pair[1].alike == kind] for fitting in options] for kind in kinds]

    def worth(kept: list[list[Option]]) -> tuple[int, bool]:
        return sum(map(bool, kept)), any(not one.elsewhere for fitting in kept for _, one in fitting)

    return max(sorted_out, key=worth, default=[[] for _ in options])


def _chosen(cell: Cell, options: Sequence[Option]) -> Measured | None:
    if not options:
        return None
    here = [pair for pair in options if not pair[1].elsewhere] or options
    highest = cell.kind == "runs" or any(word in cell.show for word in RATES)
    return max(here, key=lambda pair: pair[0] if highest else -pair[0])[1]


def _of_runs(cell: Cell, found: Found) -> Iterator[Option]:
    for run in found.scored:
        value = run.metrics.get(f"test/{cell.show}")
        fits = all(any(fnmatchcase(getattr(run, name), v) for v in values) for name, values in cell.wanted)
        kept_out = ("whole" in cell.flags and run.subset) or ("pretrained" in cell.flags and run.is_random)
        if fits and value is not None and not kept_out:
            yield value, Measured(f"{run.model} {run.tuning}, {run.task}: {cell.show} {score(value)}", run.run_id)


def _of_rows(cell: Cell, found: Found) -> Iterator[Option]:
    read = QUANTITIES[cell.show][1] if cell.show in QUANTITIES else lambda row: row.get(cell.show)
    for run in found.benchmarks:
        for row in run.rows:
            known = {"protocol": run.protocol, "model": run.model, "device": run.device, **row}
            value = read(known)
            if value is None or not all(_is(known.get(name), values) for name, values in cell.wanted):
                continue
            elsewhere = bool(cell.device) and cell.device.lower() not in str(known["device"]).lower()
            said = value if isinstance(value, str) else figure(value)
            text = f"{known['model']}, {conditions_of(known)}: {cell.show.replace('_', ' ')} {said}"
            alike = tuple(str(known.get(name, "")) for name in cell.same)
            yield (value if isinstance(value, float) else 0.0), Measured(text, run.run_id, elsewhere, alike)


def _is(value: object, wanted: Sequence[str]) -> bool:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return any(fnmatchcase(text.lower(), pattern.lower()) for pattern in wanted)
