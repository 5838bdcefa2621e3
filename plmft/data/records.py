"""Records: one protein with its target, checked before anything else happens.

Every rule is checked for every record; the first offence ends the run with file, row and value. About 2 µs a record.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from plmft import InputError

Kind = Literal["sequence_regression", "residue_classification"]
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
IGNORE = -100  # the class number of a residue without a label
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = frozenset(AMINO_ACIDS + "XBZUOJ")  # and IUPAC's codes for unknown, ambiguous and rare residues


@dataclass(frozen=True, slots=True)
class Record:
    """One protein with its target.

    `target` is a float (regression) or an (L,) int64 array of class numbers with IGNORE where there is none.
    `where` names file and row, for messages.
    """

    id: str
    sequence: str
    target: Any
    split: Split
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class DataSet:
    """Checked records by split, in an order that does not depend on the file they came from.

    `shared_sequences` counts sequences that occur in two splits, by pair ("train/test"): reported, not refused.
    `cropped` counts records cut to the model's context, by split.
    """

    name: str
    splits: dict[Split, tuple[Record, ...]]
    digest: str
    source: str
    shared_sequences: dict[str, int]
    cropped: dict[Split, int] = field(default_factory=dict)
    subset: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Records by split."""
        return {split: len(records) for split, records in self.splits.items()}


def build_dataset(name: str, kind: Kind, records: Iterable[Record], *, source: str, n_classes: int = 0) -> DataSet:
    """Check all records and group them by split.

    Raises: InputError: a letter that is no amino acid, an empty sequence, a target that is missing, not finite or not
        of the sequence's length, an id used twice, a split without records.
    """
    seen: dict[str, Record] = {}
    for record in records:
        _check_sequence(record)
        _check_target(record, kind, n_classes)
        if record.id in seen:
            first = seen[record.id]
            across = f" ({first.split} and {record.split})" if first.split != record.split else ""
            raise InputError(
                f"{record.where}: id {record.id!r} was used before{across}, in {first.where}. Ids must be unique."
            )
        seen[record.id] = record
    splits: dict[Split, tuple[Record, ...]] = {
        split: tuple(sorted((r for r in seen.values() if r.split == split), key=_canonical)) for split in SPLITS
    }
    for split, members in splits.items():
        if not members:
            raise InputError(f"{source}: no records in the {split} split. All of {', '.join(SPLITS)} are needed.")
    return DataSet(name, splits, _digest(splits), source, _shared_sequences(splits))


def limit(dataset: DataSet, limits: dict[Split, int | None], seed: int) -> DataSet:
    """Keep the first N records of a split after a seeded shuffle; a set that lost records is marked as a subset."""
    splits = {}
    for number, (split, records) in enumerate(dataset.splits.items()):
        wanted = limits.get(split)
        if wanted is not None and wanted < len(records):
            chosen = np.random.default_rng([seed, number]).permutation(len(records))[:wanted]
            records = tuple(records[i] for i in chosen)
        splits[split] = records
    if splits == dataset.splits:
        return dataset
    return replace(dataset, splits=splits, digest=_digest(splits), subset=True)


def fit_to_context(dataset: DataSet, context: int | None, policy: Literal["refuse", "crop"], model: str) -> DataSet:
    """Apply the length policy: refuse sequences longer than the model's context, or keep their first residues.

    Raises: InputError: policy is refuse and a sequence is too long.
    """
    if context is None:
        return dataset
    long = {s: sum(len(r.sequence) > context for r in records) for s, records in dataset.splits.items()}
    if not any(long.values()):
        return dataset
    if policy == "refuse":
        worst = max((r for records in dataset.splits.values() for r in records), key=lambda r: len(r.sequence))
        raise InputError(
            f"{worst.where}: {worst.id} has {len(worst.sequence)} residues, but {model} takes {context}; "
            f"{sum(long.values())} sequences are too long ({', '.join(f'{s} {n}' for s, n in long.items())}). "
            "Set data.length_policy=crop to keep their first residues, or choose a model with a longer context."
        )
    splits = {s: tuple(_crop(r, context) for r in records) for s, records in dataset.splits.items()}
    return replace(dataset, splits=splits, digest=_digest(splits), cropped={s: n for s, n in long.items() if n})


def _crop(record: Record, context: int) -> Record:
    if len(record.sequence) <= context:
        return record
    target = record.target[:context] if isinstance(record.target, np.ndarray) else record.target
    return replace(record, sequence=record.sequence[:context], target=target)


def _check_sequence(record: Record) -> None:
    if not isinstance(record.sequence, str) or not record.sequence:
        raise InputError(f"{record.where}: the sequence of {record.id!r} is empty. Remove the row or fill it in.")
    if LETTERS.issuperset(record.sequence):
        return
    position, letter = next((i, c) for i, c in enumerate(record.sequence, 1) if c not in LETTERS)
    hint = " Write sequences in upper case." if letter.upper() in LETTERS else ""
    raise InputError(
        f"{record.where}: {letter!r} at position {position} of {record.id!r} is not an amino acid. "
        f"Allowed: {''.join(sorted(LETTERS))}.{hint}"
    )


def _check_target(record: Record, kind: Kind, n_classes: int) -> None:
    target = record.target
    if kind == "sequence_regression":
        if isinstance(target, bool) or not isinstance(target, int | float):
            raise InputError(f"{record.where}: the target of {record.id!r} is {target!r}, not a number.")
        if not np.isfinite(target):
            raise InputError(f"{record.where}: the target of {record.id!r} is {target}. It must be finite.")
        return
    if len(target) != len(record.sequence):
        raise InputError(
            f"{record.where}: {record.id!r} has {len(record.sequence)} residues but {len(target)} labels. "
            "Every residue needs one label (or the mark for no label)."
        )
    wrong = (target != IGNORE) & ((target < 0) | (target >= n_classes))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise InputError(f"{record.where}: class {target[at]} at position {at + 1} of {record.id!r} is not known.")


def _canonical(record: Record) -> tuple[str, str, str]:
    return (record.sequence, _target_text(record.target), record.id)


def _target_text(target: float | np.ndarray) -> str:
    return target.tobytes().hex() if isinstance(target, np.ndarray) else repr(target)


def _digest(splits: dict[Split, Sequence[Record]]) -> str:
    """SHA-256 over the sorted (split, sequence, target) lines: the same for any file the records came in."""
    digest = hashlib.sha256()
    for split, records in splits.items():
        for line in sorted(f"{split}\t{r.sequence}\t{_target_text(r.target)}\n" for r in records):
            digest.update(line.encode())
    return digest.hexdigest()


def _shared_sequences(splits: dict[Split, Sequence[Record]]) -> dict[str, int]:
    sets = {split: {r.sequence for r in records} for split, records in splits.items()}
    pairs = (("train", "valid"), ("train", "test"), ("valid", "test"))
    return {f"{a}/{b}": len(sets[a] & sets[b]) for a, b in pairs}
