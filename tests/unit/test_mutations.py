"""Scans: what a mutant's name means, how positions are counted, what a wrong row is told, and the folds."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.mutations import apply, fitting_offset, folds, parse, read_scan, read_wild_type
from plmft.data.records import AMINO_ACIDS, Record
from plmft.data.task import DataPlace
from plmft.data.tem1 import WILD_TYPE as TEM1
from plmft.models.head_spec import SequenceHead, VariantScores
from plmft.models.zero_shot import mutated
from plmft.tasks.mutation_effects import mutation_effects

DATA = os.environ.get("PLMFT_DATA")
FOLDER = Path(DATA).resolve() if DATA else None
real = pytest.mark.skipif(
    FOLDER is None or not (FOLDER / "mutation_effects" / "BLAT_ECOLX_wt.fasta").is_file(),
    reason="PLMFT_DATA names no folder with the scan of TEM-1",
)
WILD_TYPE = "MKTAYIAKQR"
letters = st.sampled_from(AMINO_ACIDS)


@st.composite
def variants(draw: st.DrawFn) -> tuple[str, list[tuple[int, str]], int]:
    """A wild type, (index, new letter) pairs at different indices, and an offset."""
    wild_type = draw(st.text(letters, min_size=1, max_size=40))
    at = draw(st.lists(st.integers(0, len(wild_type) - 1), min_size=1, max_size=5, unique=True))
    return wild_type, [(i, draw(letters)) for i in at], draw(st.integers(-50, 300))


def named(wild_type: str, changes: list[tuple[int, str]], offset: int, separator: str = ":") -> str:
    return separator.join(f"{wild_type[i]}{i + 1 + offset}{letter}" for i, letter in changes)


def write(folder: Path, *rows: str, header: str = "mutant,score", name: str = "scan.csv") -> Path:
    (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder / name


def read(path: Path, wild_type: str = WILD_TYPE, **changes) -> tuple[list[Record], str]:
    return read_scan(path, wild_type, **{"mutant_column": "mutant", "target_column": "score", "offset": None} | changes)


@given(variants(), st.sampled_from([":", ",", ";", "/", " : ", ", "]))
def test_a_name_is_the_sequence_that_it_says(case: tuple[str, list[tuple[int, str]], int], separator: str) -> None:
    wild_type, changes, offset = case
    wanted = list(wild_type)
    for i, letter in changes:
        wanted[i] = letter
    found = apply(wild_type, parse(named(wild_type, changes, offset, separator), "row 1", "mutant"), offset, "row 1")
    assert found == "".join(wanted)
    assert mutated(wild_type, found) == sorted(i for i, letter in changes if letter != wild_type[i])


@pytest.mark.parametrize(
    "mutant", ["", "A24", "24G", "a24g", "A24*", "A24-", "A24G:", "A24G-K3R", "B4A", "A2.4G", "WT"]
)
def test_what_is_no_mutant_is_told(mutant: str) -> None:
    with pytest.raises(InputError) as raised:
        parse(mutant, "scan.csv, line 2", "mutant")
    assert str(raised.value) == (
        f"scan.csv, line 2: column 'mutant': {mutant!r} is no mutant. Write A24G (wild type, position, mutant), "
        "several joined by ':'; insertions and deletions can't be scored."
    )


def test_a_position_mutated_twice_is_told() -> None:
    with pytest.raises(InputError, match=r"^row 9: column 'm': 'A3G:K4R:A3L' mutates a position twice\. Keep one"):
        parse("A3G:K4R:A3L", "row 9", "m")


@pytest.mark.parametrize(
    ("mutant", "offset", "words"),
    [
        ("K1A", 0, "row 2: K1A: position 1 is M, not K. Two wild types in one file, the wrong wild type, or the wrong"),
        ("R11A", 0, "row 2: R11A: the wild type has positions 1 to 10. Correct the row, or set task.offset."),
        ("M0A", 0, "row 2: M0A: the wild type has positions 1 to 10."),
        ("M23A", 23, "row 2: M23A: the wild type has positions 24 to 33."),
        ("M-4A", -4, "row 2: M-4A: the wild type has positions -3 to 6."),
    ],
)
def test_a_mutant_that_does_not_fit_the_wild_type_is_told(mutant: str, offset: int, words: str) -> None:
    with pytest.raises(InputError) as raised:
        apply(WILD_TYPE, parse(mutant, "row 2", "mutant"), offset, "row 2")
    assert str(raised.value).startswith(words)


@given(variants())
def test_the_offset_that_is_found_fits_every_mutant(case: tuple[str, list[tuple[int, str]], int]) -> None:
    """Against a search of all offsets, one mutant at a time; 0 goes before others."""
    wild_type, changes, offset = case
    rows = [(f"row {n}", parse(named(wild_type, [c], offset), f"row {n}", "m")) for n, c in enumerate(changes)]

    def fits(candidate: int) -> bool:
        places = [(position - candidate - 1, before) for _, parsed in rows for before, position, _ in parsed]
        return all(0 <= i < len(wild_type) and wild_type[i] == before for i, before in places)

    fitting = [o for o in range(offset - 50, offset + 51) if fits(o)]
    assert offset in fitting
    if fits(0) or len(fitting) == 1:
        assert fitting_offset(wild_type, rows) == (0 if fits(0) else offset)
    else:
        with pytest.raises(InputError, match=rf"row 0: {len(fitting)} ways to count positions fit.*Set task\.offset"):
            fitting_offset(wild_type, rows)


@given(st.text(letters, min_size=2, max_size=40), st.integers(1, 300))
def test_a_scan_of_every_position_has_one_offset(wild_type: str, offset: int) -> None:
    rows = [(f"row {i}", parse(f"{c}{i + 1 + offset}A", "", "m")) for i, c in enumerate(wild_type)]
    assert fitting_offset(wild_type, rows) == offset


def test_the_row_of_another_wild_type_is_told(tmp_path: Path) -> None:
    """Nine rows fit an offset of 100, the tenth doesn't: it is at fault, not they."""
    rows = [f"{c}{i + 101}W,0.5" for i, c in enumerate(WILD_TYPE[:9])]
    path = write(tmp_path, *rows, "G110W,0.5")
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}, line 11: G110W: position 110 is R, not G. Two wild types in one file")


def test_of_two_ways_to_be_wrong_the_usual_one_is_told(tmp_path: Path) -> None:
    """Each row fits some offset, no two the same one: positions are then counted from 1."""
    with pytest.raises(InputError, match=r"line 3: K3A: position 3 is T, not K\."):
        read(write(tmp_path, "M1A,1", "K3A,2"))


@pytest.mark.parametrize("text", ["mktayiakqr", "MKTAYIAKQR*", "MKT-AYIAKQR"])
def test_a_wild_type_of_other_letters_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.fasta").write_text(f">w\n{text}\n")
    with pytest.raises(
        InputError, match=r"w\.fasta, line 1: '.' in 'w' is no amino acid\. Write the wild type in upper"
    ):
        read_wild_type(tmp_path / "w.fasta")


def test_positions_wider_apart_than_the_wild_type_is_long_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"positions 1 to 11 don't fit a wild type of 10 residues"):
        read(write(tmp_path, "M1A,1", "R11A,2"))


def test_a_scan_is_read_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, "M1A,0.5", '"K2R,T3S",-1e-3', "Q9Q,0", "R10A:M1G, 2 ")
    records, note = read(path)
    assert [r.id for r in records] == ["M1A", "K2R,T3S", "Q9Q", "R10A:M1G"]
    assert [r.sequence for r in records] == ["AKTAYIAKQR", "MRSAYIAKQR", WILD_TYPE, "GKTAYIAKQA"]
    assert [r.target for r in records] == [0.5, -1e-3, 0.0, 2.0]
    assert {r.split for r in records} == {"test"} and records[1].where == f"{path}, line 3"
    assert note == "scan.csv: mutant position 1 is the first residue of the wild type (as usual; it fits)."


def test_the_layout_of_proteingym_is_read(tmp_path: Path) -> None:
    text = "mutant,mutated_sequence,DMS_score,DMS_score_bin\nM1A:K2R,ARTAYIAKQR,0.7,1\nQ9W,MKTAYIAKWR,-2,0\n"
    (tmp_path / "X.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))  # with a BOM
    records, _ = read(tmp_path / "X.csv.gz", target_column="DMS_score")
    assert [r.sequence for r in records] == ["ARTAYIAKQR", "MKTAYIAKWR"] and [r.target for r in records] == [0.7, -2]


def test_an_offset_that_is_set_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "w.fasta").write_text(">w\nMMMM\n")
    path = write(tmp_path, "M7A,1", "M8A,1")
    with pytest.raises(InputError, match="3 ways to count positions fit"):
        read(path, wild_type="MMMM")
    records, note = read(path, wild_type="MMMM", offset=5)
    assert [r.sequence for r in records] == ["MAMM", "MMAM"]
    assert note == "scan.csv: mutant position 6 is the first residue of the wild type (as set)."


@pytest.mark.parametrize(
    ("header", "row", "words"),
    [
        ("variant,score", "M1A,1", "line 2: no column 'mutant'; the columns are variant, score. Set task.mutant."),
        ("mutant;score", "M1A;1", "line 2: no column 'mutant'; the columns are mutant;score. Set task.mutant."),
        ("mutant,fitness", "M1A,1", "line 2: no column 'score'; the columns are mutant, fitness. Set task.target."),
        ("mutant,score", "M1A,high", "the target 'high' is not a number"),
        ("mutant,score", "M1A,", "the target is missing. Fill it in or remove the row."),
        ("mutant,score", "M1A", "line 2: fewer fields than the header names."),
        ("mutant,score", "M1A,1,2", "line 2: more fields than the header names."),
        ("mutant,score", "M1del,1", "line 2: column 'mutant': 'M1del' is no mutant."),
    ],
)
def test_a_row_with_a_fault_is_told(tmp_path: Path, header: str, row: str, words: str) -> None:
    path = write(tmp_path, row, header=header)
    with pytest.raises(InputError) as raised:
        read(path)
    told = str(raised.value)
    assert told.startswith(f"{path}, line 2: ") and words.removesuffix(".") in told


def test_a_scan_without_mutants_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scan\.csv: no mutants below the header\."):
        read(write(tmp_path))


def test_a_wild_type_is_one_sequence(tmp_path: Path) -> None:
    path = tmp_path / "w.fasta"
    path.write_text(">P1 first\nMKTA\nYIAKQR\n")
    assert read_wild_type(path) == WILD_TYPE
    path.write_text(">P1 first\nMKTA\n>P2\nMKTG\n>P3\nMKTG\n")
    with pytest.raises(InputError) as raised:
        read_wild_type(path)
    assert str(raised.value) == (
        f"{path}: 3 sequences, P1 and P2 among them; a scan has one wild type. Keep the one that the mutants belong to."
    )
    with pytest.raises(InputError, match=r"nowhere\.fasta: can't be read \(No such file"):
        read_wild_type(tmp_path / "nowhere.fasta")


def singles(wild_type: str) -> list[Record]:
    """All 19 mutants of every position, by position."""
    return [
        Record(f"{c}{i + 1}{x}", f"{wild_type[:i]}{x}{wild_type[i + 1 :]}", 0.0, "test")
        for i, c in enumerate(wild_type)
        for x in AMINO_ACIDS
        if x != c
    ]


def positions_by_fold(wild_type: str, records: list[Record], how: str, count: int) -> list[set[int]]:
    found: list[set[int]] = [set() for _ in range(count)]
    for record, fold in zip(records, folds(records, wild_type, how, count, seed=0), strict=True):
        found[fold].update(mutated(wild_type, record.sequence)[:1])
    return found


@given(st.text(letters, min_size=5, max_size=40), st.integers(2, 5))
def test_folds_by_position_share_none(wild_type: str, count: int) -> None:
    records = singles(wild_type)
    for how in ("modulo", "contiguous"):
        sets = positions_by_fold(wild_type, records, how, count)
        assert sorted(p for positions in sets for p in positions) == list(range(len(wild_type)))
        sizes = [len(positions) for positions in sets]
        assert max(sizes) - min(sizes) <= 1
        if how == "contiguous":
            assert all(positions == set(range(min(positions), max(positions) + 1)) for positions in sets)
        else:
            assert all(len({p % count for p in positions}) == 1 for positions in sets)


def test_random_folds_are_of_one_size_and_seeded() -> None:
    records = singles(WILD_TYPE)
    found = list(folds(records, WILD_TYPE, "random", 5, seed=0))
    assert list(np.bincount(found)) == [38] * 5
    assert found == list(folds(records, WILD_TYPE, "random", 5, seed=0))
    assert found != list(folds(records, WILD_TYPE, "random", 5, seed=1))


def test_a_mutant_with_several_mutations_goes_by_its_first() -> None:
    record = Record("x", "MKGAYIAKQW", 0.0, "test")
    assert list(folds([*singles(WILD_TYPE), record], WILD_TYPE, "modulo", 5, seed=0))[-1] == 2
    assert list(folds([*singles(WILD_TYPE), record], WILD_TYPE, "contiguous", 5, seed=0))[-1] == 1
    with pytest.raises(ValueError, match="how='stratified'"):
        list(folds([record], WILD_TYPE, "stratified", 5, seed=0))


def make_task(**changes):
    options = {"split": "zero_shot", "fold": 0, "file": None, "wild_type": None, "mutant": "mutant", "target": "score"}
    head = SequenceHead("mean", normalize=True, hidden=4, dropout=0.0)
    return mutation_effects(VariantScores("masked_marginals"), head, **options | {"offset": None} | changes)


@pytest.fixture
def scan(tmp_path: Path) -> dict[str, str]:
    rows = [f"{r.id},{n % 7}" for n, r in enumerate(singles(WILD_TYPE))]
    (tmp_path / "w.fasta").write_text(f">w\n{WILD_TYPE}\n")
    return {"file": str(write(tmp_path, *rows)), "wild_type": str(tmp_path / "w.fasta")}


@given(st.integers(0, 99), st.sampled_from(["modulo", "contiguous"]))
@settings(max_examples=20)
def test_folds_of_a_mutated_region_are_of_one_size(seed: int, how: str) -> None:
    """Only the positions that are mutated are shared out, as in ProteinGym: none of the folds is empty."""
    rng = np.random.default_rng(seed)
    wild_type = "MKTAYIAKQR" * 20
    positions = sorted(rng.choice(range(100, 140), rng.integers(5, 40), replace=False).tolist())
    records = [r for r in singles(wild_type) if mutated(wild_type, r.sequence)[0] in positions]
    found = positions_by_fold(wild_type, [records[i] for i in rng.permutation(len(records))], how, 5)
    if how == "contiguous":
        assert found == [set(part.tolist()) for part in np.array_split(positions, 5)]
    else:
        assert found == [set(positions[i::5]) for i in range(5)]


def test_random_folds_do_not_hang_on_the_order_of_rows(rng: np.random.Generator) -> None:
    records = singles(WILD_TYPE)
    shuffled = [records[i] for i in rng.permutation(len(records))]
    first, again = (
        dict(zip([r.id for r in rs], folds(rs, WILD_TYPE, "random", 5, seed=0), strict=True))
        for rs in (records, shuffled)
    )
    assert first == again


@pytest.mark.parametrize("split", ["random", "modulo", "contiguous"])
def test_each_mutant_is_tested_in_one_fold(scan: dict[str, str], split: str, tmp_path: Path) -> None:
    tested, valid = [], []
    for fold in range(5):
        task = make_task(**scan, split=split, fold=fold)
        loaded = task.read(DataPlace(None, tmp_path))
        assert len(loaded.records) == 190 and not any(r.partner for r in loaded.records)
        tested.append({r.id for r in loaded.records if r.split == "test"})
        valid.append({r.id for r in loaded.records if r.split == "valid"})
        assert {r.split for r in loaded.records} == {"train", "valid", "test"}
        assert loaded.notes[1].startswith(f"Fold {fold} of 5 ({split}) is the test, the next one the validation")
    assert sum(map(len, tested)) == len(set.union(*tested)) == 190
    assert valid == tested[1:] + tested[:1]
    assert (task.kind, task.needs) == ("sequence_regression", ("train", "valid", "test"))


def test_without_training_all_are_tested_beside_their_wild_type(scan: dict[str, str], tmp_path: Path) -> None:
    task = make_task(**scan)
    loaded = task.read(DataPlace(None, tmp_path))
    assert {(r.split, r.partner) for r in loaded.records} == {("test", WILD_TYPE)}
    assert (task.kind, task.needs, len(loaded.records)) == ("variant_scoring", ("test",), 190)


@pytest.mark.parametrize("name", ["file", "wild_type"])
def test_a_scan_of_ones_own_needs_its_wild_type(scan: dict[str, str], tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"task\.file and task\.wild_type belong together"):
        make_task(**{name: scan[name]}).read(DataPlace(FOLDER, tmp_path))


def test_a_column_may_be_named_by_a_number(scan: dict[str, str], tmp_path: Path) -> None:
    file = write(tmp_path, "M1A,2", header="mutant,39", name="other.csv")
    (record,) = make_task(**scan | {"file": str(file)}, target=39).read(DataPlace(None, tmp_path)).records
    assert record.target == 2


@real
def test_the_wild_type_that_is_known_is_that_of_the_file() -> None:
    assert read_wild_type(FOLDER / "mutation_effects" / "BLAT_ECOLX_wt.fasta") == TEM1
    assert len(TEM1) == 263


@real
def test_the_scan_of_tem1_is_read_whole(tmp_path: Path) -> None:
    loaded = make_task(target="2500").read(DataPlace(FOLDER, tmp_path))
    records, wild_type = loaded.records, loaded.records[0].partner
    assert len(records) == len({r.id for r in records}) == len({r.sequence for r in records}) == 4996
    assert len(wild_type) == 263 and {len(mutated(wild_type, r.sequence)) for r in records} == {1}
    assert loaded.notes == (
        "BLAT_ECOLX_Ranganathan2015_labeled.csv.gz: mutant position 24 is the first residue of the wild type "
        "(the only way that fits every row).",
    )
    first = next(r for r in records if r.id == "H24C")
    assert first.sequence == "C" + wild_type[1:] and first.target == -0.418259925


@real
def test_missing_values_of_another_column_are_told(tmp_path: Path) -> None:
    """19 rows have no value for cefotaxime: the first is named, none is dropped."""
    read: Callable = make_task(target="cefotaxime").read
    with pytest.raises(InputError, match=r"line \d+: .*the target is missing\. Fill it in or remove the row"):
        read(DataPlace(FOLDER, tmp_path))
