"""Sequences that are alike: clusters to split by, and nearest neighbours to find leaks with.

MMseqs2 (Steinegger & Söding 2017, doi:10.1038/nbt.3988) sees relatives down to some 30 % identity; plmft.data.kmers,
which needs no program, those from about 50 % on. Both want the alignment to cover 80 % of both sequences. What is
returned does not depend on the order of the sequences, and nothing is random. For 14,000 domains k-mers take some 15 s
on a core and MMseqs2 25 s.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from plmft import InputError
from plmft.data.kmers import COVERAGE, candidates, components, identities

Engine = Literal["auto", "mmseqs", "kmers"]
SEEN_BY_KMERS = 0.5  # identity below which relatives share too few words


@dataclass(frozen=True)
class Clusters:
    """`labels` (N,) int64: 0 to C - 1, numbered in the order of each cluster's alphabetically first sequence.

    `method` says how they were found and what was not looked for.
    """

    labels: np.ndarray
    method: str


@dataclass(frozen=True)
class Neighbours:
    """`identity` (Q,) float64 of the best target that was found, NaN below the bound; `target` (Q,) int64, else -1."""

    identity: np.ndarray
    target: np.ndarray
    method: str


def cluster(sequences: Sequence[str], *, identity: float = 0.3, engine: Engine = "auto") -> Clusters:
    """Single-linkage clusters: a pair of sequences at the identity, as far as it was found, is in one cluster.

    Args:
        identity: lowest identity of a pair. Families of proteins want 0.3, which only MMseqs2 sees: k-mers join pairs
            from 0.5 on whatever is asked for below that, and `method` says so.
        engine: auto takes MMseqs2 where `mmseqs` is on PATH. Pairs that k-mers see are joined beside those of MMseqs2,
            which leaves out short and repetitive sequences.
    Raises: InputError: MMseqs2 failed, or was asked for and is not on PATH. ValueError: identity is not in (0, 1].
    """
    _check(identity)
    distinct = sorted(set(sequences))
    seen = max(identity, SEEN_BY_KMERS)
    labels = components(distinct, seen)
    more = labels.any()  # than one cluster
    if _takes_mmseqs(engine) and more:
        labels = _merge(labels, _mmseqs_clusters(distinct, identity))
        method = f"{_version()}, {identity:.0%} identity over {COVERAGE:.0%} of both sequences, and k-mers, {seen:.0%}"
    else:
        method = f"k-mers, {seen:.0%} identity over {COVERAGE:.0%} of both sequences"
        if identity < seen and more:
            method += (
                f"; relatives between {identity:.0%} and {seen:.0%} are not seen: for these put MMseqs2 on PATH "
                "(Debian package mmseqs2)"
            )
    number = {sequence: int(label) for sequence, label in zip(distinct, labels, strict=True)}
    _, compact = np.unique([number[sequence] for sequence in sequences], return_inverse=True)
    return Clusters(compact.astype(np.int64), method)


def nearest(
    queries: Sequence[str], targets: Sequence[str], *, identity: float = 0.9, engine: Engine = "kmers"
) -> Neighbours:
    """For each query the target of the highest identity, among those that were compared with it.

    Equal targets are always found. K-mers compare with the eight targets that share the rarest words. At 90 % and from
    20 residues on every pair shares a word, so that a neighbour is missed only where eight others share rarer ones; of
    very many variants the best may be missed for one almost as good (avGFP: up to 3 of 237 residues less alike). Of
    several equally good ones the alphabetically first is named, of equal targets the first.
    Args: identity: lowest identity that counts. engine: as for `cluster`.
    Raises: as `cluster`.
    """
    _check(identity)
    distinct = sorted(set(targets))
    wanted = sorted(set(queries).difference(distinct))
    mmseqs = _takes_mmseqs(engine)
    find = _mmseqs_search if mmseqs else _kmer_search
    pairs = find(wanted, distinct, identity) if wanted and distinct else []
    best = {s: (1.0, s) for s in set(queries).intersection(distinct)}
    for query, target, found in pairs:  # the alphabetically first of equally good ones
        if wanted[query] not in best or (-found, distinct[target]) < (-best[wanted[query]][0], best[wanted[query]][1]):
            best[wanted[query]] = (found, distinct[target])
    place = {sequence: i for i, sequence in reversed(list(enumerate(targets)))}
    none = (float("nan"), None)
    return Neighbours(
        np.array([best.get(s, none)[0] for s in queries], np.float64),
        np.array([place.get(best.get(s, none)[1], -1) for s in queries], np.int64),
        f"{_version() if mmseqs else 'k-mers'}, {identity:.0%} identity over {COVERAGE:.0%} of both sequences",
    )


def _check(identity: float) -> None:
    if not 0 < identity <= 1:
        raise ValueError(f"identity is {identity}, not in (0, 1]")


def _kmer_search(queries: Sequence[str], targets: Sequence[str], identity: float) -> list[tuple[int, int, float]]:
    query, target = candidates(queries, targets)
    found = identities(queries, targets, query, target, at_least=identity)
    kept = ~np.isnan(found)
    return list(zip(query[kept].tolist(), target[kept].tolist(), found[kept].tolist(), strict=True))


def _merge(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) int64 labels of the components that two clusterings make together, each the first member's number."""
    n = len(a)
    rows, columns = np.tile(np.arange(n), 2), np.concatenate((a, n + b))
    graph = sparse.coo_matrix((np.ones(2 * n, bool), (rows, n + columns)), shape=(3 * n, 3 * n))
    _, component = connected_components(graph, directed=False)
    _, first, which = np.unique(component[:n], return_index=True, return_inverse=True)
    return first[which]


def _takes_mmseqs(engine: Engine) -> bool:
    found = shutil.which("mmseqs") is not None
    if engine == "mmseqs" and not found:
        raise InputError("mmseqs is not on PATH. Install MMseqs2 (Debian package mmseqs2), or take k-mers.")
    return found and engine != "kmers"


def _version() -> str:
    return f"MMseqs2 {_mmseqs('version').strip()}"


def _mmseqs_clusters(sequences: Sequence[str], identity: float) -> np.ndarray:
    """(N,) int64: the number of each cluster's representative. Every pair that MMseqs2 aligns counts, so one step."""
    with tempfile.TemporaryDirectory(prefix="plmft-mmseqs-") as folder:
        fasta = _write(Path(folder) / "sequences.fasta", sequences)
        bounds = ("--min-seq-id", str(identity), "-c", str(COVERAGE), "--cluster-mode", "1")
        out = f"{folder}/out"
        _mmseqs("easy-cluster", fasta, out, f"{folder}/work", *bounds, "--single-step-clustering", "1", "-v", "1")
        rows = [line.split("\t") for line in Path(f"{out}_cluster.tsv").read_text().splitlines()]
    labels = np.arange(len(sequences))
    labels[[int(member) for _, member in rows]] = [int(first) for first, _ in rows]
    return labels


def _mmseqs_search(queries: Sequence[str], targets: Sequence[str], identity: float) -> list[tuple[int, int, float]]:
    with tempfile.TemporaryDirectory(prefix="plmft-mmseqs-") as folder:
        files = [_write(Path(folder) / f"{n}.fasta", s) for n, s in (("queries", queries), ("targets", targets))]
        bounds = ("--min-seq-id", str(identity), "-c", str(COVERAGE), "--format-output", "query,target,fident")
        _mmseqs("easy-search", *files, f"{folder}/out", f"{folder}/work", *bounds, "-v", "1")
        rows = [line.split("\t") for line in Path(f"{folder}/out").read_text().splitlines()]
    return [(int(query), int(target), float(found)) for query, target, found in rows]


def _write(path: Path, sequences: Sequence[str]) -> str:
    path.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    return str(path)


def _mmseqs(*command: str) -> str:
    done = subprocess.run(("mmseqs", *command), capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(f"mmseqs {command[0]} failed: {said}. Mend that, or take mmseqs off PATH to use k-mers.")
    return done.stdout
