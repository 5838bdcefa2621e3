"""FLIP's files (Dallago et al. 2021): one zip a data set, with tables or with FASTA files of labels beside sequences.

Secondary structure takes some 0.3 s to read.
"""

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.data.fasta import Entry, read_fasta
from plmft.data.records import IGNORE, Record, Split
from plmft.data.source import column, read_bytes, read_rows, to_number


@dataclass(frozen=True)
class FlipFiles:
    """The members of a `splits.zip`, or of the same folder unzipped."""

    path: Path
    members: Mapping[str, Callable[[], bytes]]

    @classmethod
    def open(cls, path: Path) -> "FlipFiles":
        """Raises: InputError: the file is no zip."""
        try:
            archive = zipfile.ZipFile(io.BytesIO(read_bytes(path)))
        except zipfile.BadZipFile as error:
            raise InputError(f"{path}: the zip file is damaged or cut short ({error}). Get it again.") from None
        names = [n for n in archive.namelist() if not n.endswith("/") and not Path(n).name.startswith(".")]
        return cls(path, {Path(n).name: lambda n=n: archive.read(n) for n in names})

    def text(self, member: str) -> str:
        """Raises: InputError: there is no such member, it is damaged, or it is not UTF-8."""
        if member not in self.members:
            raise InputError(f"{self.path}: no {member} in it; it holds {', '.join(sorted(self.members))}.")
        try:
            return self.members[member]().decode("utf-8")
        except (zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: {member} is damaged ({error}). Get the file again.") from None

    def fasta(self, member: str) -> dict[str, Entry]:
        """Entries by id. Raises: InputError: an id twice, and as read_fasta and text."""
        entries: dict[str, Entry] = {}
        for entry in read_fasta(self.text(member), f"{self.path}, {member}"):
            if entry.id in entries:
                raise InputError(f"{entry.where}: id {entry.id!r} was used before, in {entries[entry.id].where}.")
            entries[entry.id] = entry
        return entries


def read_residue_labels(files: FlipFiles, labels: str, classes: Mapping[str, int], mask: str | None) -> list[Record]:
    """Records of `sequences.fasta` with the labels of another FASTA, and a third that masks some out.

    Args:
        labels: member with a letter a residue and `SET=` and `VALIDATION=` in the header.
        classes: class number of each letter.
        mask: member with 1 where a residue has a label and 0 where not.
    Raises: InputError: a label or mask whose length is not the sequence's, an unknown letter, one without a sequence.
    """
    sequences, labelled = files.fasta("sequences.fasta"), files.fasta(labels)
    masks = files.fasta(mask) if mask else {}
    return [
        Record(
            entry.id,
            sequence_of(entry, sequences).text,
            _targets(entry, sequence_of(entry, sequences), classes, masks.get(entry.id)),
            split_of(entry),
            entry.where,
        )
        for entry in labelled.values()
    ]


def sequence_of(entry: Entry, sequences: Mapping[str, Entry]) -> Entry:
    """Raises: InputError: there is none with the entry's id."""
    if entry.id not in sequences:
        raise InputError(f"{entry.where}: {entry.id!r} has labels but no sequence. Add it to the sequence file.")
    return sequences[entry.id]


def split_of(entry: Entry) -> Split:
    """From SET= and VALIDATION= of a header; see named_split."""
    return named_split(*(entry.attributes.get(key, "") for key in ("SET", "VALIDATION")), entry.where)


def named_split(chosen: str, validation: str, where: str) -> Split:
    """From train or test, and True, False or nothing. Raises: InputError: other words."""
    if chosen.lower() not in ("train", "test") or validation.lower() not in ("", "true", "false"):
        raise InputError(
            f"{where}: set {chosen!r}, validation {validation!r}. The set is train or test, validation True or False."
        )
    return "test" if chosen.lower() == "test" else "valid" if validation.lower() == "true" else "train"


def _targets(entry: Entry, sequence: Entry, classes: Mapping[str, int], mask: Entry | None) -> np.ndarray:
    for side, what in ((entry, "labels"), (mask, "mask values")):
        if side is not None and len(side.text) != len(sequence.text):
            raise InputError(
                f"{side.where}: {entry.id!r} has {len(sequence.text)} residues but {len(side.text)} {what}."
            )
    unknown = sorted(set(entry.text).difference(classes))
    if unknown:
        at = entry.text.index(unknown[0]) + 1
        raise InputError(f"{entry.where}: label {unknown[0]!r} at position {at}; known are {', '.join(classes)}.")
    target = np.array([classes[letter] for letter in entry.text], dtype=np.int64)
    if mask is not None:
        target[np.array(list(mask.text)) == "0"] = IGNORE
    return target


def read_regression_split(files: FlipFiles, member: str) -> list[Record]:
    """Records of a table with the columns sequence, target, set and validation.

    Raises: InputError: no such table, a column that is missing, a target that is no number, other words for a set.
    """
    records = []
    for where, number, row in read_rows(files.path / member, files.text(member)):
        sequence, target, chosen = (row[column(row, (name,), where)] for name in ("sequence", "target", "set"))
        split = named_split(chosen, row.get("validation", ""), where)
        records.append(Record(f"{member}-{number}", sequence, to_number(target, where), split, where))
    return records
