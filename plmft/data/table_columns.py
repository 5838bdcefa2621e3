"""Which column holds what: as the user says, else guessed where only one can be meant.

A guess is first by name, then by content; a name that two columns bear, or none, ends with the columns and the key.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plmft import InputError
from plmft.data.records import LETTERS
from plmft.data.table_fasta import ID, SEQUENCE
from plmft.data.table_sheet import Sheet
from plmft.data.table_text import UNNAMED, listed

Named = str | int | None  # a column; a number is a name too (2500)
NONE = "none"  # of split and id: there is no such column, whatever the names look like

SEQUENCES = (
    *("sequence", "sequences", "seq", "primary", "primarysequence", "proteinsequence", "proteinseq", "aasequence"),
    *("aaseq", "aminoacidsequence", "aminoacids", "mutatedsequence", "peptide", "peptidesequence"),
)
TARGETS = ("target", "targets", "label", "labels", "y", "score", "fitness", "value", "class", "classes")
SPLIT_NAMES = ("split", "set", "fold", "subset", "partition")
IDS = ("id", "identifier", "accession", "uniprotid", "entry", "name")  # best first: ids only name records
PAIR_BASES = ("sequence", "seq", "proteinsequence", "aasequence", "protein")
PAIRS = tuple((base + a, base + b) for base in PAIR_BASES for a, b in (("1", "2"), ("a", "b")))
PARTNERS = ("partner", "partnersequence", "partnerseq")
LOWER = frozenset("".join(LETTERS).lower())
VARIETY = 10  # letters that a column must use before it is taken for sequences; labels of residues use fewer
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Chosen:
    """What the user said of the columns; None: guess."""

    sequence: Named = None
    target: Named = None
    split: Named = None
    id: Named = None
    partner: Named = None


@dataclass(frozen=True)
class Columns:
    """Names of the sheet's columns; None: there is none."""

    sequence: str
    target: str
    split: str | None
    id: str | None
    partner: str | None
    validation: str | None
    mask: str | None


def find_columns(sheet: Sheet, kind: str, chosen: Chosen) -> tuple[Columns, list[str]]:
    """The columns that are read, and notes on those that were guessed and on those that are not used.

    Args: kind: a key of plmft.data.table.KINDS.
    Raises: InputError: a named column is not there or named twice, none or several could be meant.
    """
    finder = _Finder(sheet, chosen)
    pairs = kind == "pairs"
    split, id_ = finder.optional("split", SPLIT_NAMES), finder.id()
    validation = finder.exact("validation") if split else None
    mask = finder.exact("mask") if kind == "residue_classes" else None
    sequence, partner = finder.pair() if pairs else (finder.sequence(), None)
    columns = Columns(sequence, finder.target(kind, sequence), split, id_, partner, validation, mask)
    return columns, finder.notes()


class _Finder:
    """Columns that are taken, and how each was found."""

    def __init__(self, sheet: Sheet, chosen: Chosen) -> None:
        self.sheet, self.chosen = sheet, chosen
        self.plain = {name: re.sub(r"[\W_]", "", name.casefold()) for name in sheet.columns}
        self.guessed: dict[str, str] = {}
        self.taken: dict[str, str] = {}
        for key in ("sequence", "partner", "target", "split", "id"):
            wanted = getattr(chosen, key)
            if wanted is not None and not (wanted == NONE and key in ("split", "id")):
                self._take(key, self._named(key, str(wanted)))

    def _take(self, key: str, name: str) -> str:
        if name in self.taken:
            raise InputError(f"task.{key}={name}: the column is taken as {self.taken[name]}. Name another one.")
        self.taken[name] = key
        return name

    def _named(self, key: str, wanted: str) -> str:
        same = [name for name in self.sheet.columns if name == wanted] or [
            name for name in self.sheet.columns if name.casefold() == wanted.casefold()
        ]
        if len(same) != 1:
            folded = {name.casefold(): name for name in self.sheet.columns}
            near = difflib.get_close_matches(wanted.casefold(), folded, n=1, cutoff=0.5)
            hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
            raise InputError(f"task.{key}={wanted}: {self.sheet.path} has no such column.{hint} {self._listed()}")
        return same[0]

    def _listed(self) -> str:
        what = "keys of the headers" if self.sheet.fasta else "columns"
        return f"The {what} are: {listed(self.sheet.columns)}."

    def _of(self, key: str) -> str | None:
        return next((name for name, used in self.taken.items() if used == key), None)

    def _guess(self, key: str, name: str) -> str:
        self.guessed[key] = name
        return self._take(key, name)

    def _free(self) -> list[str]:
        return [c for c in self.sheet.columns if c not in self.taken and not UNNAMED.fullmatch(c)]

    def _by_name(self, key: str, names: Sequence[str]) -> str | None:
        found = [column for column in self._free() if self.plain[column] in names]
        return self._only(key, found)

    def _only(self, key: str, found: list[str]) -> str | None:
        if len(found) > 1:
            names = " or ".join(repr(name[:40]) for name in found[:5])
            raise InputError(f"{self.sheet.path}: the {key} column may be {names}. Set task.{key}. {self._listed()}")
        return self._guess(key, found[0]) if found else None

    def _missing(self, key: str, hint: str) -> InputError:
        if len(self.sheet.columns) == 1:
            hint = " Columns must be separated by commas, semicolons or tabs."
        return InputError(f"{self.sheet.path}: which is the {key} column? Set task.{key}.{hint} {self._listed()}")

    def optional(self, key: str, names: Sequence[str]) -> str | None:
        """The column, or None."""
        return None if getattr(self.chosen, key) == NONE else self._of(key) or self._by_name(key, names)

    def exact(self, name: str) -> str | None:
        """The column of this name, in any case."""
        return self._by_name(name, (name,))

    def id(self) -> str | None:
        """The first known name; of several, others are not used."""
        if self.chosen.id == NONE or self._of("id"):
            return self._of("id")
        if self.sheet.fasta:
            return self._take("id", ID)
        found = [column for name in IDS for column in self._free() if self.plain[column] == name]
        return self._guess("id", found[0]) if found else None

    def sequence(self) -> str:
        """By name, else the only column of sequences."""
        if self.sheet.fasta and not self._of("sequence"):
            return self._take("sequence", SEQUENCE)
        found = self._of("sequence") or self._by_name("sequence", SEQUENCES)
        found = found or self._only("sequence", [c for c in self._free() if self._holds(c, _sequences)])
        if found is None:
            raise self._missing("sequence", " No column of that name is known, and none holds amino acids alone.")
        return found

    def pair(self) -> tuple[str, str]:
        """Two columns: sequence1 and sequence2 and the like, else sequence and partner, else the only two by content.

        The order of known pairs is that of their names.
        """
        first, second = self._of("sequence"), self._of("partner")
        if first is None and second is None:
            by_plain = {self.plain[column]: column for column in self._free()}
            known = [(by_plain[a], by_plain[b]) for a, b in PAIRS if a in by_plain and b in by_plain]
            content = [c for c in self._free() if self._holds(c, _sequences)]
            known = known or ([(content[0], content[1])] if len(content) == 2 else [])
            if len(known) == 1:
                return self._guess("sequence", known[0][0]), self._guess("partner", known[0][1])
        first = first or self._by_name("sequence", SEQUENCES)
        second = second or self._by_name("partner", PARTNERS)
        if first is None or second is None:
            hint = " A pair needs two columns of sequences: task.sequence and task.partner."
            raise self._missing("sequence" if first is None else "partner", hint)
        return first, second

    def target(self, kind: str, sequence: str) -> str:
        """By name, else the only column left that fits the kind."""
        found = self._of("target") or self._by_name("target", TARGETS)
        if found is None and not self.sheet.fasta:
            fits = any
            if kind in ("regression", "residue_classes"):
                fits = _numbers if kind == "regression" else self._labels_of(sequence)
            found = self._only("target", [c for c in self._free() if self._holds(c, fits)])
        if found is None:
            hint = " Headers need words such as TARGET=1.5 SET=train." if self.sheet.fasta else ""
            raise self._missing("target", hint)
        return found

    def _labels_of(self, sequence: str) -> Callable[[list[str]], bool]:
        lengths = [len("".join(cell.split())) for cell in self.sheet.cells(sequence)]
        return lambda cells: [len(cell) for cell in cells] == lengths

    def _holds(self, column: str, fits: Callable[[list[str]], bool]) -> bool:
        return fits(self.sheet.cells(column))

    def notes(self) -> list[str]:
        """What was guessed, and what is not used."""
        notes = []
        if self.guessed and not self.sheet.fasta:
            told = ", ".join(f"{key} column: {name!r}" for key, name in self.guessed.items())
            notes.append(f"{self.sheet.path.name}: {told} (guessed; task.<name>=<column> says otherwise).")
        unused = [column for column in self.sheet.columns if column not in self.taken]
        if unused:
            notes.append(f"{self.sheet.path.name}: not used: {listed([repr(name) for name in unused])}.")
        return notes


def _sequences(cells: list[str]) -> bool:
    """All are of amino acids and in one case; they use more letters than labels of residues do, and repeat less than
    names of classes (Plastid) do.
    """
    used: set[str] = set()
    for cell in cells:
        letters = set(cell.rstrip("*")).difference("\r\n")
        if not letters or not (letters <= LETTERS or letters <= LOWER):
            return False
        used |= letters
    return len(used) >= VARIETY and 2 * len(set(cells)) > len(cells)


def _numbers(cells: list[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(map(NUMBER.fullmatch, filled))
