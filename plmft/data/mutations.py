"""Deep mutational scans: a table of mutants with a measured value, and the wild type that they belong to.

A mutant is written as A24G, several mutations joined by `:` `,` `;` or `/`. Costs microseconds a row.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from plmft import InputError
from plmft.data.fasta import read_fasta
from plmft.data.records import AMINO_ACIDS, LETTERS, Record
from plmft.data.source import read_rows, read_text, to_number

MUTATION = re.compile(rf"([{AMINO_ACIDS}])(-?\d+)([{AMINO_ACIDS}])")
SEPARATORS = re.compile(r"[:,;/]")
Mutations = tuple[tuple[str, int, str], ...]  # wild-type letter, position as written, mutant letter


def read_wild_type(path: Path) -> str:
    """The only sequence of a FASTA. Raises: InputError: it holds several, or none, or a letter that is no residue."""
    entries = list(read_fasta(read_text(path), str(path)))
    if len(entries) > 1:
        raise InputError(
            f"{path}: {len(entries)} sequences, {entries[0].id} and {entries[1].id} among them; a scan has one wild "
            "type. Keep the one that the mutants belong to."
        )
    wrong = next((c for c in entries[0].text if c not in LETTERS), None)
    if wrong is not None:
        raise InputError(
            f"{entries[0].where}: {wrong!r} in {entries[0].id!r} is no amino acid. Write the wild type in upper-case "
            "letters, without gaps or a stop."
        )
    return entries[0].text


def read_scan(
    path: Path, wild_type: str, *, mutant_column: str, target_column: str, offset: int | None
) -> tuple[list[Record], str]:
    """Records with the mutants' sequences, ids as written, and a note on how positions were counted.

    Args: offset: position p is residue p - offset of the wild type, counted from 1; None: 0 if that fits every mutant,
        else the only one that does.
    Raises: InputError: a column that is missing, a mutant that can't be read or doesn't fit the wild type, a target
        that is no number, no offset or several that fit.
    """
    rows = [(where, *_row(row, where, mutant_column, target_column)) for where, _, row in read_rows(path)]
    if not rows:
        raise InputError(f"{path}: no mutants below the header.")
    mutations = [(where, parse(mutant, where, mutant_column)) for where, mutant, _ in rows]
    shift = fitting_offset(wild_type, mutations) if offset is None else offset
    column = f"column {target_column!r}"
    records = [
        Record(mutant, apply(wild_type, parsed, shift, where), to_number(value, f"{where}: {column}"), "test", where)
        for (where, mutant, value), (_, parsed) in zip(rows, mutations, strict=True)
    ]
    how = "as set" if offset is not None else "the only way that fits every row" if shift else "as usual; it fits"
    return records, f"{path.name}: mutant position {shift + 1} is the first residue of the wild type ({how})."


def _row(row: Mapping, where: str, mutant_column: str, target_column: str) -> tuple[str, object]:
    for name, key in ((mutant_column, "mutant"), (target_column, "target")):
        if name not in row:
            raise InputError(
                f"{where}: no column {name!r}; the columns are {', '.join(c for c in row if c)}. Set task.{key}."
            )
    return str(row[mutant_column]).strip(), row[target_column]


def parse(mutant: str, where: str, column: str) -> Mutations:
    """Raises: InputError: it is not written as A24G, or mutates a position twice."""
    found = []
    for part in SEPARATORS.split(mutant):
        match = MUTATION.fullmatch(part.strip())
        if match is None:
            raise InputError(
                f"{where}: column {column!r}: {mutant!r} is no mutant. Write A24G (wild type, position, mutant), "
                "several joined by ':'; insertions and deletions can't be scored."
            )
        found.append((match[1], int(match[2]), match[3]))
    positions = [position for _, position, _ in found]
    if len(set(positions)) < len(positions):
        raise InputError(f"{where}: column {column!r}: {mutant!r} mutates a position twice. Keep one of the two.")
    return tuple(found)


def apply(wild_type: str, mutations: Mutations, offset: int, where: str) -> str:
    """The mutant's sequence. Raises: InputError: a position outside, or another letter there than the mutant says."""
    letters = list(wild_type)
    for before, position, after in mutations:
        at = position - offset - 1
        if not 0 <= at < len(letters):
            first, last = offset + 1, offset + len(wild_type)
            raise InputError(
                f"{where}: {before}{position}{after}: the wild type has positions {first} to {last}. Correct the row, "
                "or set task.offset."
            )
        if wild_type[at] != before:
            raise InputError(
                f"{where}: {before}{position}{after}: position {position} is {wild_type[at]}, not {before}. Two wild "
                "types in one file, the wrong wild type, or the wrong task.offset?"
            )
        letters[at] = after
    return "".join(letters)


def fitting_offset(wild_type: str, mutations: Sequence[tuple[str, Mutations]]) -> int:
    """The offset at which every mutant's wild-type letter is in its place; 0 goes before others.

    Raises: InputError: there is none (told is the first row that fails where most others fit), or there are several.
    """
    letters = {(position, before) for _, parsed in mutations for before, position, _ in parsed}
    low, high = min(p for p, _ in letters), max(p for p, _ in letters)
    options = range(high - len(wild_type), low)
    fits = {o: sum(wild_type[p - o - 1] == before for p, before in letters) for o in options}
    whole = [o for o, n in fits.items() if n == len(letters)]
    if len(whole) == 1 or 0 in whole:
        return 0 if 0 in whole else whole[0]
    if not fits:
        raise InputError(
            f"{mutations[0][0]}, and below: positions {low} to {high} don't fit a wild type of {len(wild_type)} "
            "residues. Two wild types in one file, or the wrong wild type?"
        )
    if not whole:
        best = max(fits, key=lambda o: (fits[o], o == 0))
        for where, parsed in mutations:
            apply(wild_type, parsed, best, where)  # raises at the first row that doesn't fit
    raise InputError(
        f"{mutations[0][0]}: {len(whole)} ways to count positions fit, offsets {whole[:3]}. Set task.offset."
    )


def folds(records: Sequence[Record], wild_type: str, how: str, count: int, seed: int) -> Iterator[int]:
    """The fold of each record. By position they are ProteinGym's (Notin et al. 2023); their random ones lie in files.

    Args:
        how: `random`: mutants, drawn by the seed whatever the order of the rows. `modulo`: of the mutated positions in
            order, every count-th. `contiguous`: of the same, neighbours, as many in each fold.
    A mutant with several mutations goes by its first; ProteinGym has folds by position for single mutants alone.
    Raises: ValueError: another `how`.
    """
    firsts = [
        next((i for i, (a, b) in enumerate(zip(wild_type, r.sequence, strict=True)) if a != b), 0) for r in records
    ]
    if how == "random":
        order = sorted(range(len(records)), key=lambda i: (records[i].sequence, records[i].id))
        drawn = np.random.default_rng(seed).permutation(len(records)) % count
        yield from drawn[np.argsort(order)].tolist()
    elif how in ("modulo", "contiguous"):
        positions = sorted(set(firsts))
        parts = np.array_split(positions, count) if how == "contiguous" else [positions[i::count] for i in range(count)]
        fold_of = {int(p): fold for fold, part in enumerate(parts) for p in part}
        yield from (fold_of[first] for first in firsts)
    else:
        raise ValueError(f"how={how!r}")
