"""Records: one protein with its target, checked before anything else happens.

Every rule is checked for every record; the first offence ends the run with file, row and value. About 2 µs a record.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

import numpy as np

from plmft import InputError

Kind = Literal[
    "sequence_regression",
    "sequence_classification",
    "sequence_multilabel",
    "residue_classification",
    "contacts",
    "pair_classification",
    "variant_scoring",
    "masked_lm",
]
Split = str  # train, valid, test, and further test sets that are named test_<name>
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
IGNORE = -100  # the class number of a residue without a label
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
LETTERS = frozenset(AMINO_ACIDS + "XBZUOJ")  # and IUPAC's codes for unknown, ambiguous and rare residues


@dataclass(frozen=True, slots=True)
class Record:
    """One protein with its target, or two of them.

    `target` by kind of task: sequence_regression: a float. sequence_classification, pair_classification: a class number
    or IGNORE. sequence_multilabel: (C,) int8 of 0 and 1. residue_classification: (L,) int64 class numbers with IGNORE
    where there is none. contacts: (L, 3) float32, Cβ coordinates in Å, NaN where unresolved. variant_scoring: a float,
    and `partner` is the wild type. masked_lm: None.
    `where` names file and row, for messages. `partner` is the second sequence of a pair.
    """

    id: str
    sequence: str
    target: Any
    split: Split
    where: str = field(default="", compare=False)
    partner: str = ""

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequence, or both of a pair."""
        return (self.sequence, self.partner) if self.partner else (self.sequence,)


@dataclass(frozen=True)
class DataSet:
    """Checked records by split, in an order that does not depend on the file they came from.

    `cropped` counts records cut to the model's context, `windowed` those read in windows, by split.
    """

    name: str
    splits: Mapping[Split, Sequence[Record]]
    digest: str
    source: str
    cropped: dict[Split, int] = field(default_factory=dict)
    windowed: dict[Split, int] = field(default_factory=dict)
    subset: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """Records by split."""
        return {split: len(records) for split, records in self.splits.items() if records}

    @property
    def tests(self) -> dict[Split, Sequence[Record]]:
        """The test splits: `test`, and further ones."""
        return {s: records for s, records in self.splits.items() if s not in ("train", "valid") and records}

    @cached_property
    def unlabelled(self) -> dict[Split, int]:
        """Residues (or sequences) without a label, by split, where there are any."""
        counts = {split: sum(map(_unlabelled, records)) for split, records in self.splits.items()}
        return {split: n for split, n in counts.items() if n}


def build_dataset(
    name: str,
    kind: Kind,
    records: Iterable[Record],
    *,
    source: str,
    n_classes: int = 0,
    needs: Sequence[Split] = SPLITS,
) -> DataSet:
    """Check all records and group them by split; `needs` names the splits that must have some.

    Raises: InputError: a letter that is no amino acid, an empty sequence, a target that is missing, not finite or not
        of the sequence's length, an id used twice, a split without records or without a label.
    """
    seen: dict[str, Record] = {}
    for record in records:
        for sequence in record.sequences:
            _check_sequence(record, sequence)
        _CHECKS[kind](record, n_classes)
        if record.id in seen:
            first = seen[record.id]
            across = f" ({first.split} and {record.split})" if first.split != record.split else ""
            raise InputError(
                f"{record.where}: id {record.id!r} was used before{across}, in {first.where}. Ids must be unique."
            )
        seen[record.id] = record
    further = sorted({r.split for r in seen.values()}.difference(SPLITS))
    splits: dict[Split, tuple[Record, ...]] = {
        split: tuple(_canonical(r for r in seen.values() if r.split == split)) for split in (*SPLITS, *further)
    }
    for split in needs:
        if not splits[split]:
            raise InputError(f"{source}: no records in the {split} split. All of {', '.join(needs)} are needed.")
        if kind != "masked_lm" and not any(map(_has_label, splits[split])):
            raise InputError(
                f"{source}: nothing in the {split} split has a label: all are masked or unknown. Check them."
            )
    return DataSet(name, splits, _digest(splits), source)


def limit(dataset: DataSet, limits: dict[Split, int | None], seed: int) -> DataSet:
    """Keep the first N records of a split after a seeded shuffle; a set that lost records is marked as a subset.

    Further test sets are limited as `test` is.
    """
    splits = {}
    for number, (split, records) in enumerate(dataset.splits.items()):
        wanted = limits.get(split if split in SPLITS else "test")
        if wanted is not None and wanted < len(records):
            chosen = np.random.default_rng([seed, number]).permutation(len(records))[:wanted]
            records = tuple(records[i] for i in chosen)
        splits[split] = records
    if splits == dataset.splits:
        return dataset
    return replace(dataset, splits=splits, digest=_digest(splits), subset=True)


Policy = Literal["refuse", "crop", "window"]


def fit_to_context(dataset: DataSet, context: int | None, policy: Policy, model: str) -> DataSet:
    """Apply the length policy: refuse sequences longer than the model's context, keep their first residues, or leave
    them whole for a model that reads them in overlapping windows (plmft.models.windows).

    Raises: InputError: policy is refuse and a sequence is too long.
    """
    if context is None:
        return dataset
    long = {s: sum(_length(r) > context for r in records) for s, records in dataset.splits.items()}
    long = {split: n for split, n in long.items() if n}
    if not long:
        return dataset
    if policy == "refuse":
        worst = max((r for records in dataset.splits.values() for r in records), key=_length)
        raise InputError(
            f"{worst.where}: {worst.id} has {_length(worst)} residues, but {model} takes {context}; "
            f"{sum(long.values())} sequences are too long ({', '.join(f'{s} {n}' for s, n in long.items())}). Set "
            "data.length_policy=crop to keep their first residues, data.length_policy=window to read them in "
            "overlapping windows, or choose a model with a longer context."
        )
    if policy == "window":
        return replace(dataset, windowed=long)
    splits = {s: tuple(_crop(r, context) for r in records) for s, records in dataset.splits.items()}
    return replace(dataset, splits=splits, digest=_digest(splits), cropped=long)


def _length(record: Record) -> int:
    return max(map(len, record.sequences))


def _crop(record: Record, context: int) -> Record:
    if _length(record) <= context:
        return record
    by_residue = isinstance(record.target, np.ndarray) and len(record.target) == len(record.sequence)
    target = record.target[:context] if by_residue else record.target
    return replace(record, sequence=record.sequence[:context], partner=record.partner[:context], target=target)


def _check_sequence(record: Record, sequence: str) -> None:
    if not isinstance(sequence, str) or not sequence:
        raise InputError(f"{record.where}: the sequence of {record.id!r} is empty. Remove the row or fill it in.")
    if LETTERS.issuperset(sequence):
        return
    position, letter = next((i, c) for i, c in enumerate(sequence, 1) if c not in LETTERS)
    hint = " Write sequences in upper case." if letter.upper() in LETTERS else ""
    raise InputError(
        f"{record.where}: {letter!r} at position {position} of {record.id!r} is not an amino acid. "
        f"Allowed: {''.join(sorted(LETTERS))}.{hint}"
    )


def _check_number(record: Record, n_classes: int) -> None:
    target = record.target
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise InputError(f"{record.where}: the target of {record.id!r} is {target!r}, not a number.")
    if not np.isfinite(target):
        raise InputError(f"{record.where}: the target of {record.id!r} is {target}. It must be finite.")


def _check_class(record: Record, n_classes: int) -> None:
    if record.target != IGNORE and not 0 <= record.target < n_classes:
        raise InputError(f"{record.where}: class {record.target} of {record.id!r} is not known (0 to {n_classes - 1}).")


def _check_pair(record: Record, n_classes: int) -> None:
    if not record.partner:
        raise InputError(f"{record.where}: {record.id!r} has one sequence. A pair needs two; fill in the second.")
    _check_class(record, n_classes)


def _check_labels(record: Record, n_classes: int) -> None:
    if record.target.shape != (n_classes,) or not np.isin(record.target, (0, 1)).all():
        raise InputError(f"{record.where}: {record.id!r} needs {n_classes} labels of 0 or 1, not {record.target}.")


def _check_residues(record: Record, n_classes: int) -> None:
    target = record.target
    if len(target) != len(record.sequence):
        raise InputError(
            f"{record.where}: {record.id!r} has {len(record.sequence)} residues but {len(target)} labels. "
            "Every residue needs one label (or the mark for no label)."
        )
    wrong = (target != IGNORE) & ((target < 0) | (target >= n_classes))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise InputError(f"{record.where}: class {target[at]} at position {at + 1} of {record.id!r} is not known.")


def _check_coordinates(record: Record, n_classes: int) -> None:
    if record.target.shape != (len(record.sequence), 3):
        raise InputError(
            f"{record.where}: {record.id!r} has {len(record.sequence)} residues but coordinates of "
            f"{len(record.target)}. Every residue needs three (or NaN where it is unresolved)."
        )


_CHECKS: dict[Kind, Callable[[Record, int], None]] = {
    "sequence_regression": _check_number,
    "sequence_classification": _check_class,
    "sequence_multilabel": _check_labels,
    "residue_classification": _check_residues,
    "contacts": _check_coordinates,
    "pair_classification": _check_pair,
    "variant_scoring": _check_number,
    "masked_lm": lambda record, n_classes: None,
}


def _unlabelled(record: Record) -> int:
    target = record.target
    if not isinstance(target, np.ndarray):
        return int(target == IGNORE and isinstance(target, int | np.integer))
    if target.dtype.kind == "f":
        return int(np.isnan(target).any(-1).sum())
    return int((target == IGNORE).sum())


def _has_label(record: Record) -> bool:
    if not isinstance(record.target, np.ndarray) or record.target.dtype == np.int8:
        return not _unlabelled(record)
    return _unlabelled(record) < len(record.target)


def _canonical(records: Iterable[Record]) -> Iterator[Record]:
    """By sequence, partner, target and id. A target is text only where sequences are equal: of all it would be GBs."""
    for _, equal in groupby(sorted(records, key=_sequences), key=_sequences):
        group = list(equal)
        yield from sorted(group, key=lambda r: (_target_text(r.target), r.id)) if len(group) > 1 else group


def _sequences(record: Record) -> tuple[str, str]:
    return (record.sequence, record.partner)


def _target_text(target: object) -> str:
    return target.tobytes().hex() if isinstance(target, np.ndarray) else repr(target)


def _digest(splits: Mapping[Split, Sequence[Record]]) -> str:
    """SHA-256 over the sorted (split, sequence, target) lines: the same for any file the records came in."""
    digest = hashlib.sha256()
    for split, records in splits.items():
        for r in _canonical(records):  # the same order as that of the lines, as what parts them sorts before letters
            digest.update(f"{split}\t{':'.join(r.sequences)}\t{_target_text(r.target)}\n".encode())
    return digest.hexdigest()
