"""Answer the queries: the index first, then its recall on a sample, then all of them, a block at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.embeddings.formats import Embeddings, open_embeddings
from plmft.embeddings.hits import hits_file
from plmft.embeddings.kept_index import index_of
from plmft.embeddings.nearest import (
    Ask,
    Method,
    asker,
    choose_method,
    exact_scores,
    prepared,
    reach_recall,
)
from plmft.embeddings.queries import open_queries
from plmft.embeddings.search import Search
from plmft.embeddings.whole import check_per_sequence, told_of
from plmft.metrics.intervals import bootstrap_interval

ASKED = 1024  # queries at a time
SCORES = {"cosine": "cosine", "euclidean": "distance"}


def search(options: Search, for_embed: Sequence[str], tell: Callable[[str], None]) -> None:
    """Do it, and tell what was done and found, a line at a time.

    Args: for_embed: options of plmft.embed, for queries that are sequences.
    Raises: InputError: whatever is wrong with the index, the queries or the place for hits.
    """
    base = open_embeddings(options.index, options.layer)
    vectors = check_per_sequence(base, options.index)
    tell(f"Index: {len(vectors):,} vectors of {vectors.shape[1]}, {told_of(base.about)}")
    queries = base if options.query is None else open_queries(options.query, base, options.index, for_embed, tell)
    asked = check_per_sequence(queries, options.query or options.index)
    exclude = _excluded(options)
    k = min(options.k, len(vectors) - exclude)
    if k < 1:
        raise InputError(f"{options.index}: one vector alone has no neighbours. Embed more sequences.")
    if k < options.k:
        tell(f"k={options.k}: the index holds {len(vectors):,} vectors, so {k} is all that can be found.")
    method, index = _index(options, base, vectors, tell)
    ask = asker(index, vectors, options.metric)
    for line in _reach(options, index, ask, method, queries.ids, asked, base.ids, vectors, k, exclude):
        tell(line)
    began, count = time.perf_counter(), 0
    output = None if options.output is None else Path(options.output).expanduser()
    with hits_file(output, SCORES[options.metric]) as write:
        for start in range(0, len(asked), ASKED):
            names = queries.ids[start : start + ASKED]
            found = ask(prepared(asked[start : start + ASKED], queries.ids, options.metric, start), k + exclude)
            hits, scores = _named(names, *found, base.ids, k, exclude)
            write(names, hits, scores)
            count += sum(map(len, hits))
    where = "" if output is None else f", written to {output}"
    tell(f"{len(asked):,} queries, {count:,} hits in {time.perf_counter() - began:,.1f} s{where}")


def _index(options: Search, base: Embeddings, vectors: np.ndarray, tell: Callable[[str], None]) -> tuple[Method, Any]:
    method, began = choose_method(options.method, len(vectors)), time.perf_counter()
    how = {"metric": options.metric, "method": method, "seed": options.seed, "folder": _place(options, method)}
    index, done = index_of(vectors, base.ids, base.about, **how)
    tell(f"Index of kind {method}: {done} in {time.perf_counter() - began:,.1f} s")
    return method, index


def _place(options: Search, method: Method) -> Path | None:
    """Where the index is kept; a flat one is the vectors over again, so it is not, unless a place is named."""
    if options.saved == "none":
        return None
    if options.saved is not None:
        return Path(options.saved).expanduser()
    path = Path(options.index).expanduser()
    return None if method == "flat" else path.with_name(f"{path.name}.index")


def _excluded(options: Search) -> bool:
    if options.exclude_self is not None:
        return options.exclude_self
    return options.query is None or Path(options.query).expanduser().resolve() == Path(options.index).resolve()


def _reach(
    options: Search,
    index: Any,
    ask: Ask,
    method: Method,
    names: Sequence[str],
    asked: np.ndarray,
    ids: Sequence[str],
    vectors: np.ndarray,
    k: int,
    exclude: bool,
) -> Iterator[str]:
    """Makes the index look in as many places as the wanted recall takes on a sample of the queries; tells of it."""
    drawn = np.sort(np.random.default_rng(options.seed).permutation(len(asked))[: options.sample])
    sample = prepared(asked[drawn], [names[n] for n in drawn], options.metric)
    began = time.perf_counter()
    exact = exact_scores(sample, vectors, ids, options.metric, k + exclude)
    exact_s = (time.perf_counter() - began) / len(sample)
    how = {"metric": options.metric, "wanted": options.recall, "own": exclude}
    found = reach_recall(index, ask, method, sample, exact, **how)
    ends = bootstrap_interval(lambda i: float(found.each[i].mean()), len(sample), seed=options.seed)
    interval = "" if ends is None else f" (95 % {ends[0]:.3f} to {ends[1]:.3f})"
    places = {"hnsw": f", {found.effort} candidates", "ivf": f", {found.effort} cells"}.get(method, "")
    yield (
        f"Recall@{k} against brute force: {found.mean:.3f}{interval}, on {len(sample):,} queries{places}; "
        f"{found.query_s * 1e3:,.2f} ms a query, by brute force {exact_s * 1e3:,.2f} ms"
    )


def _named(
    names: Sequence[str],
    scores: np.ndarray,
    numbers: np.ndarray,
    ids: Sequence[str],
    k: int,
    exclude: bool,
) -> tuple[list[list[str]], list[np.ndarray]]:
    """Ids and scores of the k nearest of each query, without the query's own id."""
    hits, values = [], []
    for name, row, each in zip(names, numbers, scores, strict=True):
        kept = [n for n, number in enumerate(row) if number >= 0 and not (exclude and ids[number] == name)][:k]
        hits.append([ids[row[n]] for n in kept])
        values.append(each[kept])
    return hits, values
