"""Nearest neighbours among vectors, and how many of them an index that does not look everywhere finds.

Up to EXACT vectors all are compared (flat). More are put into cells (IVF), of which only some are looked into; a graph
(HNSW) is built on request, and built slowly. Recall is counted against products of matrices that know no FAISS.
Costs the vectors once more in memory, as float32.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from plmft import InputError

Metric = Literal["cosine", "euclidean"]
Method = Literal["flat", "hnsw", "ivf"]
EXACT = 50_000  # vectors that are compared one by one
BLOCK = 8192  # vectors that are read, or compared, at a time
LINKS, CONSTRUCTION = 32, 100  # of a graph: edges of a vertex, candidates when one is added
CELLS_PER_ROOT, TRAINED_PER_CELL, ROUNDS = 4, 64, 10  # of cells: 4 √N of them, by k-means of 64 vectors each
TIE = 1e-5  # scores that differ by less are one
Ask = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def choose_method(method: str, count: int) -> Method:
    """What `auto` means for so many vectors."""
    if method != "auto":
        return method  # type: ignore[return-value]
    return "flat" if count <= EXACT else "ivf"


def prepared(vectors: np.ndarray, ids: Sequence[str], metric: Metric, first: int = 0) -> np.ndarray:
    """(n, D) float32, of length 1 for the cosine.

    Args: first: number of the first vector, as `ids` counts.
    Raises: InputError: a vector that is not finite, or for the cosine one of zeros; its id is told.
    """
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(wrong):
        raise InputError(
            f"{ids[first + wrong[0]]}: its embedding holds values that are not finite; so do {len(wrong) - 1:,} others "
            "beside it. Embed again in a higher precision (hardware.precision=fp32)."
        )
    if metric == "euclidean":
        return rows
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        name = ids[first + int(np.flatnonzero(lengths == 0)[0])]
        raise InputError(f"{name}: its embedding is zero, which has no cosine to others. Remove it.")
    return rows / lengths[:, None]


def blocks(vectors: np.ndarray, ids: Sequence[str], metric: Metric) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, prepared vectors), BLOCK at a time."""
    for start in range(0, len(vectors), BLOCK):
        yield start, prepared(vectors[start : start + BLOCK], ids, metric, start)


def build_index(vectors: np.ndarray, ids: Sequence[str], *, metric: Metric, method: Method, seed: int) -> Any:
    """The faiss.Index of all vectors, (N, D). Raises: InputError: faiss-cpu is not installed, and as `prepared`."""
    faiss = import_faiss()
    width = vectors.shape[1]
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    if method == "flat":
        index = faiss.IndexFlat(width, kind)
    elif method == "hnsw":
        index = faiss.IndexHNSWFlat(width, LINKS, kind)
        index.hnsw.efConstruction = CONSTRUCTION
    else:
        index = _cells(faiss, vectors, ids, metric, kind, seed)
    for _, rows in blocks(vectors, ids, metric):
        index.add(rows)
    return index


def _cells(faiss: Any, vectors: np.ndarray, ids: Sequence[str], metric: Metric, kind: int, seed: int) -> Any:
    """An empty index of cells whose centres are those of a sample."""
    count, width = vectors.shape
    cells = max(1, min(count, round(CELLS_PER_ROOT * math.sqrt(count))))
    index = faiss.IndexIVFFlat(faiss.IndexFlat(width, kind), width, cells, kind)
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = TRAINED_PER_CELL, 1
    index.cp.niter, index.cp.seed = ROUNDS, seed
    drawn = np.sort(np.random.default_rng(seed).permutation(count)[: TRAINED_PER_CELL * cells])
    index.train(prepared(vectors[drawn], [ids[number] for number in drawn], metric))
    return index


def import_faiss() -> Any:
    """The package. Raises: InputError: it is not installed."""
    try:
        import faiss
    except ImportError:
        raise InputError('searching needs the package faiss-cpu. Install it: pip install -e ".[embed]"') from None
    return faiss


@dataclass(frozen=True)
class Recall:
    """How many of the nearest neighbours an index finds.

    Args:
        each: (Q,) a share for each query of the sample.
        effort: places it looked in: cells, or candidates in a graph; None: everywhere.
        query_s: seconds a query by the index.
    """

    each: np.ndarray
    effort: int | None
    query_s: float

    @property
    def mean(self) -> float:
        """Over the sample."""
        return float(self.each.mean())


def asker(index: Any, vectors: np.ndarray, metric: Metric) -> Ask:
    """Takes (Q, D) prepared queries and k; gives scores and numbers, (Q, k) each, nearest first.

    Scores are cosines, or distances; equal ones are in the order of the numbers. Where nothing was found the number is
    -1 and the score NaN.
    """

    def ask(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, numbers = index.search(queries, k)
        if metric == "euclidean":
            scores = np.stack([_distances(q, vectors, row) for q, row in zip(queries, numbers, strict=True)])
        scores = np.where(numbers < 0, np.nan, scores)
        order = np.lexsort((numbers, -scores if metric == "cosine" else scores), axis=1)  # NaN comes last
        return np.take_along_axis(scores, order, 1), np.take_along_axis(numbers, order, 1)

    return ask


def _distances(query: np.ndarray, vectors: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(k,) by differences: FAISS's own are differences of squares, in which small distances drown."""
    near = np.asarray(vectors[numbers], np.float32)
    return np.linalg.norm(near - query, axis=1)


def look_harder(index: Any, method: Method, k: int) -> Iterator[int | None]:
    """Sets the index to look in ever more places, twice as many each time, up to all; yields how many. None: in all."""
    if method == "flat":
        yield None
        return
    effort, most = (k, max(k, index.ntotal)) if method == "hnsw" else (1, index.nlist)
    while True:
        if method == "hnsw":
            index.hnsw.efSearch = effort
        else:
            index.nprobe = effort
        yield effort
        if effort == most:
            return
        effort = min(2 * effort, most)


def reach_recall(
    index: Any,
    ask: Ask,
    method: Method,
    queries: np.ndarray,
    exact: np.ndarray,
    *,
    metric: Metric,
    wanted: float,
    own: bool = False,
) -> Recall:
    """Look harder until the mean recall over the queries is as wanted, and leave the index so; queries (Q, D) prepared.

    Args: exact: (Q, k) scores by brute force. own: one of the k is the query itself, which is not counted.
    """
    found: Recall
    for effort in look_harder(index, method, exact.shape[1]):
        began = time.perf_counter()
        scores, _ = ask(queries, exact.shape[1])
        seconds = (time.perf_counter() - began) / len(queries)
        found = Recall(recall_of(scores, exact, metric, own=own), effort, seconds)
        if found.mean >= wanted:
            break
    return found


def exact_scores(queries: np.ndarray, vectors: np.ndarray, ids: Sequence[str], metric: Metric, k: int) -> np.ndarray:
    """(Q, k) scores of the k nearest by brute force in NumPy, nearest first; queries (Q, D) prepared."""
    queries = queries if metric == "cosine" else queries.astype(np.float64)  # small differences of large squares
    best = np.full((len(queries), 0), np.inf, queries.dtype)
    for _, rows in blocks(vectors, ids, metric):
        if metric == "cosine":
            lower = -(queries @ rows.T)
        else:
            rows = rows.astype(np.float64)
            squares = (queries**2).sum(1)[:, None] + (rows**2).sum(1)[None] - 2 * queries @ rows.T
            lower = np.sqrt(np.maximum(squares, 0))
        best = np.concatenate([best, lower], axis=1)
        if best.shape[1] > k:
            best = np.partition(best, k - 1, axis=1)[:, :k]
    best.sort(1)
    return -best if metric == "cosine" else best


def recall_of(found: np.ndarray, exact: np.ndarray, metric: Metric, *, own: bool = False) -> np.ndarray:
    """(Q,) share of the k places that hold a vector as near as the k-th nearest; so equal ones count alike.

    Args:
        found, exact: (Q, k) scores; in `found` NaN where nothing was found.
        own: one of the k is the query itself, which is not counted.
    """
    last = exact[:, -1:]
    slack = TIE * np.maximum(1, np.abs(last))
    near = (found >= last - slack if metric == "cosine" else found <= last + slack).sum(1)
    return np.maximum(near - own, 0) / (exact.shape[1] - own)
