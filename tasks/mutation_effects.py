"""Effects of mutations in a deep mutational scan: scored by a language model as it is, or learned from folds.

Without other files it is the scan of TEM-1 beta-lactamase at 2,500 µg/mL ampicillin, 4,996 single mutants.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from plmft import InputError
from plmft.data.mutations import folds, read_scan, read_wild_type
from plmft.data.records import Record
from plmft.data.task import DataPlace, Loaded, Task
from plmft.data.tem1 import SOURCE, WILD_TYPE
from plmft.models.head_spec import SequenceHead, VariantScores

FOLDS = 5


def mutation_effects(
    scores: VariantScores,
    head: SequenceHead,
    split: Literal["zero_shot", "random", "modulo", "contiguous"],
    fold: Annotated[int, Ge(0), Lt(FOLDS)],
    file: str | None,
    wild_type: str | None,
    mutant: str,
    target: str | int,
    offset: int | None,
) -> Task:
    """A scan: `file` with the columns `mutant` and `target`, and `wild_type`, a FASTA with one sequence."""

    def read(place: DataPlace) -> Loaded:
        given = {"table": file, "wild_type": wild_type}
        own = {name: Path(path).expanduser() for name, path in given.items() if path is not None}
        if len(own) == 1:
            raise InputError("task.file and task.wild_type belong together. Set both, or neither for TEM-1's scan.")
        paths = own or SOURCE.paths(place)
        table, parent = paths["table"], WILD_TYPE
        if "wild_type" in paths:
            parent = read_wild_type(paths["wild_type"])
        records, note = read_scan(table, parent, mutant_column=mutant, target_column=str(target), offset=offset)
        if split == "zero_shot":
            return Loaded([replace(r, partner=parent) for r in records], str(table), notes=(note,))
        how = f"Fold {fold} of {FOLDS} ({split}) is the test, the next one the validation, the others train."
        return Loaded(list(_split(records, parent, split, fold)), str(table), notes=(note, how))

    zero_shot = split == "zero_shot"
    return Task(
        name="mutation_effects",
        kind="variant_scoring" if zero_shot else "sequence_regression",
        primary_metric="spearman",
        read=read,
        head=scores if zero_shot else head,
        unit=f"column {target}",
        needs=("test",) if zero_shot else ("train", "valid", "test"),
        citation="Stiffler et al. 2015, doi:10.1016/j.cell.2015.01.035; "
        "Meier et al. 2021, doi:10.1101/2021.07.09.450648",
        licence="MIT (repository of the table)",
    )


def _split(records: list[Record], parent: str, how: str, test: int) -> Iterator[Record]:
    for record, fold in zip(records, folds(records, parent, how, FOLDS, seed=0), strict=True):
        names = {test: "test", (test + 1) % FOLDS: "valid"}
        yield replace(record, split=names.get(fold, "train"))
