"""Whole clusters, near the sizes asked for, whatever the order of the rows."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plmft import InputError
from plmft.data.records import SPLITS
from plmft.data.similarity import cluster
from plmft.data.splitting import split_at_random, split_by_cluster
from tests.conftest import random_sequence
from tests.unit.test_similarity import families

BY_KMERS = {"engine": "kmers"}


def clusters_by_split(sequences: list, splits: list[str], labels: np.ndarray) -> list[set[int]]:
    return [{int(c) for c, s in zip(labels, splits, strict=True) if s == split} for split in SPLITS]


def test_no_cluster_is_cut(rng) -> None:
    sequences = families(rng, 60, 5, 0.1)
    splits, note = split_by_cluster(sequences, seed=1, **BY_KMERS)
    train, valid, test = clusters_by_split(sequences, splits, cluster(sequences, **BY_KMERS).labels)
    assert train and valid and test and not train & valid and not train & test and not valid & test
    assert Counter(splits) == {"train": 240, "valid": 30, "test": 30}
    assert note.startswith("No split column: split by 60 sequence clusters (k-mers, 50% identity over 80% of both")
    assert note.endswith("seed 1: train 240, valid 30, test 30. The largest cluster has 5 records.")


def test_rows_in_another_order_get_the_same_splits(rng) -> None:
    sequences = families(rng, 40, 3, 0.1)
    sequences += sequences[:9]
    labels = [len(s) % 3 for s in sequences]
    order = rng.permutation(len(sequences)).tolist()
    for split in (split_by_cluster, split_at_random):
        options = BY_KMERS if split is split_by_cluster else {}
        splits, _ = split(sequences, labels, seed=3, **options)
        again, _ = split([sequences[i] for i in order], [labels[i] for i in order], seed=3, **options)
        assert again == [splits[i] for i in order]
        assert split(sequences, labels, seed=4, **options)[0] != splits
        for sequence in sequences[:9]:  # equal sequences never cross over
            assert len({s for other, s in zip(sequences, splits, strict=True) if other == sequence}) == 1


@given(st.lists(st.integers(1, 12), min_size=20, max_size=60), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_sizes_are_near_what_was_asked_for(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sequences = [s for size in sizes for s in [random_sequence(rng, 40)] * size]
    splits, _ = split_at_random(sequences, seed=seed)
    for split, fraction in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert abs(splits.count(split) - fraction * len(sequences)) <= max(sizes)


def test_classes_are_shared_out(rng) -> None:
    sequences = [random_sequence(rng, 40) for _ in range(400)]
    labels = ["rare" if i < 40 else "common" for i in range(400)]
    splits, _ = split_by_cluster(sequences, labels, **BY_KMERS)
    assert Counter(zip(splits, labels, strict=True)) == {
        ("train", "rare"): 32,
        ("valid", "rare"): 4,
        ("test", "rare"): 4,
        ("train", "common"): 288,
        ("valid", "common"): 36,
        ("test", "common"): 36,
    }


def test_large_clusters_are_not_all_in_train(rng) -> None:
    sequences = [s for size in range(1, 40) for s in [random_sequence(rng, 40)] * size]
    splits, _ = split_at_random(sequences)
    sizes = Counter(sequences)
    assert max(sizes[s] for s, split in zip(sequences, splits, strict=True) if split == "test") > 20


def test_a_fraction_of_nothing_leaves_a_split_out(rng) -> None:
    splits, note = split_at_random([random_sequence(rng, 30) for _ in range(20)], fractions=(0.5, 0, 0.5))
    assert Counter(splits) == {"train": 10, "test": 10} and "valid" not in note
    with pytest.raises(ValueError, match="with sum 1"):
        split_at_random(["MKV"] * 9, fractions=(0.8, 0.1, 0.2))


def test_small_sets_fill_every_split(rng) -> None:
    assert set(split_at_random([random_sequence(rng, 30) for _ in range(3)])[0]) == set(SPLITS)
    with pytest.raises(InputError, match=r"3 records into 2 groups can be made: valid would get 0 of the 0 "):
        split_at_random(["MKV", "MKV", "AAA"])
    with pytest.raises(InputError, match="no records to split"):
        split_by_cluster([], **BY_KMERS)


def test_uneven_clusters_are_told(rng) -> None:
    sequences = [random_sequence(rng, 50)] * 60 + [random_sequence(rng, 50)] * 39
    sequences += [random_sequence(rng, 50)] * 26 + [random_sequence(rng, 50)] * 5
    _, note = split_by_cluster(sequences, **BY_KMERS)
    assert "(asked for 104, 13, 13; clusters are not cut)" in note


def test_variants_of_one_protein_have_no_split_by_clusters(rng) -> None:
    parent = random_sequence(rng, 100)
    variants = [parent[:i] + letter + parent[i + 1 :] for i in range(100) for letter in "AW"]
    with pytest.raises(InputError) as error:
        split_by_cluster(variants, **BY_KMERS)
    for words in ("into 1 groups", "near-identical", "Set task.split_by=random", "add a column with the words train"):
        assert words in str(error.value)
    assert set(split_at_random(variants)[0]) == set(SPLITS)


def test_both_proteins_of_a_pair_keep_to_their_split(rng) -> None:
    groups = [families(rng, 1, 4, 0.1) for _ in range(40)]
    pairs = [(a, b) for g in groups for a, b in ((g[0], g[1]), (g[3], g[2]), (g[1], g[0]))]
    splits, note = split_by_cluster(pairs, **BY_KMERS)
    assert Counter(splits) == {"train": 96, "valid": 12, "test": 12} and "40 sequence clusters" in note
    labels = cluster([a for a, _ in pairs] + [b for _, b in pairs], **BY_KMERS).labels.reshape(2, -1)
    sides = [clusters_by_split(pairs, splits, side) for side in labels]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not (sides[0][a] | sides[1][a]) & (sides[0][b] | sides[1][b])


def test_pairs_that_all_hang_together_are_refused(rng) -> None:
    proteins = [random_sequence(rng, 50) for _ in range(40)]
    pairs = list(itertools.pairwise(proteins))
    with pytest.raises(InputError, match=r"39 pairs hang together by shared or similar proteins\. Set task\.split_by"):
        split_by_cluster(pairs, **BY_KMERS)
    doubled = pairs + [(b, a) for a, b in pairs]
    splits, _ = split_at_random(doubled)
    assert splits[:39] == splits[39:]  # a pair the other way round is the same pair
