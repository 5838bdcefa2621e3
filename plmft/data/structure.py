"""Sequence and Cβ coordinates of a chain, from a PDB or mmCIF file, through Biopython. Some 50 ms a file."""

import io
import warnings
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
ENDINGS = (".pdb", ".ent", ".cif", ".mmcif")


def read_structure(path: Path, chain: str | None) -> tuple[str, np.ndarray]:
    """The chain's sequence, and (L, 3) float32 Cβ coordinates in Å (Cα of glycine), NaN where unresolved.

    Of several models the first is taken, of alternate locations the one of highest occupancy. Residues stand in the
    order of their numbers and insertion codes. Modified residues are read as the amino acid they came from (MSE as M);
    waters and ligands are left out. Unresolved residues come from SEQRES or _entity_poly_seq where the file has it;
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
    whole = _deposited_sequence(text, kind, name)
    places = _places(_letters(residues), whole) if whole else None
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
    residues = [_likeliest(residue) for residue in chain]
    kept = [r for r in residues if _letter(r) and "CA" in r and r.get_id()[0] != "W"]
    return sorted(kept, key=lambda r: (r.get_id()[1], r.get_id()[2].strip()))


def _likeliest(residue: Any) -> "Residue":
    """Of residues that share a place (a point mutation in the crystal), the one of highest occupancy."""
    if residue.is_disordered() != 2:
        return residue
    options = residue.disordered_get_list()
    return max(options, key=lambda r: max(atom.get_occupancy() or 0.0 for atom in r.get_unpacked_list()))


def _letter(residue: "Residue") -> str:
    from Bio.Data.PDBData import protein_letters_3to1_extended

    return protein_letters_3to1_extended.get(residue.get_resname().strip(), "")


def _letters(residues: list["Residue"]) -> str:
    return "".join(map(_letter, residues))


def _deposited_sequence(text: str, kind: str, chain: str) -> str | None:
    from Bio import SeqIO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            entries = list(SeqIO.parse(io.StringIO(text), f"{kind}-seqres"))
        except (ValueError, KeyError):
            return None
    sequence = next((str(e.seq) for e in entries if e.annotations.get("chain") == chain), None)
    return sequence or None


def _places(observed: str, whole: str) -> list[int] | None:
    """Where each observed residue stands in the deposited sequence; None if they don't fit."""
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
        sequence += _letter(residue)
        before = residue
    return sequence, places


def _bonded(first: "Residue", second: "Residue") -> bool:
    if "C" not in first or "N" not in second:
        return False
    return float(np.linalg.norm(first["C"].coord - second["N"].coord)) <= BOND_A
