"""Nearest neighbours: what the index finds is what brute force finds, recall counts what is missing, kept indexes serve
the vectors they were built from alone.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plmft import InputError
from plmft.embeddings import nearest, queries, searched
from plmft.embeddings.formats import open_embeddings
from plmft.embeddings.kept_index import index_of
from plmft.embeddings.search import Search, main
from tests.unit.embedded_files import clustered, write_embeddings

DEFAULTS = Search("", None, None, 10, None, "cosine", "auto", 0.95, 100, None, None, 0)


@pytest.fixture
def base(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, list[str], np.ndarray]:
    vectors, _ = clustered(rng, 300)
    ids = [f"p{number}" for number in range(300)]
    return write_embeddings(tmp_path / "base.safetensors", ids, vectors), ids, vectors


def run(index: Path, **changed: object) -> list[str]:
    """Searched as the command does; what it tells."""
    told: list[str] = []
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in changed.items()}
    searched.search(replace(DEFAULTS, index=str(index), **plain), [], told.append)
    return told


def hits(file: Path) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    header, *lines = file.read_text().splitlines()
    assert header.split("\t")[:3] == ["query", "rank", "hit"]
    for line in lines:
        query, rank, hit, score = line.split("\t")
        found.setdefault(query, []).append((hit, float(score)))
        assert int(rank) == len(found[query])
    return found


def by_hand(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """(Q, N) scores in float64, from the definition."""
    q, v = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "euclidean":
        return np.linalg.norm(q[:, None] - v[None], axis=2)
    return (q @ v.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(v, axis=1)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("method", ["flat", "ivf", "hnsw"])
def test_hits_are_those_of_the_definition(base, rng, tmp_path, metric, method) -> None:
    path, ids, vectors = base
    queries = (vectors[:40] + 0.1 * rng.normal(size=(40, 16))).astype(np.float32)
    asked = write_embeddings(tmp_path / "q.safetensors", [f"q{n}" for n in range(40)], queries)
    output = tmp_path / "hits.tsv"
    told = "\n".join(run(path, query=asked, output=output, k=7, recall=1.0, metric=metric, method=method))
    assert "Recall@7 against brute force: 1.000" in told and "40 queries, 280 hits" in told
    scores = by_hand(queries, vectors, metric)
    order = np.argsort(-scores if metric == "cosine" else scores, axis=1)[:, :7]
    found = hits(output)
    assert [[hit for hit, _ in found[f"q{n}"]] for n in range(40)] == [[ids[i] for i in row] for row in order]
    np.testing.assert_allclose(
        [[score for _, score in found[f"q{n}"]] for n in range(40)], np.take_along_axis(scores, order, 1), atol=2e-6
    )


def test_small_distances_do_not_drown(tmp_path: Path) -> None:
    """FAISS takes differences of squares, which lose what is smaller than 3e-4 of the vectors' length."""
    vectors = np.full((50, 8), 100.0, np.float32)
    vectors[:, 0] += 0.01 * np.arange(50)
    path = write_embeddings(tmp_path / "e.safetensors", [f"p{n:02}" for n in range(50)], vectors)
    run(path, output=tmp_path / "h.tsv", metric="euclidean", k=3)
    first = hits(tmp_path / "h.tsv")["p00"]
    assert [hit for hit, _ in first] == ["p01", "p02", "p03"]
    assert [score for _, score in first] == pytest.approx([0.01, 0.02, 0.03], abs=1e-4)


def test_the_index_searched_for_itself_leaves_each_vector_out(base, tmp_path: Path) -> None:
    _, ids, vectors = base
    twins = write_embeddings(tmp_path / "t.safetensors", [*ids, "twin"], np.vstack([vectors, vectors[5:6]]))
    run(twins, output=tmp_path / "h.tsv", k=2)
    found = hits(tmp_path / "h.tsv")
    assert all(query not in [hit for hit, _ in each] and len(each) == 2 for query, each in found.items())
    assert found["p5"][0] == ("twin", 1.0) and found["twin"][0] == ("p5", 1.0)
    run(twins, output=tmp_path / "h.tsv", k=2, exclude_self=False)
    assert {hit for hit, _ in hits(tmp_path / "h.tsv")["p5"]} == {"p5", "twin"}


def test_without_an_output_hits_alone_go_to_the_terminal(base, capsys) -> None:
    main([f"index={base[0]}", "k=1"])
    out, told = capsys.readouterr()
    assert out.startswith("query\trank\thit\tcosine\np0\t1\t") and len(out.splitlines()) == 301
    assert "Recall@" in told


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_every_format_holds_the_same(base, tmp_path: Path, ending: str) -> None:
    import pandas as pd

    for name in ("h.tsv", f"h.{ending}"):
        run(base[0], output=tmp_path / name, k=3)
    reference = pd.read_csv(tmp_path / "h.tsv", sep="\t")
    found = (pd.read_parquet if ending == "parquet" else pd.read_csv)(tmp_path / f"h.{ending}")
    pd.testing.assert_frame_equal(found, reference, check_dtype=False, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_recall_counts_what_is_as_near_as_the_last_exact_one() -> None:
    exact = np.array([[0.9, 0.8, 0.8], [0.9, 0.8, 0.7]])
    found = np.array([[0.9, 0.8, 0.8], [0.9, 0.6, np.nan]])
    np.testing.assert_allclose(nearest.recall_of(found, exact, "cosine"), [1, 1 / 3])
    np.testing.assert_allclose(nearest.recall_of(-found, -exact, "euclidean"), [1, 1 / 3])
    np.testing.assert_allclose(nearest.recall_of(found, exact, "cosine", own=True), [1, 0])


def test_an_index_looks_harder_until_the_recall_is_reached(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(2000, 24)).astype(np.float32)  # no clusters: one cell holds few of the neighbours
    ids = [str(n) for n in range(2000)]
    rows = nearest.prepared(vectors[:60], ids, "cosine")
    exact = nearest.exact_scores(rows, vectors, ids, "cosine", 10)
    index = nearest.build_index(vectors, ids, metric="cosine", method="ivf", seed=0)
    found = {}
    for wanted in (0.01, 0.6, 1.0):
        ask = nearest.asker(index, vectors, "cosine")
        found[wanted] = nearest.reach_recall(index, ask, "ivf", rows, exact, metric="cosine", wanted=wanted)
    assert 0.01 <= found[0.01].mean < 0.6 <= found[0.6].mean < 1 == found[1.0].mean
    assert 1 == found[0.01].effort < found[0.6].effort < found[1.0].effort <= index.nlist


def test_brute_force_goes_block_by_block(rng: np.random.Generator, monkeypatch) -> None:
    vectors, ids = rng.normal(size=(100, 8)).astype(np.float32), [str(n) for n in range(100)]
    monkeypatch.setattr(nearest, "BLOCK", 7)
    rows = nearest.prepared(vectors[:5], ids, "cosine")
    expected = -np.sort(-by_hand(vectors[:5], vectors, "cosine"), axis=1)[:, :9]
    np.testing.assert_allclose(nearest.exact_scores(rows, vectors, ids, "cosine", 9), expected, atol=1e-6)


def kept(vectors: np.ndarray, folder: Path, **changed) -> tuple[object, str]:
    how = {"metric": "cosine", "method": "ivf", "seed": 0} | changed
    return index_of(vectors, [str(n) for n in range(len(vectors))], {"weights": "w"}, folder=folder, **how)


def test_a_kept_index_serves_its_own_vectors_alone(rng: np.random.Generator, tmp_path: Path, monkeypatch) -> None:
    vectors, _ = clustered(rng, 200)
    index, told = kept(vectors, tmp_path / "i")
    assert told == f"built and kept in {tmp_path / 'i'}"
    again, told = kept(vectors, tmp_path / "i")
    assert told == f"read from {tmp_path / 'i'}"
    np.testing.assert_array_equal(index.search(vectors[:9], 4)[1], again.search(vectors[:9], 4)[1])
    other = vectors.copy()
    other[17, 3] += 1e-3
    assert "the one there was of other vectors" in kept(other, tmp_path / "i")[1]
    assert "the one there was of other metric, seed" in kept(other, tmp_path / "i", metric="euclidean", seed=1)[1]


@pytest.mark.parametrize("damage", ["cut", "no json"])
def test_a_damaged_index_is_built_anew(rng: np.random.Generator, tmp_path: Path, damage: str) -> None:
    vectors, _ = clustered(rng, 100)
    kept(vectors, tmp_path)
    if damage == "cut":
        (tmp_path / "index.faiss").write_bytes((tmp_path / "index.faiss").read_bytes()[:-9])
    else:
        (tmp_path / "index.json").write_text("[1]")
    assert "the one there was damaged" in kept(vectors, tmp_path)[1]
    assert kept(vectors, tmp_path)[1].startswith("read from")
    assert json.loads((tmp_path / "index.json").read_text())["key"]["embedded"] == {"weights": "w"}


def test_many_vectors_get_cells_and_few_are_all_compared(monkeypatch) -> None:
    assert nearest.choose_method("auto", 50_000) == "flat" and nearest.choose_method("auto", 50_001) == "ivf"
    assert nearest.choose_method("hnsw", 3) == "hnsw"


def refused(arguments: list[str]) -> str:
    with pytest.raises(InputError) as error:
        main(arguments)
    return str(error.value)


def test_queries_of_another_model_are_refused(base, tmp_path: Path) -> None:
    path, ids, vectors = base
    for key, value in (("weights_sha256", "1" * 64), ("pooling", "max"), ("tokenizer_sha256", "1")):
        other = write_embeddings(tmp_path / "other.safetensors", ids, vectors, **{key: value})
        with pytest.raises(InputError, match=f"{key.removesuffix('_sha256')} .*do not compare"):
            run(path, query=other)
    other = write_embeddings(tmp_path / "other.safetensors", ids, vectors, precision="bf16")
    assert "Queries and index differ in precision (precision bf16 and fp32)." in run(path, query=other, k=1)


def test_mistakes_are_told_in_one_message(base, tmp_path: Path, capsys) -> None:
    path, _, _ = base
    index = f"index={path}"
    assert "index must be set. Give index=..." in refused([])
    assert "k=0: must be greater than or equal to 1" in refused([index, "k=0"])
    assert "Did you mean 'cosine'" in refused([index, "metric=cosin"])
    assert "quary: the config has no key 'quary'. Did you mean 'query'?" in refused([index, "quary=x"])
    assert "hits are written as .tsv" in refused([index, "output=h.xlsx"])
    assert "is the file of index" in refused([f"index={tmp_path / 'x.parquet'}", same(tmp_path)])
    (tmp_path / "victim.csv").write_text("mine")
    told = refused([index, f"output={tmp_path / 'victim.csv'}"])
    assert "victim.csv: is there already, and is not replaced. Choose another name, or remove it." in told
    assert (tmp_path / "victim.csv").read_text() == "mine"
    assert "there is no such file or folder" in refused([f"index={tmp_path / 'absent'}"])
    assert "--k: options have the form key=value" in refused([index, "--k", "5"])


def same(folder: Path) -> str:
    (folder / "x.parquet").write_bytes(b"PAR1")
    return f"output={folder / 'x.parquet'}"


def test_vectors_that_have_no_neighbours_are_told_by_id(base, tmp_path: Path) -> None:
    _, ids, vectors = base
    for value, told in ((np.nan, "not finite"), (0.0, "is zero")):
        wrong = vectors.copy()
        wrong[41] = value
        with pytest.raises(InputError, match=f"p41.*{told}"):
            run(write_embeddings(tmp_path / "w.safetensors", ids, wrong))
    with pytest.raises(InputError, match="one vector alone has no neighbours"):
        run(write_embeddings(tmp_path / "one.safetensors", ["a"], vectors[:1]))
    with pytest.raises(InputError, match="a vector a residue"):
        run(write_embeddings(tmp_path / "r.safetensors", ["a", "b"], [vectors[:5], vectors[5:9]]))


def test_without_faiss_the_way_to_get_it_is_told(base, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[embed\]"'):
        run(base[0])


def test_a_hits_file_is_whole_or_not_there(base, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(searched, "_named", broken)
    with pytest.raises(InputError, match="No space left on device"):
        run(base[0], output=tmp_path / "h.tsv")
    assert not list(tmp_path.glob("*h.tsv*"))


def asked_of_embed(base: Path, *given: str, **about: object) -> list[str]:
    """The options that queries of sequences are embedded with."""
    index = write_embeddings(base.parent / "i.safetensors", ["a", "b"], np.eye(2, 16), **about)
    return queries.as_the_index(open_embeddings(index).about, "i", given)


def test_sequences_are_embedded_as_the_index_was(base) -> None:
    made = {"made_by": "plmft.embed", "length_policy": "crop"}
    options = asked_of_embed(base[0], "hardware=gpu", **made)
    assert {"model=esm2_tiny", "layers=[2]", "pooling=mean", "length_policy=crop"} <= set(options)
    assert {"model.init=random", "seed=0", "hardware=gpu"} <= set(options)
    options = asked_of_embed(base[0], run="abc", weights="tuned", **made)
    assert "run=abc" in options and not any(word.startswith(("model", "seed")) for word in options)
    assert "model.path=x" in asked_of_embed(base[0], "model.path=x", weights="local", **made)
    with pytest.raises(InputError, match=r"Add model\.path=FOLDER"):
        asked_of_embed(base[0], weights="local", **made)
    with pytest.raises(InputError, match=r"model=esm2_8m: i was embedded by esm2_tiny\. Leave model out"):
        asked_of_embed(base[0], "model=esm2_8m", **made)
    with pytest.raises(InputError, match=r"made with run=FOLDER, a tuned model .* give that output as the query"):
        asked_of_embed(base[0], weights="tuned from random weights", **made)
    with pytest.raises(InputError, match="does not tell which model made it"):
        asked_of_embed(base[0])
