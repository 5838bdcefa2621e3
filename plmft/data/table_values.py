"""What cells say: sequences, numbers, classes, sets of labels, a label a residue.

Costs a look at each letter where every residue has a label, else far less than reading the file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plmft import InputError
from plmft.data.records import IGNORE, LETTERS
from plmft.data.table_fasta import check_mask

NOT_A_NUMBER = frozenset(("na", "n/a", "nan", "null", "none", "#n/a"))  # of a column of numbers: a value is missing
POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COMMA = re.compile(r"[+-]?(\d+|\d+,\d+|,\d+)([eE][+-]?\d+)?", re.ASCII)
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)
LABEL_SEPARATORS = re.compile(r"[;|]")
LISTED = 10  # classes that a note lists


@dataclass(frozen=True)
class Cells:
    """One column: its name, where each row is, and the text of each."""

    column: str
    where: Sequence[str]
    texts: Sequence[str]

    def bad(self, row: int, told: str) -> InputError:
        """An error that names file, line and column."""
        return InputError(f"{self.where[row]}: column {self.column!r}: {told}")

    def first(self, rows: Iterable[int], what: str, remedy: str) -> InputError:
        """An error that names the first of several rows and counts them."""
        found = list(rows)
        more = f" in {len(found):,} rows, here first" if len(found) > 1 else ""
        return InputError(f"{self.where[found[0]]}: column {self.column!r} {what}{more}. {remedy}")


def clean_sequences(cells: Cells) -> tuple[list[str], list[str]]:
    """Sequences in upper case, without white space and a stop (*) at the end; notes that count what was changed.

    Raises: InputError: empty, a letter that is no amino acid, lower case in some rows only.
    """
    joined = ["".join(text.split()) for text in cells.texts]
    empty = [row for row, sequence in enumerate(joined) if not sequence.rstrip("*")]
    if empty:
        raise cells.first(empty, "has no sequence", "Fill it in, or remove the row.")
    spaced = sum(a != b for a, b in zip(joined, cells.texts, strict=True))
    stopped = sum(sequence.endswith("*") for sequence in joined)
    sequences = [sequence.rstrip("*") for sequence in joined]
    lower = all(map(str.islower, sequences))
    if lower:
        sequences = [sequence.upper() for sequence in sequences]
    for row, sequence in enumerate(sequences):
        if not LETTERS.issuperset(sequence):
            raise _bad_letter(cells, row, sequence)
    counted = (
        (spaced, f"white space was taken out of {spaced:,} sequences"),
        (stopped, f"a stop (*) at the end of {stopped:,} sequences was left out"),
        (lower, "sequences are in lower case: read as upper case"),
    )
    return sequences, [f"Column {cells.column!r}: {told}." for count, told in counted if count]


def _bad_letter(cells: Cells, row: int, sequence: str) -> InputError:
    at, letter = next((i, c) for i, c in enumerate(sequence, 1) if c not in LETTERS)
    if letter in "-.":
        hint = "Sequences must not be aligned: take the gaps out."
    elif letter == "*":
        hint = "A stop inside a sequence: cut the sequence there, or remove the row."
    elif letter.upper() in LETTERS:
        hint = "Other sequences are in upper case: write all in upper case."
    else:
        hint = f"Allowed: {''.join(sorted(LETTERS))}."
    return cells.bad(row, f"{letter!r} at position {at} of {sequence[:20]!r} is not an amino acid. {hint}")


def missing_rows(cells: Cells, kind: str) -> list[int]:
    """Rows without a target. A set of labels may be empty, so none of it is missing."""
    if kind == "multilabel":
        return []
    words = NOT_A_NUMBER if kind == "regression" else {"nan"}
    return [row for row, text in enumerate(cells.texts) if not text.strip() or text.strip().lower() in words]


def numbers(cells: Cells, delimiter: str) -> tuple[list[float], list[str]]:
    """Floats. A decimal comma is read where the whole column has that form and can't mean thousands.

    Args: delimiter: of the file; a semicolon is what programs write where the comma is in use.
    Raises: InputError: not a number, or not finite.
    """
    texts, notes = [text.strip() for text in cells.texts], []
    with_comma = any("," in text and COMMA.fullmatch(text) for text in texts)
    if with_comma and not any("." in text and POINT.fullmatch(text) for text in texts):
        if delimiter != ";" and all(THOUSANDS.fullmatch(text) for text in texts if "," in text):
            row = next(row for row, text in enumerate(texts) if "," in text)
            raise cells.bad(row, f"{texts[row]!r} may mean thousands or a decimal comma. Write a decimal point.")
        texts = [text.replace(",", ".") if COMMA.fullmatch(text) else text for text in texts]
        notes.append(f"Column {cells.column!r}: decimal commas.")
    values = []
    for row, text in enumerate(texts):
        if not POINT.fullmatch(text):
            raise _no_number(cells, row, text, texts)
        values.append(float(text))
        if not np.isfinite(values[-1]):
            raise cells.bad(row, f"{text} is too large for a number. Mend it.")
    return values, notes


def _no_number(cells: Cells, row: int, text: str, texts: list[str]) -> InputError:
    if COMMA.fullmatch(text):
        hint = "Other rows have no decimal comma: write a decimal point throughout."
    elif text.lower().lstrip("+-") in ("inf", "infinity"):
        return cells.bad(row, f"{text} is not finite. Mend it, or remove the row.")
    elif not any(map(POINT.fullmatch, texts)):
        hint = "No row of the column has one: set task.kind=classification for classes, or task.target."
    else:
        hint = "Mend it, or leave it empty and set task.missing=drop."
    return cells.bad(row, f"{text!r} is not a number. {hint}")


def class_names(found: Iterable[str], column: str, path: str, least: int = 2) -> tuple[str, ...]:
    """Sorted; whole numbers by value. Raises: InputError: fewer than `least`."""
    names = set(found)
    whole = all(re.fullmatch(r"[+-]?\d+", name, re.ASCII) for name in names)
    if len(names) < least:
        only = f"the class {next(iter(names))!r} alone" if names else "no class"
        raise InputError(f"{path}: column {column!r} holds {only}. At least two are needed; is task.target right?")
    return tuple(sorted(names, key=lambda name: (int(name) if whole else 0, name)))


def tell_classes(counts: Counter[str], names: Sequence[str], column: str, what: str) -> list[str]:
    """A note that lists the classes with their counts, and one on names that differ in nothing but case."""
    listed = ", ".join(f"{name} {counts[name]:,}" for name in names[:LISTED])
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    notes = [f"Column {column!r}: {len(names):,} {what} ({listed}{more})."]
    folded = Counter(name.casefold() for name in names)
    alike = [name for name in names if folded[name.casefold()] > 1]
    if alike and what != "residue classes":
        notes.append(f"Column {column!r}: {' and '.join(map(repr, alike[:2]))} differ in case alone: kept apart.")
    return notes


def label_sets(cells: Cells) -> list[tuple[str, ...]]:
    """Labels of each row, parted by ; or |. Raises: InputError: other separators."""
    sets = [tuple(filter(None, map(str.strip, LABEL_SEPARATORS.split(text)))) for text in cells.texts]
    if all(len(labels) < 2 for labels in sets):
        row = next((row for row, labels in enumerate(sets) if labels and "," in labels[0]), None)
        if row is not None:
            raise cells.bad(row, f"{sets[row][0][:60]!r} is one label. Part labels with ; or |, not with commas.")
    return sets


def residue_labels(
    cells: Cells, sequences: Sequence[str], masks: Sequence[str] | None, ids: Sequence[str], unlabelled: str
) -> list[str]:
    """A string of single-letter labels for each row; a blank where a residue has no label.

    Args:
        masks: 1 where a residue has a label and 0 where not. unlabelled: letters that mean that there is none.
    Raises: InputError: another length than the sequence's, a blank among the labels, a mask that is none.
    """
    blank = str.maketrans(dict.fromkeys(unlabelled, " "))
    found = []
    for row, (text, sequence) in enumerate(zip(cells.texts, sequences, strict=True)):
        labels = text if len(text) == len(sequence) else "".join(text.split())
        if len(labels) != len(sequence):
            told = f"{ids[row]!r} has {len(sequence)} residues but {len(labels)} labels. Give each residue one letter"
            raise cells.bad(row, told + (f" ({unlabelled[0]!r} for none)." if unlabelled else "."))
        if any(map(str.isspace, labels)):
            at = next(i for i, c in enumerate(labels, 1) if c.isspace())
            raise cells.bad(row, f"{ids[row]!r} has a blank at position {at}. Write a letter for each residue.")
        labels = labels.translate(blank)
        if masks is not None:
            check_mask(masks[row], len(sequence), f"{cells.where[row]}: {ids[row]!r}")
            labels = "".join(c if m == "1" else " " for c, m in zip(labels, masks[row], strict=True))
        found.append(labels)
    return found


def residue_target(labels: str, numbers: dict[str, int]) -> np.ndarray:
    """(L,) int64 class numbers, IGNORE where the label is a blank."""
    return np.array([numbers.get(letter, IGNORE) for letter in labels], dtype=np.int64)
