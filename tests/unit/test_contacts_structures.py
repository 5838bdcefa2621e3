"""Structures whose numbers, labels or names mislead: order along the chain, free amino acids, gaps between equals."""

from pathlib import Path

import numpy as np
import pytest

from plmft import InputError
from plmft.data.contacts import read_structure_list
from plmft.data.structure import read_structure
from tests.unit.test_structure import residue, write

CIF = """data_s
loop_
_entity_poly_seq.entity_id
_entity_poly_seq.num
_entity_poly_seq.mon_id
{sequence}
#
loop_
_atom_site.group_PDB
_atom_site.id
_atom_site.type_symbol
_atom_site.label_atom_id
_atom_site.label_alt_id
_atom_site.label_comp_id
_atom_site.label_asym_id
_atom_site.label_entity_id
_atom_site.label_seq_id
_atom_site.pdbx_PDB_ins_code
_atom_site.Cartn_x
_atom_site.Cartn_y
_atom_site.Cartn_z
_atom_site.occupancy
_atom_site.B_iso_or_equiv
_atom_site.auth_seq_id
_atom_site.auth_asym_id
_atom_site.pdbx_PDB_model_num
{atoms}
#
"""


def cif(tmp_path: Path, sequence: dict[int, list[str]], residues: list[tuple]) -> Path:
    """residues: (name, label chain, entity, place or '.', number, authors' chain, x)."""
    listed = [f"{entity} {i} {name}" for entity, names in sequence.items() for i, name in enumerate(names, 1)]
    atoms = []
    for name, label, entity, place, number, chain, x in residues:
        for i, atom in enumerate(["N", "CA", "C"] + ([] if name == "GLY" else ["CB"])):
            group = "ATOM" if place != "." else "HETATM"
            where = f"{name} {label} {entity} {place} ? {x + 0.5 * i} 0.0 0.0 1.0 0.0 {number} {chain} 1"
            atoms.append(f"{group} {len(atoms) + 1} {atom[0]} {atom} . {where}")
    path = tmp_path / "s.cif"
    path.write_text(CIF.format(sequence="\n".join(listed), atoms="\n".join(atoms)))
    return path


def resolved(cb: np.ndarray) -> list[bool]:
    return (~np.isnan(cb).any(1)).tolist()


def test_the_authors_chain_finds_its_own_sequence(tmp_path: Path) -> None:
    """The file's own chain letters differ from the authors': here A and B are swapped."""
    sequence = {1: ["ALA", "LYS", "LYS", "TRP"], 2: ["SER", "GLY", "TRP"]}
    residues = [("ALA", "A", 1, 1, 10, "B", 0), ("LYS", "A", 1, 3, 12, "B", 9), ("TRP", "A", 1, 4, 13, "B", 11)]
    residues += [("GLY", "B", 2, 2, 5, "A", 0), ("TRP", "B", 2, 3, 6, "A", 2)]
    path = cif(tmp_path, sequence, residues)
    found, cb = read_structure(path, "B")
    assert found == "AKKW" and resolved(cb) == [True, False, True, True]  # not the other lysine
    found, cb = read_structure(path, "A")
    assert found == "SGW" and resolved(cb) == [False, True, True]
    np.testing.assert_allclose(cb[1:, 0], [0.5, 3.5])


def test_a_place_that_two_residues_share_counts_once(tmp_path: Path) -> None:
    path = cif(tmp_path, {1: ["ALA", "LYS"]}, [("ALA", "A", 1, 1, 1, "A", 0), ("LYS", "A", 1, 2, 2, "A", 2)])
    path.write_text(path.read_text().replace("1 2 LYS\n", "1 2 LYS\n1 2 SER\n", 1))
    assert read_structure(path, None)[0] == "AK"


@pytest.mark.parametrize(("number", "missing"), [(3, 1), (2, 2)])
def test_numbers_tell_which_of_two_equal_residues_is_missing(tmp_path: Path, number: int, missing: int) -> None:
    seqres = "SEQRES   1 A    4  ALA LYS LYS TRP"
    lines = [*residue("A", 1, 0), *residue("K", number, 20), *residue("W", 4, 40)]
    sequence, cb = read_structure(write(tmp_path, seqres, *lines), None)
    assert sequence == "AKKW" and resolved(cb) == [at != missing for at in range(4)]


def test_numbers_that_run_backwards_do_not_turn_the_chain_round(tmp_path: Path) -> None:
    lines = [*residue("A", 1, 0, icode="B"), *residue("K", 1, 2, icode="A"), *residue("W", 1, 4), *residue("S", 2, 6)]
    assert read_structure(write(tmp_path, *lines), None)[0] == "AKWS"


def test_free_amino_acids_are_ligands_and_unknown_ones_in_the_chain_are_x(tmp_path: Path) -> None:
    lines = [*residue("A", 1, 0), *residue("K", 2, 2), *residue("W", 3, 4)]
    free = [line.replace("ATOM  ", "HETATM") for line in residue("S", 301, 90)]
    assert read_structure(write(tmp_path, *lines, *free), None)[0] == "AKW"
    unknown = [line.replace("LYS", "ZZZ").replace("ATOM  ", "HETATM") for line in lines]
    sequence, cb = read_structure(write(tmp_path, *lines[:4], *unknown[4:8], *lines[8:]), None)
    assert sequence == "AXW" and resolved(cb) == [True, True, True]
    with pytest.raises(InputError, match="no amino acid in it"):
        read_structure(write(tmp_path, *free), None)


def test_a_list_of_structures_is_read_by_split(tmp_path: Path) -> None:
    write(tmp_path, *residue("A", 1, 0), *residue("G", 2, 2), name="one.pdb")
    write(tmp_path, *residue("K", 1, 0), *residue("W", 1, 9, chain="B"), name="two.ent")
    listed = tmp_path / "list.csv"
    listed.write_text("split,chain,file\ntrain,,one.pdb\ntest,B,two.ent\ntest_new,A,two.ent\n")
    records = list(read_structure_list(listed))
    assert [(r.id, r.sequence, r.split) for r in records] == [
        ("one.pdb", "AG", "train"),
        ("two.ent:B", "W", "test"),
        ("two.ent:A", "K", "test_new"),
    ]
    assert records[1].where == f"{listed}, line 3"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("train,,two.ent", "two.ent: it has the chains A, B. Name one of them."),
        ("train,Q,two.ent", "two.ent: no chain 'Q' with amino acids; it has 'A', 'B'."),
        ("train,A,absent.pdb", "absent.pdb: can't be read (No such file or directory)."),
        ("train", "fewer fields than the header names."),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, words: str) -> None:
    write(tmp_path, *residue("K", 1, 0), *residue("W", 1, 9, chain="B"), name="two.ent")
    listed = tmp_path / "list.csv"
    listed.write_text(f"split,chain,file\n{row}\n")
    with pytest.raises(InputError) as error:
        list(read_structure_list(listed))
    assert str(error.value).startswith(f"{listed}, line 2: ") and str(error.value).endswith(words)
