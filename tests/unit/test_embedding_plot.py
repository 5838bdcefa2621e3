"""Pictures of embeddings: where points lie, what colours them, what the picture says of itself."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from plmft import InputError
from plmft.embeddings import plotted
from plmft.embeddings.options import read_options
from plmft.embeddings.plot import Plot, main
from plmft.embeddings.plotted import COLOURS, Shades, draw, plot
from plmft.embeddings.projection import Plane, neighbours_kept, project
from tests.unit.embedded_files import clustered, write_embeddings

DEFAULTS = Plot("", "", "pca", None, None, None, None, "auto", 20_000, 5, 10.0, None, None, 0)
COUNT = 90
HOW = {"neighbours": 5, "perplexity": 10.0, "seed": 0}


@pytest.fixture
def files(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, pd.DataFrame]:
    vectors, own = clustered(rng, COUNT, 3)
    ids = [f"p{number:02}" for number in range(COUNT)]
    path = write_embeddings(tmp_path / "e.safetensors", ids, vectors)
    table = pd.DataFrame({"id": ids, "place": np.array(["a", "b", "c"])[own], "heat": vectors[:, 0]})
    return path, table.sample(frac=1, random_state=2)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """What is drawn, instead of drawing: (plane, shades, title)."""
    calls: list = []
    monkeypatch.setattr(plotted, "draw", lambda *what: calls.append(what))
    monkeypatch.setattr(plotted, "_picture", lambda figure, kind: b"picture")
    return calls


def run(path: Path, table: pd.DataFrame, **changed: object) -> list[str]:
    table.to_csv(path.parent / "labels.csv", index=False)
    named = {"embeddings": str(path), "output": str(path.parent / "x.png"), "labels": str(path.parent / "labels.csv")}
    told: list[str] = []
    plot(replace(DEFAULTS, **named | changed), told.append)
    return told


def test_principal_components_are_those_of_the_singular_values(rng: np.random.Generator) -> None:
    vectors, _ = clustered(rng, COUNT)
    plane = project(vectors, "pca", **HOW)
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(0)
    _, values, right = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane.points), np.abs(centred @ right[:2].T), atol=1e-8)
    shares = values**2 / (values**2).sum()
    assert plane.axes == (f"PC 1 ({shares[0]:.1%} of the variance)", f"PC 2 ({shares[1]:.1%} of the variance)")


def test_tsne_keeps_clusters_and_is_the_same_again(rng: np.random.Generator) -> None:
    vectors, own = clustered(rng, COUNT, 3)
    first, second = (project(vectors, "tsne", **HOW).points for _ in range(2))
    np.testing.assert_array_equal(first, second)
    distances = np.linalg.norm(first[:, None] - first[None], axis=2) + 1e9 * np.eye(COUNT)
    assert (own[distances.argmin(1)] == own).mean() > 0.95


def test_kept_neighbours_are_counted(rng: np.random.Generator) -> None:
    points = rng.normal(size=(60, 2))
    assert neighbours_kept(points, points, 5, 0) == 1.0
    assert neighbours_kept(points, rng.normal(size=(60, 2)), 5, 0) < 0.3
    line = np.arange(40.0)[:, None]
    assert neighbours_kept(line, np.roll(line, 20, axis=0), 2, 0) > 0.8  # all but those at the ends


def test_labels_colour_their_own_points(files, drawn: list, tmp_path: Path) -> None:
    path, table = files
    run(path, table, column="place", coordinates=str(tmp_path / "xy.csv"))
    ((plane, shades, title),) = drawn
    by_id = table.set_index("id")["place"]
    assert shades.words == [by_id[f"p{n:02}"] for n in range(COUNT)]
    assert "esm2_tiny (random weights, seed 0), layer 2, mean" in title and "90 sequences by PCA" in title
    rows = pd.read_csv(tmp_path / "xy.csv")
    np.testing.assert_allclose(rows[["x", "y"]], plane.points, rtol=1e-4, atol=1e-4)
    assert list(rows["place"]) == shades.words and list(rows["id"]) == sorted(table["id"])
    run(path, table, column="heat")
    heat = table.set_index("id")["heat"]
    np.testing.assert_allclose(drawn[1][1].values, [heat[f"p{n:02}"] for n in range(COUNT)], rtol=1e-5)


def test_points_without_a_label_have_none(files, drawn: list) -> None:
    path, table = files
    holes = table[table["id"] != "p07"].assign(heat=lambda t: t["heat"].where(t["id"] != "p08"))
    told = run(path, holes, column="heat")
    assert np.flatnonzero(np.isnan(drawn[0][1].values)).tolist() == [7, 8]
    assert "1 embeddings have no row in labels.csv (first: p07)." in told


def test_few_whole_numbers_are_classes_unless_they_are_said_to_be_numbers(files, drawn: list) -> None:
    path, table = files
    table = table.assign(place=table["place"].map({"a": 1, "b": 2, "c": 3}))
    run(path, table, column="place")
    run(path, table, column="place", colours="numbers")
    assert drawn[0][1].words is not None and drawn[1][1].values is not None


def test_many_points_are_drawn_by_chance_with_their_labels(files, drawn: list, tmp_path: Path) -> None:
    path, table = files
    told = run(path, table, column="place", points=30, coordinates=str(tmp_path / "xy.csv"))
    assert "30 of 90 points are drawn, evenly by chance (points=30)." in told
    rows, by_id = pd.read_csv(tmp_path / "xy.csv"), table.set_index("id")["place"]
    assert len(rows) == 30 and list(rows["place"]) == [by_id[id_] for id_ in rows["id"]]
    assert drawn[0][1].words == list(rows["place"])


def test_more_classes_than_colours_share_grey(rng: np.random.Generator) -> None:
    names = [f"c{n:02}" for n in range(50) for _ in range(50 - n)] + ["", "no $label$"]
    plane = Plane(rng.normal(size=(len(names), 2)), ("PC 1", "PC 2"), 0.5)
    axes = draw(plane, Shades("family", words=names), "title").axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:3] == ["no label (1)", "other (106)", "c00 (50)"] and len(labels) == 2 + 3 * len(COLOURS)
    sizes = [len(collection.get_offsets()) for collection in axes.collections]
    assert sum(sizes) == len(names)
    assert len({(c.get_facecolor().tobytes(), c.get_paths()[0].vertices.tobytes()) for c in axes.collections[2:]}) == 36


def test_a_scale_shows_every_point(rng: np.random.Generator) -> None:
    values = np.append(rng.normal(size=49), np.nan)
    axes = draw(Plane(rng.normal(size=(50, 2)), ("UMAP 1", "UMAP 2"), 0.5), Shades("heat", values=values), "t").axes
    assert [len(c.get_offsets()) for c in axes[0].collections] == [1, 49]
    assert axes[1].get_ylabel().startswith("heat") and not len(axes[0].get_xticks())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"column": "plaze"}, "column=plaze: .*Did you mean 'place'"),
        ({}, "which column holds the labels. Set column"),
        ({"column": "place", "colours": "numbers"}, "column 'place': .* is not a number"),
        ({"column": "place", "neighbours": 90}, "neighbours=90: there are 90 points"),
        ({"column": "place", "method": "tsne", "perplexity": 100.0}, "perplexity=100: there are 90 points"),
        ({"column": "place", "layer": 7}, "has no layer 7"),
        ({"column": "place", "output": "/proc/x/y.png"}, "/proc/x/y.png: can't be written"),
    ],
    ids=str,
)
def test_mistakes_are_told(files, options: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(*files, **options)


def test_vectors_without_a_picture_are_told(tmp_path: Path, rng: np.random.Generator) -> None:
    same = np.ones((20, 4), np.float32)
    for vectors, told in ((same, "all 20 vectors are equal"), (same[:3], "3 points make no picture")):
        path = write_embeddings(tmp_path / "e.safetensors", [str(n) for n in range(len(vectors))], vectors)
        with pytest.raises(InputError, match=told):
            plot(replace(DEFAULTS, embeddings=str(path), output=str(tmp_path / "x.png")), print)


def test_without_umap_the_way_to_get_it_is_told(files, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r'umap-learn.*pip install -e "\.\[embed\]"'):
        run(*files, column="place", method="umap")


def test_the_command_writes_a_picture(files, capsys) -> None:
    path, table = files
    table.to_csv(path.parent / "labels.csv", index=False)
    output = path.parent / "new" / "x.png"
    options = [f"embeddings={path}", f"labels={path.parent / 'labels.csv'}", "column=place"]
    main([*options, f"output={output}"])
    assert output.read_bytes().startswith(b"\x89PNG") and "nearest neighbours are nearest" in capsys.readouterr().out
    before = output.read_bytes()
    with pytest.raises(InputError, match=f"output={output}: is there already, and is not replaced"):
        main([*options, f"output={output}"])
    assert output.read_bytes() == before
    with pytest.raises(InputError, match=r"a picture is written as \.png, \.svg, \.pdf"):
        main([*options, "output=x.gif"])


def test_coordinates_never_replace_the_labels(files) -> None:
    path, table = files
    labels, output = path.parent / "labels.csv", path.parent / "x.png"
    table.to_csv(labels, index=False)
    before = labels.read_bytes()
    options = [f"embeddings={path}", f"labels={labels}", "column=place", f"output={output}"]
    with pytest.raises(InputError) as refused:
        main([*options, f"coordinates={labels}"])
    told = f"coordinates={labels}: is there already, and is not replaced. Choose another name, or remove it."
    assert str(refused.value) == told
    assert labels.read_bytes() == before and not output.exists()
    with pytest.raises(InputError, match="Name a file of its own"):
        main([*options, f"coordinates={output}"])


def test_coordinates_that_cannot_be_written_leave_no_picture(files, drawn: list) -> None:
    with pytest.raises(InputError, match=r"/proc/x/y\.csv: can't be written"):
        run(*files, column="place", coordinates="/proc/x/y.csv")
    assert drawn and not (files[0].parent / "x.png").exists()


@pytest.mark.parametrize("typed", ["396771", "1234e5", "0012"])
def test_a_run_is_taken_as_it_was_typed(typed: str) -> None:
    words = ["embeddings=7", "output=x.png", f"run={typed}", "column=3", "perplexity=5.0"]
    options = read_options(words, "embed_plot", Plot)
    assert (options.run, options.embeddings, options.column, options.perplexity) == (typed, "7", 3, 5.0)
    assert read_options([*words[:2], "run=null"], "embed_plot", Plot).run is None


@pytest.mark.slow
def test_a_run_gets_the_picture_under_the_name_that_the_report_looks_for(files, tmp_path: Path, monkeypatch) -> None:
    from plmft.tracking.store import open_client

    monkeypatch.setenv("PLMFT_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match="there is no MLflow store"):
        run(*files, column="place", run="abc")
    (tmp_path / "runs").mkdir()
    client = open_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    stored = client.create_run(experiment).info.run_id
    told = run(*files, column="place", run=stored[:10])
    assert told[-1] == f"Logged to run {stored[:8]} as embedding_pca_place.png."
    (found,) = (tmp_path / "artifacts").rglob("*.png")
    assert found.name == "embedding_pca_place.png" and found.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="has no such run"):
        run(*files, column="place", run="0" * 32)


@pytest.mark.slow
def test_umap_as_a_command(files) -> None:
    path, table = files
    table.to_csv(path.parent / "labels.csv", index=False)
    command = [sys.executable, "-m", "plmft.embed", "plot"]
    options = [f"embeddings={path}", f"labels={path.parent / 'labels.csv'}", "column=place", "method=umap"]
    coordinates = path.parent / "xy.csv"
    more = [f"output={path.parent / 'x.svg'}", f"coordinates={coordinates}"]
    done = subprocess.run([*command, *options, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows = pd.read_csv(coordinates)
    points, place = rows[["x", "y"]].to_numpy(), rows["place"].to_numpy()
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
    assert (place[distances.argmin(1)] == place).mean() > 0.95
