"""A picture of embeddings: a point a sequence, coloured by a label, laid out by PCA, t-SNE or UMAP.

    python -m plmft.embed plot embeddings=embeddings labels=table.csv column=location method=umap output=map.png

embeddings=PATH   what plmft.embed wrote, one vector a sequence; layer=N where it holds several layers
labels=FILE       CSV, TSV, Parquet or FASTA headers; rows belong to vectors by id (id=COLUMN), never by their order
column=COLUMN     what colours the points: numbers are a scale, words a colour each; colours=... says which
method=NAME       pca (what varies most), tsne (perplexity=30) or umap (neighbours=15)
output=FILE       .png, .svg or .pdf; coordinates=FILE.csv writes what was drawn; neither may exist
run=ID            the MLflow run that gets the picture, so that python -m plmft.report shows it

Two dimensions keep little of hundreds: the picture tells which share of each point's nearest neighbours it kept.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from plmft import InputError
from plmft.data.whole_file import check_free
from plmft.embeddings.options import HELP, read_options

Named = str | int | None
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Plot:
    """The options; see conf/embed_plot.yaml."""

    embeddings: str
    output: str
    method: Literal["pca", "tsne", "umap"]
    labels: str | None
    column: Named
    id: Named
    layer: int | None
    colours: Literal["auto", "numbers", "classes"]
    points: Annotated[int, Ge(5)]
    neighbours: Annotated[int, Ge(2)]
    perplexity: Annotated[float, Gt(1)]
    coordinates: str | None
    run: str | None
    seed: Annotated[int, Ge(0), Le(2**31 - 1)]


def main(arguments: list[str]) -> None:
    """The command. Raises: InputError: a user's mistake."""
    if any(word in HELP for word in arguments):
        print(__doc__)
        return
    options = read_options(arguments, "embed_plot", Plot)
    output = Path(options.output).expanduser()
    if output.suffix not in SUFFIXES:
        raise InputError(f"output={output}: a picture is written as {', '.join(SUFFIXES)}. Let the name end in one.")
    if options.run is not None and output.suffix != ".png":
        raise InputError(f"output={output}: the report shows .png. Let the name end so, or leave run out.")
    if options.labels is None and options.column is not None:
        raise InputError(f"column={options.column}: of which file? Set labels.")
    if output.is_dir():
        raise InputError(f"output={output} is a folder. Name a file.")
    check_free("output", output)
    if options.coordinates is not None:
        coordinates = Path(options.coordinates).expanduser()
        if coordinates.is_dir() or coordinates == output:
            raise InputError(f"coordinates={coordinates}: is a folder, or output. Name a file of its own.")
        check_free("coordinates", coordinates)
    from plmft.embeddings.plotted import plot

    plot(options, lambda line: print(line, flush=True))
