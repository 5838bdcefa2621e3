"""Every task's data in small, in the layout in which users have them: random sequences, labels without a meaning."""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.conftest import random_sequence
from tests.e2e.command import brightness_rows, write_brightness

COUNTS = {"train": 16, "valid": 10, "test": 10}


def write_all(folder: Path, rng: np.random.Generator) -> Path:
    """All data sets; returns the data folder."""
    write_brightness(folder, {split: brightness_rows(rng, n) for split, n in COUNTS.items()})
    for split, n in COUNTS.items():
        rows = [[random_sequence(rng, 20), round(float(rng.normal()), 3)] for _ in range(n)]
        write_csv(folder / "stability" / f"stability_{split}.csv.gz", ["seq", "label"], rows)
        rows = [[random_sequence(rng, 25), int(rng.integers(0, 9))] for _ in range(n)]
        write_csv(folder / "homology" / f"remote_homology_{split}.csv.gz", ["seq", "label"], rows)
        write_locations(folder, split, n, rng)
        write_contacts(folder / "contacts" / f"contacts_{split}.jsonl.gz", n, rng)
    rows = [[random_sequence(rng, 22), 40 + i, "train" if i < 24 else "test"] for i in range(34)]
    write_csv(folder / "thermostability" / "meltome_clustered.csv.gz", ["sequence", "target", "set"], rows)
    write_flip(folder, rng)
    write_scan(folder / "mutation_effects", rng)
    return folder


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_locations(folder: Path, split: str, n: int, rng: np.random.Generator) -> None:
    names = ["Nucleus", "Cytoplasm", "Cell membrane"]
    rows = [
        [f"{split}{i}", random_sequence(rng, 20), names[i % 3], "U" if split == "test" else "MSU"[i % 3], ""]
        for i in range(n)
    ]
    header = ["id", "sequence", "location", "membrane", "label"]
    write_csv(folder / "localization" / f"localization_{split}.csv.gz", header, rows)


def write_contacts(path: Path, n: int, rng: np.random.Generator) -> None:
    lines = []
    for i in range(n):
        length = int(rng.integers(30, 40))
        cb = (2.0 * rng.normal(size=(length, 3)).cumsum(0)).round(2).tolist()
        cb[3] = None
        lines.append(json.dumps({"id": f"{path.stem}-{i}", "sequence": random_sequence(rng, length), "cb": cb}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def write_flip(folder: Path, rng: np.random.Generator) -> None:
    sets = ["SET=train VALIDATION=False"] * 16 + ["SET=train VALIDATION=True"] * 10 + ["SET=test VALIDATION=False"] * 10
    sequences = [random_sequence(rng, int(rng.integers(15, 30))) for _ in sets]

    def labels(letters: str) -> list[str]:
        return ["".join(rng.choice(list(letters), len(s))) for s in sequences]

    plain = [""] * len(sets)
    write_zip(
        folder / "secondary_structure",
        {
            "sequences.fasta": fasta(plain, sequences),
            "sampled.fasta": fasta(sets, labels("HEC")),
            "mask.fasta": fasta(plain, labels("01111")),
        },
    )
    members = {"sequences.fasta": fasta(plain, sequences), "from_publication.fasta": fasta(sets, labels("00014"))}
    write_zip(folder / "binding", members)
    rows = [
        [random_sequence(rng, 60), round(float(rng.random()), 3), s[4:9].strip(), "True" if "True" in s else ""]
        for s in sets
    ]
    text = "\n".join(",".join(map(str, row)) for row in [["sequence", "target", "set", "validation"], *rows])
    write_zip(folder / "gb1", {f"{name}.csv": text for name in ("two_vs_rest", "sampled")})


def fasta(attributes: Sequence[str], texts: Sequence[str]) -> str:
    return "".join(f">p{i} {words}\n{text}\n" for i, (words, text) in enumerate(zip(attributes, texts, strict=True)))


def write_zip(folder: Path, members: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "splits.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"splits/{name}", text)


def write_scan(folder: Path, rng: np.random.Generator) -> None:
    wild_type = random_sequence(rng, 30)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "BLAT_ECOLX_wt.fasta").write_text(f">wild type\n{wild_type}\n")
    rows = []
    for position, letter in enumerate(wild_type):
        others = [c for c in "ACDEFGHIKLMNPQRSTVWY" if c != letter]
        rows += [[f"{letter}{position + 24}{c}", round(float(rng.normal()), 3)] for c in rng.choice(others, 2, False)]
    write_csv(folder / "BLAT_ECOLX_Ranganathan2015_labeled.csv.gz", ["mutant", "2500"], rows)
