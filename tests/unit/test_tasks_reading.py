"""What each task makes of its files: splits, classes and units, against what was written."""

import csv
import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from plmft import InputError
from plmft.config.compose import compose_config
from plmft.data.records import DataSet, build_dataset
from plmft.data.task import DataPlace, Loaded, Task
from plmft.metrics.evaluate import SCORERS
from tests.conftest import random_sequence
from tests.e2e.miniatures import write_all, write_csv


def task(name: str, *overrides: str) -> Task:
    return instantiate(compose_config([f"task={name}", *overrides]).task, _convert_="all")


def load(folder: Path, name: str, *overrides: str) -> Loaded:
    return task(name, *overrides).read(DataPlace(folder, folder / "cache"))


def checked(folder: Path, name: str, *overrides: str) -> DataSet:
    made, loaded = task(name, *overrides), load(folder, name, *overrides)
    return build_dataset(name, made.kind, loaded.records, source=loaded.source, n_classes=len(made.classes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("data"), np.random.default_rng(3))


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", newline="") as file:
        return list(csv.DictReader(file))


def test_published_metrics_are_the_primary_ones() -> None:
    wanted = {
        "fluorescence": ("spearman", "tape/fluorescence"),
        "stability": ("spearman", "tape/stability"),
        "homology": ("accuracy", "tape/remote_homology_fold"),
        "secondary_structure": ("accuracy", "flip/secondary_structure"),
        "gb1": ("spearman", "flip/gb1_two_vs_rest"),
        "binding": ("mcc", "flip/binding"),
        "localization": ("accuracy", ""),
        "thermostability": ("spearman", ""),
    }
    for name, (metric, protocol) in wanted.items():
        made = task(name)
        assert (made.primary_metric, made.protocol) == (metric, protocol)
    assert {"mcc", "auroc", "auprc"} <= set(SCORERS["residue_classification"].names)
    assert "top5_accuracy" in SCORERS["sequence_classification"].names
    assert task("gb1", "task.split=low_vs_high").protocol == "flip/gb1_low_vs_high"
    assert task("binding", "task.ligand=metal").protocol == ""
    assert task("thermostability").unit == "°C"


def test_tape_files_are_read_in_both_layouts(folder: Path, tmp_path: Path) -> None:
    """TAPE's JSON has other names of columns, and its ids start anew in each file."""
    stems = {"stability": "stability", "homology": "remote_homology"}
    columns = {"stability": "stability_score", "homology": "fold_label"}
    for name, stem in stems.items():
        (tmp_path / name).mkdir()
        for split in ("train", "valid", "test"):
            table = rows(folder / name / f"{stem}_{split}.csv.gz")
            values = [[float(r["label"])] if name == "stability" else int(r["label"]) for r in table]
            records = [
                {"id": str(i), "primary": r["seq"], columns[name]: v, "superfamily_label": 3}
                for i, (r, v) in enumerate(zip(table, values, strict=True))
            ]
            (tmp_path / name / f"{stem}_{split}.json").write_text(json.dumps(records))
        assert checked(tmp_path, name).digest == checked(folder, name).digest


def test_equal_sequences_are_kept(folder: Path, tmp_path: Path) -> None:
    """The data have some, with labels far apart: no reader may drop them."""
    table = [["MKV", 1.0], ["MKV", 2.9], ["MKV", 1.0]]
    for split in ("train", "valid", "test"):
        write_csv(tmp_path / "stability" / f"stability_{split}.csv", ["seq", "label"], table)
    dataset = checked(tmp_path, "stability")
    assert dataset.counts == {"train": 3, "valid": 3, "test": 3}


def test_further_homology_test_sets_are_read_where_present(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "valid", "test", "test_superfamily"):
        write_csv(tmp_path / f"remote_homology_{split}.csv.gz", ["seq", "label"], [["MKV", 1194], ["MKL", 0]])
    dataset = checked(tmp_path, "homology")
    assert dataset.counts == {"train": 2, "valid": 2, "test": 2, "test_superfamily": 2}
    assert sorted(r.target for r in dataset.tests["test_superfamily"]) == [0, 1194]
    assert list(checked(folder, "homology").tests) == ["test"]
    write_csv(tmp_path / "remote_homology_test.csv.gz", ["seq", "label"], [["MKV", 1195]])
    with pytest.raises(InputError, match=r"line 2: column 'label': '1195' is no class\. Known: 1195 others"):
        load(tmp_path, "homology")


def test_binding_labels_are_sums_of_three_ligands(tmp_path: Path) -> None:
    """Digits as FLIP's README counts them: 4 small, 2 nucleic, 1 metal."""
    sets = ("SET=train VALIDATION=False", "SET=train VALIDATION=True", "SET=test VALIDATION=False")
    sequences = "".join(f">p{i}\nMKLVWACD\n" for i in range(3))
    labels = "".join(f">p{i} {words}\n01234567\n" for i, words in enumerate(sets))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "sequences.fasta").write_text(sequences)
    (tmp_path / "splits" / "from_publication.fasta").write_text(labels)
    wanted = {"any": "01111111", "small": "00001111", "nucleic": "00110011", "metal": "01010101"}
    for ligand, digits in wanted.items():
        dataset = checked(tmp_path, "binding", f"task.ligand={ligand}")
        assert dataset.counts == {"train": 1, "valid": 1, "test": 1}
        assert dataset.splits["test"][0].target.tolist() == [int(d) for d in digits]
    (tmp_path / "splits" / "from_publication.fasta").write_text(labels.replace("7", "8"))
    with pytest.raises(InputError, match=r"line 1: 'p0': label '8' at position 8; known are 0, 1, 2, 3, 4, 5, 6, 7"):
        load(tmp_path, "binding")


@pytest.mark.parametrize("split", ["two_vs_rest", "sampled"])
def test_gb1_has_the_splits_that_its_file_has(folder: Path, split: str) -> None:
    assert checked(folder, "gb1", f"task.split={split}").counts == {"train": 16, "valid": 10, "test": 10}
    with pytest.raises(InputError, match=r"no low_vs_high\.csv in it; it holds sampled\.csv, two_vs_rest\.csv"):
        load(folder, "gb1", "task.split=low_vs_high")


def test_gb1_unzipped_is_the_same(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / "gb1" / "splits.zip") as archive:
        archive.extractall(tmp_path / "gb1")
    assert checked(tmp_path, "gb1").digest == checked(folder, "gb1").digest


def test_gb1_heads_pool_the_four_sites() -> None:
    head = task("gb1").head
    assert head.positions == (39, 40, 41, 54) and head.pooling == "concat"


def test_locations_are_classes_by_name(folder: Path) -> None:
    made, dataset = task("localization"), checked(folder, "localization")
    for split, records in dataset.splits.items():
        table = rows(folder / "localization" / f"localization_{split}.csv.gz")
        assert {r.sequence: made.classes[r.target] for r in records} == {r["sequence"]: r["location"] for r in table}


def test_membrane_leaves_out_what_is_unknown_and_says_so(folder: Path) -> None:
    """Nothing of test is known: the validation split is the test, and a tenth of train the validation."""
    tables = {s: rows(folder / "localization" / f"localization_{s}.csv.gz") for s in ("train", "valid", "test")}
    known = {s: {r["sequence"]: r["membrane"] for r in t if r["membrane"] != "U"} for s, t in tables.items()}
    made, dataset = (
        task("localization", "task.target=membrane"),
        checked(folder, "localization", "task.target=membrane"),
    )
    named = {s: {r.sequence: made.classes[r.target] for r in records} for s, records in dataset.splits.items()}
    assert named["test"] == known["valid"] and not known["test"]
    assert named["train"] | named["valid"] == known["train"] and len(named["valid"]) == len(known["train"]) // 10
    why, drawn = load(folder, "localization", "task.target=membrane").notes
    total = sum(map(len, tables.values()))
    assert why.startswith(f"membrane is unknown for {total - sum(map(len, known.values()))} of {total} proteins")
    assert "drawn with seed 0" in drawn


def test_a_tenth_of_thermostability_is_held_out(folder: Path) -> None:
    loaded = load(folder, "thermostability")
    assert checked(folder, "thermostability").counts == {"train": 22, "valid": 2, "test": 10}
    table = rows(folder / "thermostability" / "meltome_clustered.csv.gz")
    assert [(r.sequence, r.target) for r in loaded.records] == [(r["sequence"], float(r["target"])) for r in table]
    assert [r.split == "test" for r in loaded.records] == [r["set"] == "test" for r in table]
    assert loaded.notes[0].startswith("No validation split in the data: 2 of 24")
    assert load(folder, "thermostability").records == loaded.records


@pytest.mark.parametrize(
    ("name", "file"),
    [("localization", "localization_train.csv.gz"), ("thermostability", "meltome_clustered.csv.gz")],
)
def test_data_that_cannot_be_downloaded_are_asked_for(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(InputError, match=rf"{name}: the data can't be downloaded\. Put {file}.* into a folder {name}"):
        task(name).read(DataPlace(None, tmp_path))
    with pytest.raises(InputError) as error:
        load(tmp_path, name)
    assert f"{tmp_path / name} holds none of {file}" in str(error.value)
    assert str(error.value).endswith("to the folder that has it.")  # leaving it out would not help


def test_a_word_that_is_no_location(folder: Path, tmp_path: Path) -> None:
    header = ["id", "sequence", "location", "membrane", "label"]
    for split in ("train", "valid", "test"):
        row = ["p", random_sequence(np.random.default_rng(0), 9), "Nucleus", "M", ""]
        write_csv(tmp_path / f"localization_{split}.csv", header, [row, [*row[:2], "nucleus", "M", ""]])
    with pytest.raises(InputError, match=r"line 3: column 'location': 'nucleus' is no class\. Known: Cell membrane, "):
        load(tmp_path, "localization")
