"""Sequence and Cβ coordinates of a chain, from a PDB or mmCIF file, through Biopython. Some 50 ms a file."""

import io
import itertools
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plmft import InputError
from plmft.data.source import read_text

if TYPE_CHECKING:
    from Bio.PDB.Chain import Chain
    from Bio.PDB.Residue import Residue

BOND_A = 2.0  # C of a residue to N of the next
LONGEST_GAP = 50  # residues that a jump in the numbering may stand for
Labels = dict[tuple[int, str], int]  # place of a residue by its number and insertion code
ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")


def read_structure(path: Path, chain: str | None) -> tuple[str, np.ndarray]:
    """The chain's sequence, and (L, 3) float32 Cβ coordinates in Å (Cα of glycine), NaN where unresolved.

    Of several models the first is taken, of alternate locations the one of highest occupancy. Residues stand in the
    order of the file, or of their numbers and insertion codes if that joins more of them by bonds. Modified residues
    are read as the amino acid they came from (MSE as M), unknown ones as X if bonded to a neighbour; waters, ligands
    and free amino acids are left out. Unresolved residues come from SEQRES or _entity_poly_seq where the file has it;
    else a jump of up to 50 in the numbering between residues that are not bonded stands for as many unknown ones (X).

    Args: chain: its id (the authors' one in mmCIF); None: the only one with amino acids.
    Raises: InputError: a file that can't be read or holds no amino acid, a chain that isn't there or must be named.
    """
    text, kind = _text(path)
    found = _chains(path, text, kind)
    if not found:
        raise InputError(f"{path}: no amino acid in it. A protein structure is needed.")
    if chain is None and len(found) > 1:
        raise InputError(f"{path}: it has the chains {', '.join(found)}. Name one of them.")
    name = next(iter(found)) if chain is None else chain
    if name not in found:
        raise InputError(f"{path}: no chain {name!r} with amino acids; it has {', '.join(map(repr, found))}.")
    residues = found[name]
    whole, labels = _seqres(text, name) if kind == "pdb" else _entity_poly_seq(text, name)
    places = _places(residues, whole, labels) if whole else None
    if places is None:
        whole, places = _numbered(residues)
    cb = np.full((len(whole), 3), np.nan, np.float32)
    for place, residue in zip(places, residues, strict=True):
        atom = "CA" if residue.get_resname().strip() == "GLY" else "CB"
        if atom in residue:
            cb[place] = residue[atom].coord
    return whole, cb


def _text(path: Path) -> tuple[str, str]:
    endings = [suffix.lower() for suffix in path.suffixes]
    kind = next((e for e in reversed(endings) if e in ENDINGS), None)
    if kind is None:
        raise InputError(f"{path}: a structure file ends in {', '.join(ENDINGS)}, or in one of these and .gz.")
    return read_text(path), "pdb" if kind in (".pdb", ".ent") else "cif"


def _chains(path: Path, text: str, kind: str) -> dict[str, list["Residue"]]:
    from Bio.PDB.MMCIFParser import MMCIFParser
    from Bio.PDB.PDBParser import PDBParser

    parser = PDBParser(QUIET=True) if kind == "pdb" else MMCIFParser(QUIET=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = list(parser.get_structure("structure", io.StringIO(text)))
    except Exception as error:  # Biopython raises whatever the damage leads to
        raise InputError(f"{path}: can't be read as {kind.upper()} ({type(error).__name__}: {error}).") from None
    found = {chain.id: _amino_acids(chain) for chain in (models[0] if models else ())}
    return {name: residues for name, residues in found.items() if residues}


def _amino_acids(chain: "Chain") -> list["Residue"]:
    residues = _in_order([r for r in map(_likeliest, chain) if "CA" in r and r.get_id()[0] != "W"])
    bonds = [False, *itertools.starmap(_bonded, itertools.pairwise(residues)), False]
    return [r for r, before, after in zip(residues, bonds, bonds[1:], strict=False) if before or after or _known(r)]


def _likeliest(residue: Any) -> "Residue":
    """Of residues that share a place (a point mutation in the crystal), the one of highest occupancy."""
    if residue.is_disordered() != 2:
        return residue
    options = residue.disordered_get_list()
    return max(options, key=lambda r: max(atom.get_occupancy() or 0.0 for atom in r.get_unpacked_list()))


def _in_order(residues: list["Residue"]) -> list["Residue"]:
    """Numbers may run backwards along a chain (thrombin's 1H to 1A), and modified residues stand at a file's end."""
    by_number = sorted(residues, key=lambda r: (r.get_id()[1], r.get_id()[2].strip()))
    return max(residues, by_number, key=lambda order: sum(itertools.starmap(_bonded, itertools.pairwise(order))))


def _known(residue: "Residue") -> bool:
    """An amino acid by its name, but not a free one: these are ligands (HETATM) under a standard name."""
    from Bio.Data.PDBData import protein_letters_3to1

    ligand = residue.get_id()[0].strip() and residue.get_resname().strip() in protein_letters_3to1
    return _letter(residue.get_resname()) != "X" and not ligand


def _letter(name: str) -> str:
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return protein_letters_3to1_extended.get(name.strip(), "X")


def _letters(residues: list["Residue"]) -> str:
    return "".join(_letter(residue.get_resname()) for residue in residues)


def _seqres(text: str, chain: str) -> tuple[str, Labels]:
    """The deposited sequence, empty if there is none; the PDB format does not say where in it a residue stands."""
    lines = [line for line in text.splitlines() if line.startswith("SEQRES") and line[11:12] == chain]
    return "".join(_letter(name) for line in lines for name in line[19:70].split()), {}


def _entity_poly_seq(text: str, chain: str) -> tuple[str, Labels]:
    """The deposited sequence, empty if there is none, and the place in it of each number and insertion code."""
    from Bio.PDB.MMCIF2Dict import MMCIF2Dict

    table = MMCIF2Dict(io.StringIO(text))
    names = ("auth_asym_id", "auth_seq_id", "pdbx_PDB_ins_code", "label_entity_id", "label_seq_id")
    columns = [table.get(f"_atom_site.{name}", []) for name in names]
    rows = [row for row in zip(*columns, strict=False) if row[0] == chain and row[4].isdigit()]
    labels = {(int(number), code.strip("?.") or " "): int(place) - 1 for _, number, code, _, place in rows}
    columns = [table.get(f"_entity_poly_seq.{name}", []) for name in ("entity_id", "num", "mon_id")]
    letters: dict[int, str] = {}
    for entity, number, name in zip(*columns, strict=False):
        if rows and entity == rows[0][3]:
            letters.setdefault(int(number), _letter(name))  # a place with two residues is listed twice
    return "".join(letters[number] for number in sorted(letters)), labels


def _places(residues: list["Residue"], whole: str, labels: Labels) -> list[int] | None:
    """Where each residue stands in the deposited sequence; None if they don't fit.

    An alignment can't tell which of two equal residues beside a gap is the missing one: the file's own labels come
    first, then its numbers, if one shift makes all of them fit.
    """
    observed = _letters(residues)
    places = [labels.get(residue.get_id()[1:], -1) for residue in residues]
    if _fit(places, observed, whole):
        return places
    aligned = _aligned(observed, whole)
    if aligned is None:
        return None
    numbers = [residue.get_id()[1] for residue in residues]
    shift = Counter(place - number for place, number in zip(aligned, numbers, strict=True)).most_common(1)[0][0]
    shifted = [number + shift for number in numbers]
    return shifted if _fit(shifted, observed, whole) else aligned


def _fit(places: list[int], observed: str, whole: str) -> bool:
    if places[0] < 0 or places[-1] >= len(whole) or any(a >= b for a, b in itertools.pairwise(places)):
        return False
    return all(whole[place] == letter for place, letter in zip(places, observed, strict=True))


def _aligned(observed: str, whole: str) -> list[int] | None:
    from Bio.Align import PairwiseAligner

    aligner = PairwiseAligner(mode="global", match_score=1, mismatch_score=-1000)
    aligner.open_internal_deletion_score, aligner.extend_internal_deletion_score = -0.5, 0  # few gaps, of any length
    aligner.end_deletion_score = 0
    aligner.open_insertion_score = aligner.extend_insertion_score = -1000
    if len(observed) > len(whole):
        return None
    alignment = aligner.align(whole, observed)[0]
    if alignment.score < 0:
        return None
    return [place for (begin, end) in alignment.aligned[0] for place in range(begin, end)]


def _numbered(residues: list["Residue"]) -> tuple[str, list[int]]:
    sequence, places, before = "", [], None
    for residue in residues:
        if before is not None:
            missing = residue.get_id()[1] - before.get_id()[1] - 1
            if 0 < missing <= LONGEST_GAP and not _bonded(before, residue):
                sequence += "X" * missing
        places.append(len(sequence))
        sequence += _letter(residue.get_resname())
        before = residue
    return sequence, places


def _bonded(first: "Residue", second: "Residue") -> bool:
    if "C" not in first or "N" not in second:
        return False
    return float(np.linalg.norm(first["C"].coord - second["N"].coord)) <= BOND_A
