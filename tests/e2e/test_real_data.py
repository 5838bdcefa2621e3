"""Real data, all of them: every task's records by count, and what would mislead in each; nothing is dropped.

TAPE's avGFP split in depth: nothing is shared, and its digest is that of its records.
"""

import csv
import gzip
import itertools
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate

from plmft.config.compose import compose_config
from plmft.data.flip import FlipFiles
from plmft.data.records import IGNORE, SPLITS, DataSet, build_dataset, fit_to_context
from plmft.data.task import DataPlace
from plmft.tasks import fluorescence

DATA = os.environ.get("PLMFT_DATA")
FOLDER = Path(DATA).resolve() if DATA else None  # before a test changes the environment
pytestmark = pytest.mark.skipif(
    FOLDER is None or not (FOLDER / "fluorescence" / "fluorescence_test.json.gz").is_file(),
    reason="PLMFT_DATA names no folder with TAPE's fluorescence data",
)


def read(folder: Path) -> DataSet:
    loaded = fluorescence.read(DataPlace(folder, folder / "cache"))
    records, source = loaded.records, loaded.source
    return build_dataset("fluorescence", "sequence_regression", records, source=source)


def shared(found: DataSet) -> dict[str, int]:
    """Distinct sequences that stand in both of two splits."""
    sets = {split: {r.sequence for r in records} for split, records in found.splits.items()}
    return {f"{a}/{b}": len(sets[a] & sets[b]) for a, b in itertools.combinations(sets, 2)}


@pytest.fixture(scope="module")
def dataset() -> DataSet:
    return read(FOLDER)


def test_every_record_is_there(dataset: DataSet) -> None:
    assert dataset.counts == {"train": 21_446, "valid": 5_362, "test": 27_217}
    for split in SPLITS:
        rows = json.loads(gzip.decompress((FOLDER / "fluorescence" / f"fluorescence_{split}.json.gz").read_bytes()))
        wanted = Counter((row["primary"], *row["log_fluorescence"]) for row in rows)
        assert Counter((record.sequence, record.target) for record in dataset.splits[split]) == wanted


def test_short_sequences_are_kept(dataset: DataSet) -> None:
    """2,310 lost stop codons from their text: they are data, if odd ones, and no reader may drop them."""
    short = {split: sum(len(r.sequence) in (235, 236) for r in records) for split, records in dataset.splits.items()}
    assert short == {"train": 483, "valid": 127, "test": 1_700}
    assert {len(r.sequence) for records in dataset.splits.values() for r in records} == {235, 236, 237}
    assert fit_to_context(dataset, 1022, "refuse", "any") is dataset


def test_no_sequence_is_shared(dataset: DataSet) -> None:
    assert shared(dataset) == {"train/valid": 0, "train/test": 0, "valid/test": 0}


@pytest.mark.slow
def test_the_digest_is_that_of_the_records_and_not_of_the_files(dataset: DataSet, tmp_path: Path) -> None:
    again = read(FOLDER)
    assert again.digest == dataset.digest and again.splits == dataset.splits
    for split in SPLITS:
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["label", "seq"])
            table.writerows((repr(r.target), r.sequence) for r in reversed(again.splits[split]))
    assert read(tmp_path).digest == dataset.digest
    lines = (tmp_path / "valid.csv").read_text().splitlines()
    (tmp_path / "valid.csv").write_text("\n".join(lines[:-1]) + "\n")
    assert read(tmp_path).digest != dataset.digest


# train, valid, test; what the sources' papers and READMEs say, or what was counted by other means
COUNTS = {
    "stability": (53_614, 2_512, 12_851),
    "homology": (12_312, 736, 718),
    "secondary_structure": (9_712, 1_080, 364),
    "gb1 task.split=one_vs_rest": (25, 3, 8_705),
    "gb1 task.split=two_vs_rest": (381, 43, 8_309),
    "gb1 task.split=three_vs_rest": (2_691, 299, 5_743),
    "gb1 task.split=low_vs_high": (4_580, 509, 3_644),
    "gb1 task.split=sampled": (6_289, 699, 1_745),
    "binding": (954, 106, 300),
    "binding task.ligand=metal": (954, 106, 300),
    "localization": (2_768, 1_678, 490),
    "localization task.target=membrane": (1_572, 174, 1_021),
    "thermostability": (2_646, 294, 752),
    "contacts": (153, 30, 44),
    "mutation_effects": (0, 0, 4_996),
}


def real(words: str) -> DataSet:
    """A task's checked records, read once."""
    if words not in CACHE:
        name, *overrides = words.split()
        if not (FOLDER / name).is_dir():
            pytest.skip(f"PLMFT_DATA has no folder {name}")
        made = instantiate(compose_config([f"task={name}", *overrides]).task, _convert_="all")
        loaded = made.read(DataPlace(FOLDER, FOLDER / "cache"))
        sizes = {"n_classes": len(made.classes), "needs": made.needs}
        CACHE[words] = build_dataset(made.name, made.kind, loaded.records, source=loaded.source, **sizes)
    return CACHE[words]


CACHE: dict[str, DataSet] = {}


@pytest.mark.parametrize("words", COUNTS)
def test_every_task_has_all_its_records(words: str) -> None:
    wanted = dict(zip(SPLITS, COUNTS[words], strict=True))
    assert real(words).counts == {split: count for split, count in wanted.items() if count}


def test_unresolved_residues_have_no_label() -> None:
    """Without the mask they would count as coil: 10.8 % of the test."""
    found = real("secondary_structure")
    assert sum(found.unlabelled.values()) == 186_876
    residues = {split: sum(len(r.sequence) for r in records) for split, records in found.splits.items()}
    assert round(found.unlabelled["test"] / residues["test"], 3) == 0.108
    rare = Counter(letter for records in found.splits.values() for r in records for letter in r.sequence)
    assert sum(rare[letter] for letter in "XUO") == 177 and max(map(len, _sequences(found))) == 1_632
    assert sum(len(sequence) > 1_022 for sequence in _sequences(found)) == 37
    assert not any(shared(found).values())


def _sequences(found: DataSet) -> list[str]:
    return [r.sequence for records in found.splits.values() for r in records]


def test_repeats_in_stability_are_kept_and_those_in_two_splits_counted() -> None:
    found = real("stability")
    repeated = Counter(r.sequence for r in found.splits["train"])
    assert sum(count == 2 for count in repeated.values()) == 43
    assert shared(found) == {"train/valid": 0, "train/test": 26, "valid/test": 0}
    assert not any("C" in sequence for sequence in _sequences(found))
    assert {len(r.sequence) for r in found.splits["valid"]} == {50}
    assert {len(r.sequence) for r in found.splits["test"]} <= {43, 44, 45, 46}


def test_the_test_holds_few_of_the_folds() -> None:
    found = real("homology")
    folds = {split: {r.target for r in records} for split, records in found.splits.items()}
    assert {split: len(classes) for split, classes in folds.items()} == {"train": 1_195, "valid": 319, "test": 136}
    assert sum(len(sequence) > 1_022 for sequence in _sequences(found)) == 9


def test_gb1_varies_at_the_four_positions_of_the_head_and_nowhere_else() -> None:
    found = real("gb1 task.split=sampled")
    letters = np.array([list(sequence) for sequence in _sequences(found)])
    varying = np.flatnonzero((letters != letters[0]).any(0)) + 1
    head = compose_config(["task=gb1"]).task.head
    assert letters.shape == (8_733, 265) and varying.tolist() == head.positions == [39, 40, 41, 54]
    wild_type = [r for r in found.splits["train"] + found.splits["test"] + found.splits["valid"] if r.target == 1.0]
    assert any("".join(r.sequence[p - 1] for p in varying) == "VDGV" for r in wild_type)
    low_high = real("gb1 task.split=low_vs_high")
    assert max(r.target for r in low_high.splits["train"]) <= 1.0 <= min(r.target for r in low_high.splits["test"])


def test_binding_residues_are_the_digits_that_are_not_0() -> None:
    """Against the file's own lines."""
    lines = FlipFiles.open(FOLDER / "binding" / "splits.zip").text("from_publication.fasta").splitlines()
    labels = {head.split()[0][1:]: text for head, text in zip(lines[::2], lines[1::2], strict=True)}
    for words, digits in (("binding", "1234567"), ("binding task.ligand=metal", "1357")):
        for records in real(words).splits.values():
            for record in records:
                assert record.target.tolist() == [int(digit in digits) for digit in labels[record.id]]
    assert sum((r.target == 1).sum() for r in real("binding").splits["test"]) == 5_869
    assert real("binding").unlabelled == {} and shared(real("binding"))["train/test"] == 1


def test_locations_and_temperatures_are_as_described() -> None:
    places = real("localization")
    assert Counter(r.target for r in places.splits["test"])[8] == 3  # peroxisome
    assert sum(len(sequence) > 1_022 for sequence in _sequences(places)) == 525
    assert IGNORE not in {r.target for r in real("localization task.target=membrane").splits["test"]}
    degrees = [r.target for records in real("thermostability").splits.values() for r in records]
    assert (round(min(degrees), 1), round(max(degrees), 1), round(np.mean(degrees), 1)) == (38.5, 69.0, 51.9)
    assert sum(len(sequence) > 1_022 for sequence in _sequences(real("thermostability"))) == 562
