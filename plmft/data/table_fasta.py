"""FASTA as a sheet: the header's `KEY=VALUE` words are columns; labels and masks of residues may be files beside it."""

from pathlib import Path

from plmft import InputError
from plmft.data.fasta import Entry, read_fasta
from plmft.data.table_sheet import Row, Sheet, by_id, load
from plmft.data.table_text import decode

ID, SEQUENCE, LABELS, MASK = "id", "sequence", "labels", "mask"


def fasta_sheet(text: str, path: Path, notes: list[str]) -> Sheet:
    """Columns id, sequence and each key of the headers, in upper case; a key that an entry lacks is an empty cell.

    Raises: InputError: as read_fasta.
    """
    entries = list(read_fasta(text, str(path)))
    keys = _keys(entries)
    rows = [
        Row(e.where, n, (e.id, e.text, *(e.attributes.get(key, "") for key in keys))) for n, e in enumerate(entries, 1)
    ]
    return Sheet(path, (ID, SEQUENCE, *keys), rows, tuple(notes), fasta=True)


def with_labels(sequences: Sheet, labels: Path, mask: Path | None) -> Sheet:
    """The sheet of a FASTA's entries that have labels in a second one, which also tells the splits.

    Args: mask: a third FASTA, with 1 where a residue has a label and 0 where not.
    Returns: columns id, sequence, labels, mask (if there is one) and the keys of the label file's headers.
    Raises: InputError: labels without a sequence or a mask, an id twice, a mask of another length or of other digits.
    """
    known = by_id((row.cells[0], row.where, row) for row in sequences.rows)
    labelled = _entries(labels)
    masks = _entries(mask) if mask else {}
    keys = _keys(list(labelled.values()))
    rows = []
    for number, entry in enumerate(labelled.values(), 1):
        if entry.id not in known:
            raise InputError(f"{entry.where}: {entry.id!r} has labels but no sequence in {sequences.path}. Add it.")
        sequence = known[entry.id].cells[1]
        extra = (_mask(entry, sequence, masks, mask),) if mask else ()
        values = (entry.attributes.get(key, "") for key in keys)
        rows.append(Row(entry.where, number, (entry.id, sequence, entry.text, *extra, *values)))
    notes = list(sequences.notes)
    without = len(known.keys() - labelled.keys())
    if without:
        notes.append(f"{sequences.path.name}: {without:,} sequences have no labels in {labels.name}: left out.")
    columns = (ID, SEQUENCE, LABELS, *((MASK,) if mask else ()), *keys)
    return Sheet(labels, columns, rows, tuple(notes), fasta=True)


def _mask(entry: Entry, sequence: str, masks: dict[str, Entry], path: Path | None) -> str:
    if entry.id not in masks:
        raise InputError(f"{entry.where}: {entry.id!r} has no mask in {path}. Add it, with 1 for each residue.")
    mask = masks[entry.id]
    check_mask(mask.text, len(sequence), f"{mask.where}: {entry.id!r}")
    return mask.text


def check_mask(text: str, residues: int, named: str) -> None:
    """Raises: InputError: another length than the sequence's, or something else than 0 and 1."""
    if len(text) != residues:
        raise InputError(f"{named} has {residues} residues but {len(text)} mask values. Give each residue a 1 or a 0.")
    wrong = next(((i, c) for i, c in enumerate(text, 1) if c not in "01"), None)
    if wrong:
        raise InputError(f"{named} has the mask value {wrong[1]!r} at position {wrong[0]}. Write 1 (label) or 0.")


def _entries(path: Path) -> dict[str, Entry]:
    text, _ = decode(load(path), path)
    if not text.lstrip().startswith(">"):
        raise InputError(f"{path}: not FASTA, which begins with '>'. Labels and masks beside a FASTA are FASTA too.")
    return by_id((entry.id, entry.where, entry) for entry in read_fasta(text, str(path)))


def _keys(entries: list[Entry]) -> tuple[str, ...]:
    """In the order in which they first stand."""
    return tuple(dict.fromkeys(key for entry in entries for key in entry.attributes))
