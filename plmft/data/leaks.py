"""What test records have in common with what was trained on: equal sequences, near ones, and repeats within a split.

It is said for every data set, and nothing is dropped: published splits keep their leaks, or scores could not be
compared. Neighbours come from k-mers by default (plmft.data.similarity), so that the counts don't depend on which
programs are installed. Some 10 s on a core for 50,000 sequences, most of it for near duplicates.
"""

import csv
import io
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

import numpy as np

from plmft.data.records import Record, Split
from plmft.data.similarity import Engine, cluster, nearest

Key = tuple[str, ...]


@dataclass(frozen=True)
class LeakRow:
    """Two records that are alike. `identity` is 1 for equal ones, None for near pairs of proteins."""

    what: Literal["exact", "near", "repeated"]
    split: Split
    id: str
    other_split: Split
    other_id: str
    identity: float | None


@dataclass(frozen=True)
class Repeats:
    """Of one split: sequences that stand there more than once, their records, and how many have unequal targets."""

    sequences: int
    records: int
    differing: int


@dataclass(frozen=True)
class Variants:
    """All sequences are variants of one protein of `length` residues.

    `median` and `most` count the residues of the records of that length that are not the commonest at their place;
    `other_lengths` the records of each other length, `total` all.
    """

    length: int
    median: int
    most: int
    other_lengths: dict[int, int]
    total: int

    def line(self) -> str:
        """For the console."""
        text = (
            f"Variants of one protein of {self.length} residues: a median of {self.median} residues, at most "
            f"{self.most}, are not the commonest at their place."
        )
        if not self.other_lengths:
            return text
        lengths = ", ".join(f"{length}: {n:,}" for length, n in sorted(self.other_lengths.items())[:8])
        n = sum(self.other_lengths.values())
        return f"{text} {n:,} of {self.total:,} sequences are not {self.length} long ({lengths})."


@dataclass(frozen=True)
class LeakReport:
    """Counts by pair of splits ("train/test") are of records of the second split.

    exact: their sequence also stands in the first. near: train has one of at least this identity, equal ones included.
    proteins: of pairs, how many have (both, one, none) of their proteins in train. rows: what the counts are made of,
    but near duplicates of variant sets; rows_left_out is how many more there are.
    """

    counts: dict[Split, int]
    exact: dict[str, int]
    near: dict[str, int]
    repeats: dict[Split, Repeats]
    identity: float
    method: str
    seconds: float
    rows: tuple[LeakRow, ...]
    rows_left_out: int
    variants: Variants | None = None
    proteins: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """`data/exact_train_test`, `data/near_train_test`, `data/repeated_train`, `data/odd_length` and the like."""
        named = {f"exact_{pair.replace('/', '_')}": n for pair, n in self.exact.items()}
        named |= {f"near_{pair.replace('/', '_')}": n for pair, n in self.near.items()}
        for split, repeats in self.repeats.items():
            named |= {f"repeated_{split}": repeats.sequences, f"repeated_differing_{split}": repeats.differing}
        for pair, seen in self.proteins.items():
            words = ("both", "one", "none")
            named |= {f"proteins_{w}_{pair.replace('/', '_')}": n for w, n in zip(words, seen, strict=True)}
        if self.variants:
            named["odd_length"] = sum(self.variants.other_lengths.values())
        return {f"data/{name}": float(n) for name, n in named.items()}

    def lines(self) -> list[str]:
        """For the console; what was not found is said, too."""
        what = "pair" if self.proteins else "sequence"
        equal = [self._of(pair, n) for pair, n in self.exact.items() if n]
        near = [self._of(pair, n) for pair, n in self.near.items() if n]
        lines = [f"Equal {what}s in two splits: {', '.join(equal)}." if equal else f"No {what} stands in two splits."]
        if self.near:
            found = ", ".join(near) or "none"
            how = f"{self.method}; {self.seconds:.1f} s"
            lines.append(f"Near duplicates of train, equal ones included: {found} ({how}).")
        for pair, (both, one, none) in self.proteins.items():
            lines.append(f"Proteins of {pair}: both seen in train {both:,}, one {one:,}, none {none:,} pairs.")
        for split, r in self.repeats.items():
            if r.sequences:
                lines.append(
                    f"More than once in {split}: {r.sequences:,} {what}s ({r.records:,} records), "
                    f"{r.differing:,} of them with different targets."
                )
        if self.variants:
            lines += [self.variants.line(), "Near duplicates are the nature of such a set: counted, not listed."]
        if self.rows_left_out:
            lines.append(
                f"The table of leaks lists {len(self.rows):,} pairs; {self.rows_left_out:,} more are left out."
            )
        return lines

    def table(self) -> str:
        """`rows` as CSV with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [f.name for f in fields(LeakRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        return text.getvalue()

    def _of(self, pair: str, n: int) -> str:
        total = self.counts[pair.split("/")[1]]
        return f"{pair} {n:,} of {total:,} ({n / total:.1%})"


def leak_report(
    splits: Mapping[Split, Sequence[Record]],
    *,
    identity: float = 0.9,
    engine: Engine = "kmers",
    max_rows: int = 10_000,
) -> LeakReport:
    """Look for records that are alike, between splits and within.

    Of pairs of proteins, the order within a pair does not matter, and two pairs are near if their proteins are in the
    same single-linkage clusters at the identity.
    Args:
        splits: records by split; "train" is what near duplicates are looked for in. Without it there are none.
        max_rows: rows kept, equal ones first, then repeats, then near ones from the highest identity down.
    Raises: as plmft.data.similarity.nearest.
    """
    start = time.perf_counter()
    splits = {split: sorted(records, key=lambda r: r.id) for split, records in splits.items() if records}
    pairs = any(r.partner for records in splits.values() for r in records)
    variants = None if pairs else find_variants([r.sequence for records in splits.values() for r in records])
    exact, repeated = _exact_rows(splits), _repeated_rows(splits)
    near, method = (_near_pairs if pairs else _near)(splits, identity, engine)
    trained = {(row.split, row.id) for row in exact if row.other_split == "train"}
    unlike = [] if variants else [row for row in near if (row.split, row.id) not in trained]
    unlike.sort(key=lambda row: (-(row.identity or 0), row.split, row.id))
    rows = exact + repeated + unlike
    between = Counter(f"{row.other_split}/{row.split}" for row in exact)
    order = list(splits)
    return LeakReport(
        counts={split: len(records) for split, records in splits.items()},
        exact={f"{a}/{b}": between[f"{a}/{b}"] for i, a in enumerate(order) for b in order[i + 1 :]},
        near={f"train/{s}": sum(row.split == s for row in near) for s in _others(splits)},
        repeats={split: _repeats(records) for split, records in splits.items()},
        identity=identity,
        method=method,
        seconds=time.perf_counter() - start,
        rows=tuple(rows[:max_rows]),
        rows_left_out=max(0, len(rows) - max_rows),
        variants=variants,
        proteins={f"train/{s}": _proteins_seen(splits["train"], splits[s]) for s in _others(splits)} if pairs else {},
    )


def find_variants(sequences: Sequence[str]) -> Variants | None:
    """Variants of one protein: nine in ten have one length, and of these nine in ten agree with the commonest residue
    at four places in five. None for other sets, and for fewer than 20 sequences."""
    lengths = Counter(map(len, sequences))
    length, n = max(lengths.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
    if len(sequences) < 20 or n < 0.9 * len(sequences):
        return None
    text = "".join(s for s in sequences if len(s) == length)
    letters = np.frombuffer(text.encode("ascii", "replace"), np.uint8).reshape(n, length)
    commonest = np.array([np.bincount(column).argmax() for column in letters.T], np.uint8)
    changes = (letters != commonest).sum(axis=1)
    if np.mean(changes <= 0.2 * length) < 0.9:
        return None
    others = {other: count for other, count in lengths.items() if other != length}
    return Variants(length, int(np.median(changes)), int(changes.max()), others, len(sequences))


def _key(record: Record) -> Key:
    return tuple(sorted(record.sequences))


def _others(splits: Mapping[Split, Sequence[Record]]) -> list[Split]:
    return [split for split in splits if split != "train"] if "train" in splits else []


def _firsts(records: Sequence[Record]) -> dict[Key, str]:
    """The first id of each sequence."""
    return {_key(record): record.id for record in reversed(records)}


def _exact_rows(splits: Mapping[Split, Sequence[Record]]) -> list[LeakRow]:
    firsts = {split: _firsts(records) for split, records in splits.items()}
    order = list(splits)
    return [
        LeakRow("exact", b, record.id, a, firsts[a][_key(record)], 1.0)
        for i, a in enumerate(order)
        for b in order[i + 1 :]
        for record in splits[b]
        if _key(record) in firsts[a]
    ]


def _repeated_rows(splits: Mapping[Split, Sequence[Record]]) -> list[LeakRow]:
    firsts = {split: _firsts(records) for split, records in splits.items()}
    return [
        LeakRow("repeated", split, record.id, split, firsts[split][_key(record)], 1.0)
        for split, records in splits.items()
        for record in records
        if firsts[split][_key(record)] != record.id
    ]


def _repeats(records: Sequence[Record]) -> Repeats:
    targets: dict[Key, list[object]] = defaultdict(list)
    for record in records:
        target = record.target
        targets[_key(record)].append(target.tobytes() if isinstance(target, np.ndarray) else target)
    several = [found for found in targets.values() if len(found) > 1]
    return Repeats(len(several), sum(map(len, several)), sum(len(set(found)) > 1 for found in several))


def _near(splits: Mapping[Split, Sequence[Record]], identity: float, engine: Engine) -> tuple[list[LeakRow], str]:
    """A row for each record with a neighbour in train, equal ones included."""
    train = splits.get("train", ())
    queries = [record for split in _others(splits) for record in splits[split]]
    found = nearest([r.sequence for r in queries], [r.sequence for r in train], identity=identity, engine=engine)
    return [
        LeakRow("near", record.split, record.id, "train", train[target].id, round(float(value), 4))
        for record, target, value in zip(queries, found.target, found.identity, strict=True)
        if target >= 0
    ], found.method


def _near_pairs(splits: Mapping[Split, Sequence[Record]], identity: float, engine: Engine) -> tuple[list[LeakRow], str]:
    """A row for each pair whose clusters are those of a pair in train."""
    proteins = sorted({s for records in splits.values() for r in records for s in r.sequences})
    clusters = cluster(proteins, identity=identity, engine=engine)
    number = dict(zip(proteins, clusters.labels.tolist(), strict=True))
    trained = {_clusters_of(record, number): record.id for record in reversed(splits.get("train", ()))}
    return [
        LeakRow("near", split, record.id, "train", trained[_clusters_of(record, number)], None)
        for split in _others(splits)
        for record in splits[split]
        if _clusters_of(record, number) in trained
    ], f"{clusters.method} for each protein of a pair"


def _clusters_of(record: Record, number: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted(number[s] for s in record.sequences))


def _proteins_seen(train: Sequence[Record], records: Sequence[Record]) -> tuple[int, int, int]:
    """Pairs with both, one and none of their proteins in train (the classes of Park & Marcotte 2012,
    doi:10.1038/nmeth.2259)."""
    seen = {s for record in train for s in record.sequences}
    known = Counter(sum(s in seen for s in (r.sequence, r.partner or r.sequence)) for r in records)
    return known[2], known[1], known[0]
