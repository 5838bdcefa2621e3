"""Give records without a split one: whole clusters of similar sequences go together, so that no close relative of a
test protein is trained on.

Each cluster, the large ones first, goes where it leaves the counts nearest to what was asked for. Apart from the
clustering (plmft.data.similarity) that costs some 20 µs a cluster.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from plmft import InputError
from plmft.data.records import SPLITS, Split
from plmft.data.similarity import Engine, cluster

FRACTIONS = (0.8, 0.1, 0.1)
LEAST = 0.1  # a split that holds less than this share of what it should is no split
NOTED = 0.1  # and one that is this much off is told
Entry = str | tuple[str, str]  # a sequence, or two of them


def split_by_cluster(
    sequences: Sequence[Entry],
    labels: Sequence[Hashable] | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    identity: float = 0.3,
    engine: Engine = "auto",
) -> tuple[list[Split], str]:
    """A split for each record, and a line that tells how.

    Clusters are never cut. Of pairs, all that a chain of shared or similar proteins joins go together: neither protein
    of a test pair has a relative in train. The same records in another order get the same splits.
    Args:
        labels: classes that each split is to have its share of, as far as whole clusters allow; None: only sizes count.
        fractions: of train, valid and test; 0 leaves one out.
        identity, engine: see plmft.data.similarity.cluster.
    Raises: InputError: one cluster holds so much that a split gets less than a tenth of its share.
    """
    proteins = _proteins(sequences)
    flat = sorted({s for entry in proteins for s in entry})
    clusters = cluster(flat, identity=identity, engine=engine)
    number = dict(zip(flat, clusters.labels.tolist(), strict=True))
    groups = _joined([[number[s] for s in entry] for entry in proteins])
    splits = _assign(proteins, groups, labels, fractions, seed)
    sizes = np.bincount(groups)
    pairs = any(len(entry) > 1 for entry in proteins)
    _check_sizes(splits, fractions, int(sizes.max()), len(sizes), pairs)
    note = f"No split column: split by {len(sizes):,} sequence clusters ({clusters.method}), seed {seed}: "
    return splits, note + _sizes(splits, fractions) + f" The largest cluster has {sizes.max():,} records."


def split_at_random(
    sequences: Sequence[Entry],
    labels: Sequence[Hashable] | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> tuple[list[Split], str]:
    """As split_by_cluster, but only equal sequences (pairs, in either order) stay together; relatives cross over.

    Raises: InputError: fewer different records than splits.
    """
    proteins = _proteins(sequences)
    number = {entry: i for i, entry in enumerate(sorted(set(proteins)))}
    splits = _assign(proteins, np.array([number[entry] for entry in proteins]), labels, fractions, seed)
    _check_sizes(splits, fractions, 1, len(number), pairs=False)
    note = f"No split column: split at random, seed {seed}, equal sequences kept together: "
    return splits, note + _sizes(splits, fractions) + " Similar sequences stand in several splits."


def _proteins(sequences: Sequence[Entry]) -> list[tuple[str, ...]]:
    if not sequences:
        raise InputError("There are no records to split.")
    return [(entry,) if isinstance(entry, str) else tuple(sorted(entry)) for entry in sequences]


def _joined(clusters: list[list[int]]) -> np.ndarray:
    """(N,) int64: one number for the records that share a cluster, by whatever chain."""
    n, size = len(clusters), 1 + max((c for entry in clusters for c in entry), default=0)
    rows = np.repeat(np.arange(n), [len(entry) for entry in clusters])
    columns = n + np.array([c for entry in clusters for c in entry], np.int64)
    graph = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n + size, n + size))
    _, component = connected_components(graph, directed=False)
    return np.unique(component[:n], return_inverse=True)[1]


def _assign(
    proteins: list[tuple[str, ...]],
    groups: np.ndarray,
    labels: Sequence[Hashable] | None,
    fractions: Sequence[float],
    seed: int,
) -> list[Split]:
    """The split of each record; records of a group get the same."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"fractions are {tuple(fractions)}: three of train, valid and test are needed, with sum 1")
    used = [i for i, fraction in enumerate(fractions) if fraction > 0]
    n = int(groups.max()) + 1 if len(groups) else 0
    if n < len(used):
        return [SPLITS[used[0]]] * len(groups)  # too few, which _check_sizes refuses
    classes = [str(label) for label in labels] if labels is not None else [""] * len(groups)
    _, column = np.unique(classes, return_inverse=True)
    counts = np.zeros((n, column.max() + 1))
    np.add.at(counts, (groups, column), 1)
    first = [min(members) for members in _by_group(proteins, groups, n)]
    canonical = np.array(sorted(range(n), key=lambda group: first[group]))
    order = canonical[np.random.default_rng(seed).permutation(n)]
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    place = _fill(counts[order], np.array(fractions)[used])
    splits = np.empty(n, np.int64)
    splits[order] = np.array(used)[place]
    return [SPLITS[splits[group]] for group in groups]


def _by_group(proteins: list[tuple[str, ...]], groups: np.ndarray, n: int) -> list[list[tuple[str, ...]]]:
    members: list[list[tuple[str, ...]]] = [[] for _ in range(n)]
    for entry, group in zip(proteins, groups.tolist(), strict=True):
        members[group].append(entry)
    return members


def _fill(counts: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """(G,) int64 places for groups with (G, C) records by class: each goes where the squared distance between counts
    and shares, over the shares, grows least. None stays empty."""
    shares = fractions[:, None] * counts.sum(axis=0)
    held = np.zeros_like(shares)
    place = np.empty(len(counts), np.int64)
    for group, count in enumerate(counts):
        some = np.flatnonzero(count)
        cost = (count[some] * (count[some] + 2 * held[:, some]) / shares[:, some]).sum(axis=1)
        place[group] = np.argmin(cost)
        held[place[group]] += count
    for empty in np.setdiff1d(np.arange(len(fractions)), place):
        crowded = np.flatnonzero(np.bincount(place, minlength=len(fractions))[place] > 1)
        place[crowded[-1]] = empty  # the smallest group that is not alone
    return place


def _sizes(splits: list[Split], fractions: Sequence[float]) -> str:
    counts = {s: splits.count(s) for s, f in zip(SPLITS, fractions, strict=True) if f > 0}
    text = ", ".join(f"{split} {n:,}" for split, n in counts.items())
    wanted = [round(f * len(splits)) for f in fractions if f > 0]
    off = any(abs(n - w) > max(1, NOTED * w) for n, w in zip(counts.values(), wanted, strict=True))
    return text + (f" (asked for {', '.join(map('{:,}'.format, wanted))}; clusters are not cut)." if off else ".")


def _check_sizes(splits: list[Split], fractions: Sequence[float], largest: int, groups: int, pairs: bool) -> None:
    total = len(splits)
    for split, fraction in zip(SPLITS, fractions, strict=True):
        n, wanted = splits.count(split), fraction * total
        if fraction > 0 and n < max(1, LEAST * wanted):
            raise InputError(
                f"No split of {total:,} records into {groups:,} groups can be made: {split} would get {n:,} of the "
                f"{wanted:,.0f} that it should have. {_reason(total, largest, groups, pairs)}"
            )


def _reason(total: int, largest: int, groups: int, pairs: bool) -> str:
    column = "or add a column with the words train, valid and test."
    if largest <= total / 2:
        return f"There are too few groups, or too large ones. Add records, {column}"
    if pairs:
        return (
            f"{largest:,} pairs hang together by shared or similar proteins. Set task.split_by=random to split pairs "
            "at random (then proteins of test pairs are in train, too, and scores tell nothing of new proteins), "
            f"{column}"
        )
    return (
        f"{largest:,} sequences are in one cluster: near-identical or all related, as variants of one protein are. Set "
        "task.split_by=random to split them at random (then scores tell how well variants are told apart, nothing of "
        f"other proteins), {column}"
    )
