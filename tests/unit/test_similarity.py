"""Identity against a table filled cell by cell; clusters against all pairs; both engines on clear cases."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from plmft import InputError
from plmft.data.kmers import candidates, components, edits, identities, identity
from plmft.data.similarity import cluster, nearest
from tests.conftest import AMINO_ACIDS, random_sequence

WITH_MMSEQS = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not on PATH")


@pytest.fixture(autouse=True)
def one_mmseqs_thread(monkeypatch) -> None:
    monkeypatch.setenv("MMSEQS_NUM_THREADS", "1")


@pytest.fixture
def no_mmseqs(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def slow_edits(pattern: str, text: str) -> int:
    """Any stretch of the text: the first row costs nothing, the least of the last row counts."""
    row = [0] * (len(text) + 1)
    for i, a in enumerate(pattern, 1):
        above, row = row, [i]
        for j, b in enumerate(text, 1):
            row.append(min(above[j - 1] + (a != b), above[j] + 1, row[j - 1] + 1))
    return min(row)


def slow_identity(a: str, b: str) -> tuple[float, float]:
    """With gaps, and without where lengths are equal."""
    short, long = sorted((a, b), key=lambda s: (len(s), s))
    gaps = 1 - slow_edits(short, long) / len(short)
    plain = sum(x == y for x, y in zip(a, b, strict=True)) / len(a) if len(a) == len(b) else 0.0
    return gaps, plain


def mutated(rng: np.random.Generator, sequence: str, share: float, gaps: int = 0) -> str:
    letters = list(sequence)
    for i in rng.choice(len(letters), int(share * len(letters)), replace=False):
        letters[i] = rng.choice([a for a in AMINO_ACIDS if a != letters[i]])
    for _ in range(gaps):
        i = rng.integers(len(letters))
        letters[i : i + 1] = [] if rng.random() < 0.5 else [letters[i], rng.choice(list(AMINO_ACIDS))]
    return "".join(letters)


def families(rng: np.random.Generator, n: int, members: int, share: float, low: int = 30, high: int = 90) -> list[str]:
    parents = [random_sequence(rng, rng.integers(low, high)) for _ in range(n)]
    return [mutated(rng, parent, share, 1) for parent in parents for _ in range(members)]


@given(st.text("ACD", min_size=1, max_size=70), st.text("ACD", max_size=90), st.integers(0, 70))
@settings(max_examples=150, deadline=None)
def test_edits_are_the_fewest(pattern: str, text: str, limit: int) -> None:
    assert edits(pattern, text, limit) == min(slow_edits(pattern, text), limit + 1)


@pytest.mark.parametrize("at_least", [0.5, 0.9])
def test_identities_of_mutated_pairs(rng, at_least: float) -> None:
    sequences = families(rng, 8, 5, 0.04) + families(rng, 8, 5, 0.4)
    query, target = (index.ravel() for index in np.meshgrid(np.arange(0, 80, 5), np.arange(80), indexing="ij"))
    found = identities(sequences, sequences, query, target, at_least=at_least)
    seen = 0
    for a, b, value in zip(query, target, found, strict=True):
        gaps, plain = slow_identity(sequences[a], sequences[b])
        if np.isnan(value):
            assert gaps < at_least + 0.1 * (at_least < 0.9)  # at 50 % a pair may share too few words
        else:
            assert value == pytest.approx(plain if plain >= at_least else gaps) and value >= at_least
            seen += 1
    assert seen > 30


def test_at_ninety_percent_no_pair_is_left_out(rng) -> None:
    sequences = families(rng, 9, 4, 0.05, low=20)
    query, target = (index.ravel() for index in np.meshgrid(*2 * [np.arange(len(sequences))]))
    found = identities(sequences, sequences, query, target, at_least=0.9)
    wanted = [slow_identity(sequences[a], sequences[b]) for a, b in zip(query, target, strict=True)]
    np.testing.assert_allclose(found, [p if p >= 0.9 else g if g >= 0.9 else np.nan for g, p in wanted])


def test_repeats_are_no_obstacle() -> None:
    pair = ["AQ" * 30, "AQ" * 28 + "A"]
    assert identities(pair, pair, np.array([0]), np.array([1]), at_least=0.9)[0] == 1
    assert cluster(pair, identity=0.9, engine="kmers").labels.tolist() == [0, 0]


def test_identity_has_no_direction_and_a_bound() -> None:
    assert identity("MKVLAAGWCD", "MKVLAAGWCD") == 1
    assert identity("MKVLAAGWCD", "HHHMKVLAAGWCDHH") == 1  # the overhang is not counted
    assert identity("ACDEF", "CDEFG") == identity("CDEFG", "ACDEF") == 0.8
    assert np.isnan(identity("AAAA", "AAWW", at_least=0.75)) and identity("AAAA", "AAWA", at_least=0.75) == 0.75


def slow_components(sequences: list[str], at_least: float) -> np.ndarray:
    n = len(sequences)
    alike = np.zeros((n, n), bool)
    for i, a in enumerate(sequences):
        for j, b in enumerate(sequences[:i]):
            if min(len(a), len(b)) >= 0.8 * max(len(a), len(b)):
                alike[i, j] = max(slow_identity(a, b)) >= at_least
    return connected_components(alike, directed=False)[1]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len(np.unique(np.stack((a, b)), axis=1).T) == len(np.unique(a)) == len(np.unique(b))


def test_components_are_those_of_all_pairs(rng, no_mmseqs) -> None:
    sequences = sorted(set(families(rng, 12, 4, 0.04, low=20) + families(rng, 4, 5, 0.3)))
    assert same_partition(components(sequences, 0.9), slow_components(sequences, 0.9))


@given(st.lists(st.text("ACDW", min_size=1, max_size=40), max_size=25))
@settings(max_examples=40, deadline=None)
def test_what_shares_no_word_is_never_joined(sequences: list[str]) -> None:
    labels = cluster(sequences, identity=0.5, engine="kmers").labels
    words = [{s[i : i + 4] for i in range(len(s) - 3)} | {s} for s in sequences]
    shared = np.array([[bool(a & b) for b in words] for a in words]).reshape(len(words), len(words))
    for label in np.unique(labels):
        of = labels == label
        assert connected_components(shared[np.ix_(of, of)], directed=False)[0] == 1
    slow = slow_components(sequences, 0.5) if sequences else labels
    assert len(np.unique(np.stack((labels, slow)), axis=1).T) == len(np.unique(labels))  # no chain but of alike pairs


def test_the_order_of_sequences_does_not_matter(rng, no_mmseqs) -> None:
    sequences = families(rng, 10, 6, 0.2)
    sequences += sequences[:5]
    order = rng.permutation(len(sequences))
    shuffled = [sequences[i] for i in order]
    labels = cluster(sequences).labels
    assert labels.dtype == np.int64 and set(labels) == set(range(labels.max() + 1))
    np.testing.assert_array_equal(cluster(shuffled).labels, labels[order])
    a, b = nearest(sequences, sequences[::7], identity=0.6), nearest(shuffled, sequences[::7], identity=0.6)
    np.testing.assert_array_equal(b.identity, a.identity[order])
    np.testing.assert_array_equal(b.target, a.target[order])


def test_nearest_names_the_best(rng) -> None:
    targets = families(rng, 10, 5, 0.05)
    queries = [mutated(rng, t, 0.04) for t in targets] + [targets[3], random_sequence(rng, 60), "MK"]
    found = nearest(queries, targets, identity=0.9)
    assert "k-mers" in found.method and "90%" in found.method
    for query, value, target in zip(queries, found.identity, found.target, strict=True):
        values = [max(slow_identity(query, t)) for t in targets if len(query) >= 0.8 * len(t)]
        best = max(values, default=0)
        assert (value == pytest.approx(best)) if best >= 0.9 else np.isnan(value)
        if target < 0:
            assert np.isnan(value)
        else:
            assert value in [pytest.approx(v) for v in slow_identity(query, targets[target])]
    assert found.target[50] == 3 and found.identity[50] == 1


def test_variants_of_one_protein_are_one_cluster_in_linear_work(rng) -> None:
    parent = random_sequence(rng, 200)
    sequences = sorted({mutated(rng, parent, 0.03) for _ in range(3_000)})
    query, _ = candidates(sequences, sequences)
    assert len(query) <= 8 * len(sequences)
    assert not components(sequences, 0.9).any()


def test_few_or_no_sequences() -> None:
    assert len(cluster([], engine="kmers").labels) == 0
    assert cluster(["M", "M", "K"], engine="kmers").labels.tolist() == [1, 1, 0]
    none = nearest(["MKV"], [])
    assert np.isnan(none.identity[0]) and none.target[0] == -1
    assert len(nearest([], ["MKV"]).target) == 0
    for identity_ in (0, 1.1):
        with pytest.raises(ValueError, match="not in"):
            cluster(["M"], identity=identity_)


def test_without_mmseqs_the_method_says_what_is_not_seen(rng, no_mmseqs) -> None:
    method = cluster([random_sequence(rng, 50), random_sequence(rng, 50)], identity=0.3).method
    assert method.startswith("k-mers, 50% identity over 80% of both sequences; relatives between 30% and 50%")
    assert "Debian package mmseqs2" in method
    with pytest.raises(InputError, match="mmseqs is not on PATH"):
        cluster(["MKV"], engine="mmseqs")


def test_a_failure_of_mmseqs_is_told_by_its_last_line(rng, monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "mmseqs"
    program.write_text(
        '#!/bin/sh\n[ "$1" = version ] && exit 0\necho a stack of words\necho no space left >&2\nexit 3\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    sequences = [random_sequence(rng, 50), random_sequence(rng, 50)]
    for call in (lambda: cluster(sequences), lambda: nearest(sequences[:1], sequences[1:], engine="mmseqs")):
        with pytest.raises(InputError, match=r"mmseqs easy-\w+ failed: no space left\. Mend that"):
            call()


@pytest.mark.slow
@WITH_MMSEQS
def test_both_engines_agree_on_clear_cases(rng) -> None:
    sequences = families(rng, 12, 4, 0.15, low=120, high=160)
    by_mmseqs = cluster(sequences, identity=0.6, engine="mmseqs")
    by_kmers = cluster(sequences, identity=0.6, engine="kmers")
    assert by_mmseqs.method.startswith("MMseqs2 ")
    np.testing.assert_array_equal(by_mmseqs.labels, by_kmers.labels)
    np.testing.assert_array_equal(by_kmers.labels[::4].repeat(4), by_kmers.labels)
    queries = [mutated(rng, s, 0.03) for s in sequences[::4]]
    a, b = (nearest(queries, sequences, identity=0.7, engine=engine) for engine in ("mmseqs", "kmers"))
    np.testing.assert_allclose(a.identity, b.identity, atol=0.03)  # a local alignment may leave out the ends
    np.testing.assert_array_equal(a.target // 4, b.target // 4)


@pytest.mark.slow
@WITH_MMSEQS
def test_mmseqs_sees_what_kmers_do_not(rng) -> None:
    parent = random_sequence(rng, 300)
    sequences = [parent] + [mutated(rng, parent, 0.6) for _ in range(3)] + [random_sequence(rng, 300)]
    labels = cluster(sequences, identity=0.3).labels
    assert len(set(labels[:4])) == 1 and labels[4] != labels[0]
    assert len(set(cluster(sequences, identity=0.3, engine="kmers").labels)) == 5
    peptides = ["MKVLAAGWCD", "MKVLAAGWCE"]  # too short for MMseqs2's expectation values
    assert len(set(cluster(peptides, identity=0.9, engine="mmseqs").labels)) == 1
