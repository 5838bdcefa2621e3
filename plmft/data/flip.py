"""FLIP's files (Dallago et al. 2021): one zip a data set, with tables or with FASTA files of labels beside sequences.

Secondary structure, 11,156 chains, takes some 0.5 s to read.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from plmft import InputError
from plmft.data.fasta import Entry, read_fasta
from plmft.data.records import Record, Split
from plmft.data.residue_labels import residue_targets
from plmft.data.source import column, read_bytes, read_rows, to_number


@dataclass(frozen=True)
class FlipFiles:
    """The members of a `splits.zip`, or of the same folder unzipped."""

    path: Path
    members: Mapping[str, Callable[[], bytes]]

    @classmethod
    def open(cls, path: Path) -> "FlipFiles":
        """The members of a zip file; of another file, what lies beside it. Raises: InputError: the zip is damaged."""
        if path.suffix != ".zip":
            files = [f for f in path.parent.iterdir() if f.is_file() and not f.name.startswith(".")]
            return cls(path.parent, {f.name: lambda f=f: read_bytes(f) for f in files})
        try:
            archive = zipfile.ZipFile(io.BytesIO(read_bytes(path)))
        except zipfile.BadZipFile as error:
            raise InputError(f"{path}: the zip file is damaged or cut short ({error}). Get it again.") from None
        names = [n for n in archive.namelist() if not n.endswith("/") and not Path(n).name.startswith(".")]
        return cls(path, {Path(n).name: lambda n=n: archive.read(n) for n in names})

    def text(self, member: str) -> str:
        """Raises: InputError: there is no such member, it is damaged, locked, or not UTF-8."""
        if member not in self.members:
            held = ", ".join(sorted(self.members)) or "no file"
            raise InputError(f"{self.path}: no {member} in it; it holds {held}.")
        try:
            return self.members[member]().decode("utf-8-sig")
        except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: {member} is damaged ({error}). Get the file again.") from None
        except (RuntimeError, NotImplementedError) as error:  # a password, a method of another program
            raise InputError(f"{self.path}: {member} can't be read ({error}). Unzip it into a folder splits.") from None

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
    Raises: InputError: labels without a sequence or a mask, and as residue_targets and split_of.
    """
    sequences, labelled = files.fasta("sequences.fasta"), files.fasta(labels)
    masks = files.fasta(mask) if mask else None
    return [_record(entry, sequence_of(entry, sequences), classes, masks) for entry in labelled.values()]


def _record(entry: Entry, sequence: Entry, classes: Mapping[str, int], masks: Mapping[str, Entry] | None) -> Record:
    named = f"{entry.where}: {entry.id!r}"
    if masks is not None and entry.id not in masks:
        raise InputError(f"{named} has no mask. Add it to the mask file, with 1 for each residue that has a label.")
    found = [(masks[entry.id].text, f"{masks[entry.id].where}: {entry.id!r}")] if masks is not None else []
    target = residue_targets(entry.text, len(sequence.text), classes, named, found)
    return Record(entry.id, sequence.text, target, split_of(entry), entry.where)


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
