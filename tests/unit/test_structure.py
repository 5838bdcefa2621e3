"""PDB and mmCIF as they come: alternate locations, insertion codes, gaps, modified residues, several chains."""

import os
from pathlib import Path

import numpy as np
import pytest
from Bio.PDB.mmcifio import MMCIFIO
from Bio.PDB.PDBParser import PDBParser

from plmft import InputError
from plmft.data.contacts import read_contacts
from plmft.data.structure import read_structure

DATA = os.environ.get("PLMFT_DATA")
PDB = Path(DATA).resolve() / "contacts" / "pdb" if DATA else None
needs_data = pytest.mark.skipif(PDB is None or not PDB.is_dir(), reason="PLMFT_DATA names no folder with PDB files")
NAMES = {"A": "ALA", "G": "GLY", "K": "LYS", "M": "MSE", "S": "SER", "W": "TRP"}


def atom(serial: int, name: str, letter: str, number: int, x: float, *, chain="A", alt=" ", icode=" ", occupancy=1.0):
    record = "HETATM" if letter == "M" else "ATOM  "
    return (
        f"{record}{serial:5d}  {name:<3}{alt}{NAMES.get(letter, letter):>3} {chain}{number:4d}{icode}   "
        f"{x:8.3f}{0.0:8.3f}{0.0:8.3f}{occupancy:6.2f}{0.0:6.2f}          {name[0]:>2}"
    )


def residue(letter: str, number: int, x: float, **options) -> list[str]:
    names = ["N", "CA", "C"] + ([] if letter == "G" else ["CB"])
    return [atom(4 * number + i, name, letter, number, x + 0.5 * i, **options) for i, name in enumerate(names)]


def write(tmp_path: Path, *lines: str, name: str = "s.pdb") -> Path:
    path = tmp_path / name
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def test_glycine_is_its_alpha_carbon_and_modified_residues_are_what_they_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, *residue("A", 1, 0), *residue("G", 2, 2), *residue("M", 3, 4))
    sequence, cb = read_structure(path, None)
    assert sequence == "AGM"
    np.testing.assert_allclose(cb[:, 0], [1.5, 2.5, 5.5])


def test_a_missing_beta_carbon_is_unresolved(tmp_path: Path) -> None:
    path = write(tmp_path, *residue("A", 1, 0), *residue("K", 2, 2)[:3])
    assert np.isnan(read_structure(path, "A")[1]).any(1).tolist() == [False, True]


def test_of_alternate_locations_the_fuller_one_counts(tmp_path: Path) -> None:
    lines = residue("A", 1, 0)
    lines[3] = atom(7, "CB", "A", 1, 9.0, alt="A", occupancy=0.3)
    lines.append(atom(8, "CB", "A", 1, 5.0, alt="B", occupancy=0.7))
    np.testing.assert_allclose(read_structure(write(tmp_path, *lines), "A")[1][:, 0], [5.0])


def test_insertion_codes_come_after_their_number(tmp_path: Path) -> None:
    lines = [*residue("A", 1, 0), *residue("K", 2, 4), *residue("W", 1, 2, icode="A")]
    assert read_structure(write(tmp_path, *lines), None)[0] == "AWK"


def test_gaps_are_filled_from_seqres(tmp_path: Path) -> None:
    seqres = "SEQRES   1 A    6  SER ALA LYS TRP GLY SER"
    sequence, cb = read_structure(write(tmp_path, seqres, *residue("A", 2, 0), *residue("G", 5, 30)), None)
    assert sequence == "SAKWGS" and np.isnan(cb).any(1).tolist() == [True, False, True, True, False, True]


def test_gaps_without_seqres_follow_the_numbering_of_unbonded_residues(tmp_path: Path) -> None:
    apart = write(tmp_path, *residue("A", 1, 0), *residue("K", 4, 30))
    assert read_structure(apart, None)[0] == "AXXK"
    bonded = write(tmp_path, *residue("A", 1, 0), *residue("K", 4, 2))  # numbered with a jump, but C to N is 1 Å
    assert read_structure(bonded, None)[0] == "AK"
    merged = write(tmp_path, *residue("A", 1, 0), *residue("K", 501, 30))
    assert read_structure(merged, None)[0] == "AK"


@pytest.mark.parametrize(
    ("lines", "chain", "words"),
    [
        ([], None, "no amino acid in it"),
        ([atom(1, "O", "HOH", 1, 0.0).replace("ATOM  ", "HETATM")], None, "no amino acid in it"),
        ([*residue("A", 1, 0), *residue("K", 1, 9, chain="B")], None, "it has the chains A, B. Name one of them"),
        (residue("A", 1, 0), "Q", "no chain 'Q' with amino acids; it has 'A'"),
        (["ATOM    not a number at all, and far too long to be a coordinate"], None, "can't be read as PDB"),
    ],
)
def test_bad_structures_are_named(tmp_path: Path, lines: list[str], chain: str | None, words: str) -> None:
    with pytest.raises(InputError) as error:
        read_structure(write(tmp_path, *lines), chain)
    assert words in str(error.value) and "s.pdb" in str(error.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.pdb, \.ent, \.cif"):
        read_structure(tmp_path / "s.txt", None)
    with pytest.raises(InputError, match="can't be read"):
        read_structure(tmp_path / "absent.pdb", None)


def test_mmcif_gives_what_pdb_gives(tmp_path: Path) -> None:
    path = write(tmp_path, *residue("A", 1, 0), *residue("G", 2, 2), *residue("M", 3, 4), *residue("W", 9, 30))
    writer = MMCIFIO()
    writer.set_structure(PDBParser(QUIET=True).get_structure("s", path))
    writer.save(str(tmp_path / "s.cif"))
    (sequence, cb), (again, same) = read_structure(path, None), read_structure(tmp_path / "s.cif", "A")
    assert sequence == again == "AGMXXXXXW"
    np.testing.assert_allclose(cb, same, atol=1e-3)


@needs_data
def test_real_files_give_the_published_coordinates() -> None:
    """Eight chains whose coordinates are in the data set, read before by other code."""
    known = {
        r.id: r
        for split in ("train", "valid", "test")
        for r in read_contacts(PDB.parent / f"contacts_{split}.jsonl.gz", split)
    }
    compared = [path for path in sorted(PDB.glob("*.pdb")) if path.stem in known]
    assert len(compared) == 8
    for path in compared:
        sequence, cb = read_structure(path, None)
        assert sequence == known[path.stem].sequence
        np.testing.assert_allclose(cb, known[path.stem].target, atol=0.0051)


@needs_data
def test_real_files_with_gaps_and_seqres() -> None:
    lengths = {"1AVX_l_u": 176, "1EFN_r_u": 130, "1FQJ_l_u": 138, "1A8O": 70}
    assert {name: len(read_structure(PDB / f"{name}.pdb", None)[0]) for name in lengths} == lengths
    sequence, cb = read_structure(PDB / "2BEG.pdb", "C")
    assert sequence == "DAEFRHDSGYEVHHQKLVFFAEDVGSNKGAIIGLMVGGVVIA" and np.isnan(cb).any(1).sum() == 16
