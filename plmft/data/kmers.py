"""Which sequences are alike: candidates by the short words (k-mers) that they share, verified by edit distance.

Words that few sequences have count most, and a word that all have costs no more than any other, so that 50,000
variants of one protein take seconds and not the square of that. Below some 50 % identity two relatives often share no
word of six residues: such pairs are not seen here, MMseqs2 sees them. Some 10 s and 2 GB for 50,000 sequences of 240
residues.

Identity is 1 - d / n: n residues of the shorter sequence, d the fewest substitutions, insertions and deletions that
turn it into a stretch of the longer one. Without gaps that is identical residues over alignment columns, which is what
MMseqs2 counts by default; a column with a gap is one more difference, as there.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

COVERAGE = 0.8  # the shorter sequence has at least this share of the longer one's residues, as with MMseqs2's -c 0.8
WORDS = ((4, 1, 24), (6, 16, None))  # residues of a word, for sequences of so many residues
LIST = 64  # sequences that a word names at most, the first in order
PRODUCTS = 1024  # (word, sequence) pairs that are looked at for one sequence, rare words first
CANDIDATES = 8  # sequences that are compared with one
SHORT_WORD = 4
CHUNK = 4_000_000  # residues compared at once


def candidates(queries: Sequence[str], targets: Sequence[str], *, n: int = CANDIDATES) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that may be alike: for each query up to n targets of like length, those that share the rarest words first.

    Returns: (P,) int64 queries and (P,) int64 targets, ordered by query and then from the best on.
    """
    lengths_q, lengths_t = _lengths(queries), _lengths(targets)
    found = []
    for k, low, high in WORDS:
        of_q, of_t = (
            np.flatnonzero((lengths >= max(low, k)) & (lengths <= (high or lengths.max(initial=0))))
            for lengths in (lengths_q, lengths_t)
        )
        if len(of_q) and len(of_t):
            scores = _shared_words([queries[i] for i in of_q], [targets[i] for i in of_t], k)
            found.append((of_q[scores.row], of_t[scores.col], scores.data))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    query, target, score = (np.concatenate(parts) for parts in zip(*found, strict=True))
    alike = np.minimum(lengths_q[query], lengths_t[target]) >= COVERAGE * np.maximum(
        lengths_q[query], lengths_t[target]
    )
    query, target, score = query[alike], target[alike], score[alike]
    order = np.lexsort((target, -score, query))
    query, target = query[order], target[order]
    first = np.searchsorted(query, query)
    best = np.arange(len(query)) - first < n
    return query[best], target[best]


def _shared_words(queries: Sequence[str], targets: Sequence[str], k: int) -> sparse.coo_matrix:
    """(queries, targets): the sum of log(targets / targets with the word) over shared words."""
    words, owners = _words(targets, k)
    vocabulary, starts, counts = np.unique(words, return_index=True, return_counts=True)
    kept = np.arange(len(words)) - np.repeat(starts, counts) < LIST
    ends = np.concatenate(([0], np.cumsum(np.minimum(counts, LIST))))
    lists = sparse.csr_matrix(
        (np.ones(kept.sum(), np.float32), owners[kept], ends), shape=(len(vocabulary), len(targets))
    )
    words, owners = _words(queries, k)
    row = np.minimum(np.searchsorted(vocabulary, words), len(vocabulary) - 1)
    known = vocabulary[row] == words
    row, owners = row[known], owners[known]
    order = np.lexsort((row, counts[row], owners))
    row, owners = row[order], owners[order]
    spent = np.cumsum(np.minimum(counts[row], LIST))
    before = np.concatenate(([0], spent))[np.searchsorted(owners, owners)]
    cheap = spent - before <= PRODUCTS
    weights = np.log1p(len(targets) / counts[row[cheap]]).astype(np.float32)
    profile = sparse.csr_matrix((weights, (owners[cheap], row[cheap])), shape=(len(queries), len(vocabulary)))
    return (profile @ lists).tocoo()


def _words(sequences: Sequence[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(W,) int64 words and (W,) int64 the sequences that have them, each pair once, ordered by word and sequence."""
    letters = np.frombuffer("".join(sequences).encode("ascii", "replace"), np.uint8).astype(np.int64) & 31
    owner = np.repeat(np.arange(len(sequences)), _lengths(sequences))
    starts = len(letters) - k + 1
    word = sum(letters[i : starts + i] << 5 * i for i in range(k))
    whole = owner[:starts] == owner[k - 1 :]
    bits = len(sequences).bit_length()
    packed = np.sort(word[whole] << bits | owner[:starts][whole])  # np.unique hashes, and takes ten times as long
    packed = packed[np.diff(packed, prepend=-1) != 0]
    return packed >> bits, packed & (1 << bits) - 1


def _lengths(sequences: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(len, sequences), np.int64, len(sequences))


def components(sequences: Sequence[str], identity: float) -> np.ndarray:
    """Single linkage: sequences that a chain of pairs at the identity joins get one label.

    Args: sequences: distinct; those that stand first are looked at first, so sort them.
    Returns: (N,) int64, the number of the first sequence of each component.
    """
    label = np.arange(len(sequences))
    while True:  # again over the first of each component, until none of these are alike
        firsts = np.unique(label)
        joined = _join([sequences[i] for i in firsts], identity)
        if (joined == np.arange(len(firsts))).all():
            return label
        label = firsts[joined][np.searchsorted(firsts, label)]


def _join(sequences: Sequence[str], identity: float) -> np.ndarray:
    """(N,) int64: the first sequence of the component that each comes into, by its candidates in order."""
    n = len(sequences)
    query, target = candidates(sequences, sequences, n=CANDIDATES + 1)
    query, target = query[query != target], target[query != target]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    label = np.arange(n)
    edges = np.empty((2, 0), np.int64)
    for turn in range(CANDIDATES + 1):
        new = (rank == turn) & (label[query] != label[target])
        pairs = np.unique(np.sort(np.stack((query[new], target[new])), axis=0), axis=1)
        alike = ~np.isnan(identities(sequences, sequences, *pairs, at_least=identity))
        edges = np.concatenate((edges, pairs[:, alike]), axis=1)
        graph = sparse.coo_matrix((np.ones(edges.shape[1], bool), tuple(edges)), shape=(n, n))
        _, component = connected_components(graph, directed=False)
        label = np.unique(component, return_index=True)[1][component]
    return label


def identities(
    queries: Sequence[str], targets: Sequence[str], query: np.ndarray, target: np.ndarray, *, at_least: float
) -> np.ndarray:
    """(P,) float64 identities of pairs, NaN below `at_least`. Pairs of equal length are compared without gaps first,
    and with gaps only where that does not reach `at_least`."""
    found = _without_gaps(queries, targets, query, target)
    rest = np.flatnonzero(~(found >= at_least))
    found[rest] = np.nan
    for i in rest[_hopeful(queries, targets, query[rest], target[rest], at_least)]:
        found[i] = identity(queries[query[i]], targets[target[i]], at_least)
    return found


def _hopeful(
    queries: Sequence[str], targets: Sequence[str], query: np.ndarray, target: np.ndarray, at_least: float
) -> np.ndarray:
    """(P,) bool: pairs that share a third of the words of 4 residues that are expected at the identity, or more.

    At 90 % none is lost, unless half of a sequence repeats itself: so few edits leave more words whole. Unrelated pairs
    are lost, almost all. Different words are counted, of the sequence that has fewer.
    """
    used, which = np.unique(np.concatenate((query, target + len(queries))), return_inverse=True)
    sequences = [queries[i] if i < len(queries) else targets[i - len(queries)] for i in used]
    words, owners = _words(sequences, SHORT_WORD)
    column = np.cumsum(np.diff(words, prepend=-1) != 0) - 1
    table = sparse.csr_matrix((np.ones(len(words), np.int32), (owners, column)), shape=(len(sequences), len(words)))
    sizes, left, right = np.diff(table.indptr), which[: len(query)], which[len(query) :]
    fewer = np.minimum(sizes[left], sizes[right])
    shared = np.zeros(len(query))
    for part in np.array_split(np.arange(len(query)), 1 + int(fewer.sum()) // CHUNK):
        shared[part] = np.asarray(table[left[part]].multiply(table[right[part]]).sum(axis=1)).ravel()
    return shared >= fewer * at_least**SHORT_WORD / 3


def _without_gaps(queries: Sequence[str], targets: Sequence[str], query: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(P,) float64: equal positions over length for pairs of equal length, NaN for others."""
    found = np.full(len(query), np.nan)
    lengths = _lengths(queries)
    same = np.flatnonzero(lengths[query] == _lengths(targets)[target])
    text_q, text_t = (np.frombuffer("".join(s).encode("ascii", "replace"), np.uint8) for s in (queries, targets))
    start_q, start_t = (np.cumsum(_lengths(s)) - _lengths(s) for s in (queries, targets))
    parts = np.cumsum(lengths[query[same]]) // CHUNK
    for part in np.split(same, np.flatnonzero(np.diff(parts)) + 1):
        if len(part):
            n = lengths[query[part]]
            begin = np.cumsum(n) - n
            within = np.arange(n.sum()) - np.repeat(begin, n)
            left, right = (np.repeat(start, n) + within for start in (start_q[query[part]], start_t[target[part]]))
            found[part] = np.add.reduceat(text_q[left] == text_t[right], begin, dtype=np.int64) / n
    return found


def identity(a: str, b: str, at_least: float = 0.0) -> float:
    """Identity with gaps, NaN below `at_least`; of two of equal length the alphabetically first is the shorter."""
    short, long = sorted((a, b), key=lambda s: (len(s), s))
    limit = int((1 - at_least) * len(short) + 1e-9)
    found = edits(short, long, limit)
    return 1 - found / len(short) if found <= limit else float("nan")


def edits(pattern: str, text: str, limit: int) -> int:
    """The fewest edits that turn the pattern into a stretch of the text (Myers 1999, doi:10.1145/316542.316550), or
    limit + 1 where it takes more.

    A column of the table is two integers with a bit a residue: some 0.5 µs a residue of the text.
    """
    size = len(pattern)
    where, last, ones = _places(pattern), 1 << size - 1, (1 << size) - 1
    up, down, score, best = ones, 0, size, size
    for left, letter in zip(range(len(text) - 1, -1, -1), text, strict=True):
        equal = where.get(letter, 0)
        vertical = equal | down
        across = (((equal & up) + up) ^ up) | equal
        plus = down | (ones & ~(across | up))
        minus = up & across
        if plus & last:
            score += 1
        elif minus & last:
            score -= 1
            best = min(best, score)
        if score - left > limit < best:  # a column takes one edit away at most
            return limit + 1
        plus, minus = plus << 1 & ones, minus << 1 & ones
        up = minus | (ones & ~(vertical | plus))
        down = plus & vertical
    return best if best <= limit else limit + 1


@lru_cache(maxsize=4096)
def _places(pattern: str) -> dict[str, int]:
    """For each letter an integer with the bits of its positions."""
    backwards = pattern[::-1]
    return {letter: int("".join("01"[other == letter] for other in backwards), 2) for letter in set(pattern)}
