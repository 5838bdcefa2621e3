"""NetSurfP-2.0's chains (Klausen et al. 2019) as CSV, as ProtTrans published them (Elnaggar et al. 2022).

Columns input, dssp3, dssp8, disorder and cb513_mask, where letters may stand apart and values of a mask do. NetSurfP
defines disorder as 1 where the structure is resolved, and the last mask for CB513 alone. Some 1 s for 10,848 chains.
"""

from collections.abc import Iterator
from pathlib import Path

from plmft.data.records import Record, Split
from plmft.data.residue_labels import residue_targets
from plmft.data.source import column, read_rows

STATES = {3: ("H", "E", "C"), 8: ("G", "H", "I", "B", "E", "S", "T", "C")}


def _names(*stems: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems for ending in (".csv", ".csv.gz"))


TRAIN = _names("training_hhblits", "Train_HHblits")
CB513, NEW364 = _names("CB513", "CB513_HHblits"), _names("NEW364")
FURTHER = {"test_ts115": _names("TS115", "TS115_HHblits"), "test_casp12": _names("CASP12", "CASP12_HHblits")}


def read_netsurfp(path: Path, split: Split, states: int) -> Iterator[Record]:
    """Records of one file, in 3 or 8 states. Ids are made from split and row, for the file has none.

    Raises: InputError: a column that is missing, labels or masks of another length than the sequence, an unknown
        letter, and as read_rows.
    """
    numbers = {letter: number for number, letter in enumerate(STATES[states])}
    masks = ("disorder", "cb513_mask") if path.name.startswith("CB513") else ("disorder",)
    for where, number, raw in read_rows(path):
        row = {str(name).strip(): str(value) for name, value in raw.items()}  # ProtTrans writes ' dssp3'
        texts = {name: row[column(row, (name,), where)].split() for name in ("input", f"dssp{states}", *masks)}
        sequence, labels = ("".join(texts[name]) for name in ("input", f"dssp{states}"))
        values = [(texts[name], f"{where}: column {name!r}") for name in masks]
        target = residue_targets(labels, len(sequence), numbers, f"{where}: column 'dssp{states}'", values)
        yield Record(f"{split}-{number}", sequence, target, split, where)
