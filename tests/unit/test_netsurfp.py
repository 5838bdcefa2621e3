"""NetSurfP-2.0's CSV files in both forms that are about, their masks, and the eight-state task made of them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from plmft import InputError
from plmft.config.compose import compose_config
from plmft.data.netsurfp import STATES, read_netsurfp
from plmft.data.records import IGNORE, Record, build_dataset
from plmft.data.task import DataPlace, Loaded, Task
from tests.conftest import random_sequence

Q3 = dict(zip("GHIBESTC", "HHHEECCC", strict=True))
HEADER = "input,dssp3,dssp8,disorder,cb513_mask\n"
ROWS = [("MKUVX", "CHHEC", "SHGBT", "0 1 1 1 1", "1 1 0 1 1"), ("AC", "EC", "EC", "1 1", "0 1")]
SPACED = "input, dssp3, dssp8, disorder, cb513_mask\n"


def plain() -> str:
    """As on the hub: letters together, masks as floats."""
    return HEADER + "".join(
        f"{s},{q3},{q8},{_floats(disorder)},{_floats(mask)}\n" for s, q3, q8, disorder, mask in ROWS
    )


def spaced() -> str:
    """As ProtTrans has them: everything apart, a space at the end, and before the names of columns."""
    lines = [[*(" ".join(text) + " " for text in row[:3]), *(f"{_floats(text)} " for text in row[3:])] for row in ROWS]
    return SPACED + "".join(",".join(line) + "\n" for line in lines)


def _floats(mask: str) -> str:
    return " ".join(f"{float(word)}" for word in mask.split())


def read(path: Path, text: str, states: int) -> list[Record]:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return list(read_netsurfp(path, "test_x", states))


@pytest.mark.parametrize("text", [plain(), spaced()], ids=["together", "apart"])
def test_both_forms_give_the_same(tmp_path: Path, text: str) -> None:
    for name in ("TS115.csv", "TS115_HHblits.csv.gz"):
        found = read(tmp_path / name, text, 3)
        assert [(r.id, r.sequence, r.target.tolist(), r.split) for r in found] == [
            ("test_x-0", "MKUVX", [IGNORE, 0, 0, 1, 2], "test_x"),
            ("test_x-1", "AC", [1, 2], "test_x"),
        ]
        assert found[1].where == f"{tmp_path / name}, line 3"
    eight = [STATES[8].index(letter) for letter in "HGBT"]
    assert read(tmp_path / "a.csv", text, 8)[0].target.tolist() == [IGNORE, *eight]


@pytest.mark.parametrize("name", ["CB513.csv", "CB513_HHblits.csv", "CB513.csv.gz"])
def test_the_last_mask_is_that_of_cb513_alone(tmp_path: Path, name: str) -> None:
    """NetSurfP defines it for CB513; elsewhere it says nothing."""
    found = read(tmp_path / name, plain(), 3)
    assert [r.target.tolist() for r in found] == [[IGNORE, 0, IGNORE, 1, 2], [IGNORE, 2]]


def test_other_columns_do_no_harm(tmp_path: Path) -> None:
    text = "nr,input,dssp8,dssp3,disorder,xyz\n0,MK,GC,HC,1.0 0.0,9\n"  # CASP13's has no cb513_mask
    assert read(tmp_path / "a.csv", text, 3)[0].target.tolist() == [0, IGNORE]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dssp8", "q8", "line 2: no column dssp8; the columns are input, dssp3, q8, disorder, cb513_mask"),
        ("SHGBT", "SHGB", "line 2: column 'dssp8' has 5 residues but 4 labels. Give each residue one"),
        ("SHGBT", "SHLBT", "line 2: column 'dssp8': label 'L' at position 3; known are G, H, I, B, E, S, T, C"),
        ("0.0 1.0 1.0 1.0 1.0", "0.0 1.0", "line 2: column 'disorder' has 5 residues but 2 mask values"),
        (
            "0.0 1.0 1.0 1.0 1.0",
            "0.0 0.5 1.0 1.0 1.0",
            "line 2: column 'disorder' has the mask value '0.5' at position 2",
        ),
        ("1.0 1.0 0.0 1.0 1.0", "1", "line 2: column 'cb513_mask' has 5 residues but 1 mask values"),
        (",1.0 1.0,0.0 1.0", "", "line 3: fewer fields than the header names"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in plain()
    with pytest.raises(InputError) as error:
        read(tmp_path / "CB513.csv", plain().replace(old, new), 8)
    assert words in str(error.value) and str(tmp_path / "CB513.csv") in str(error.value)


def made(folder: Path, name: str, count: int, rng: np.random.Generator) -> Path:
    """A file of random chains, labels and masks."""
    lines = []
    for _ in range(count):
        length = int(rng.integers(5, 30))
        q8 = "".join(rng.choice(list("GHIBESTC"), length))
        masks = [" ".join(map(str, rng.choice([0.0, 1.0], length, p=[0.2, 0.8]))) for _ in range(2)]
        lines.append(",".join([random_sequence(rng, length), "".join(Q3[c] for c in q8), q8, *masks]))
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(HEADER + "\n".join(lines) + "\n")
    return folder / name


def task(states: int) -> Task:
    return instantiate(compose_config(["task=secondary_structure", f"task.states={states}"]).task, _convert_="all")


def loaded(folder: Path, states: int) -> Loaded:
    return task(states).read(DataPlace(folder, folder / "cache"))


def test_eight_states_are_trained_and_tested_on_these_files(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "secondary_structure"
    for name, count in (("training_hhblits.csv", 40), ("CB513.csv", 6), ("TS115.csv", 3), ("NEW364.csv", 2)):
        made(folder, name, count, rng)
    found = loaded(tmp_path, 8)
    eight = task(8)
    assert eight.classes == tuple("GHIBESTC") and eight.outputs == 8 and eight.protocol == ""
    dataset = build_dataset(eight.name, eight.kind, found.records, source=found.source, n_classes=8)
    assert dataset.counts == {"train": 36, "valid": 4, "test": 6, "test_new364": 2, "test_ts115": 3}
    assert found.notes == ("No validation split in the data: 4 of 40 training records, drawn with seed 0, are it.",)
    three = {r.sequence: r.target for r in read_netsurfp(folder / "CB513.csv", "test", 3)}
    for record in dataset.splits["test"]:  # the states of DSSP fall into three: the columns agree
        wanted = [IGNORE if t == IGNORE else STATES[3].index(Q3[STATES[8][t]]) for t in record.target]
        assert three[record.sequence].tolist() == wanted


def test_three_states_take_further_test_sets_where_they_lie_beside(tmp_path: Path, rng: np.random.Generator) -> None:
    from tests.e2e.miniatures import COUNTS, write_flip

    write_flip(tmp_path, rng)
    assert {r.split for r in loaded(tmp_path, 3).records} == {"train", "valid", "test"}
    for name, count in (("CB513_HHblits.csv", 6), ("TS115.csv", 3), ("CASP12.csv", 2)):
        made(tmp_path / "secondary_structure", name, count, rng)
    found, three = loaded(tmp_path, 3), task(3)
    dataset = build_dataset(three.name, three.kind, found.records, source=found.source, n_classes=3)
    assert dataset.counts == {**COUNTS, "test_casp12": 2, "test_cb513": 6, "test_ts115": 3}
    assert list(dataset.tests) == ["test", "test_casp12", "test_cb513", "test_ts115"]
    assert three.protocol == "flip/secondary_structure" and three.classes == ("H", "E", "C")


def test_eight_states_without_their_files_are_told(tmp_path: Path, rng: np.random.Generator) -> None:
    from tests.e2e.miniatures import write_flip

    write_flip(tmp_path, rng)
    with pytest.raises(InputError) as error:
        loaded(tmp_path, 8)
    assert str(error.value) == (
        f"task.states=8: FLIP's labels have three states; eight need other files. {tmp_path / 'secondary_structure'} "
        "holds none of training_hhblits.csv, training_hhblits.csv.gz, Train_HHblits.csv, Train_HHblits.csv.gz. Put one "
        "there, or set data.dir or PLMFT_DATA to the folder that has it."
    )
    made(tmp_path / "secondary_structure", "Train_HHblits.csv", 20, rng)
    with pytest.raises(InputError, match=r"holds none of CB513\.csv"):
        loaded(tmp_path, 8)
    with pytest.raises(InputError, match=r"can't be downloaded\. Put training_hhblits\.csv, CB513\.csv into a folder"):
        task(8).read(DataPlace(None, tmp_path))
