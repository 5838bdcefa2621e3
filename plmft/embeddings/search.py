"""Nearest neighbours among embeddings, by FAISS, with the recall of what is found.

    python -m plmft.embed search index=embeddings query=new.fasta k=10 output=hits.tsv
    python -m plmft.embed search index=embeddings query=other_embeddings

index=PATH        what plmft.embed wrote, one vector a sequence; layer=N where it holds several layers
query=PATH        sequences (FASTA, CSV, TSV, Parquet), which the index's own model embeds first; or embeddings, which
                  must be of the same weights, layer and pooling; left out: each vector of the index, without itself
output=FILE       .tsv, .csv (also .gz) or .parquet: query, rank, hit, cosine; left out: TSV to the terminal;
                  a file that is there is not replaced
metric=NAME       cosine or euclidean
method=NAME       flat compares with all vectors and is exact; ivf (cells) and hnsw (a graph) look at a part of them
recall=0.95       what ivf and hnsw reach, on sample=100 of the queries that are also answered by brute force

Options of plmft.embed, such as hardware=gpu, may be added; they count where sequences are embedded. A built index is
kept in INDEX.index and used again while vectors, metric and method are the same.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from plmft import InputError
from plmft.embeddings.options import HELP, read_options

STDIN = "-"


@dataclass(frozen=True)
class Search:
    """The options; see conf/embed_search.yaml."""

    index: str
    query: str | None
    output: str | None
    k: Annotated[int, Ge(1)]
    layer: int | None
    metric: Literal["cosine", "euclidean"]
    method: Literal["auto", "flat", "hnsw", "ivf"]
    recall: Annotated[float, Gt(0), Le(1)]
    sample: Annotated[int, Ge(1)]
    exclude_self: bool | None
    saved: str | None
    seed: Annotated[int, Ge(0), Le(2**31 - 1)]


def main(arguments: list[str]) -> None:
    """The command. Raises: InputError: a user's mistake."""
    if any(word in HELP for word in arguments):
        print(__doc__)
        return
    own, for_embed = _parted(arguments)
    options = read_options(own, "embed_search", Search)
    from plmft.embeddings.hits import check_output

    if options.output is not None:
        check_output(Path(options.output).expanduser(), {"index": options.index, "query": options.query})
    for key, path in (("index", options.index), ("query", options.query)):
        if path not in (None, STDIN) and not Path(path).expanduser().exists():
            raise InputError(f"{key}={path}: there is no such file or folder.")
    told = sys.stderr if options.output is None else sys.stdout
    from plmft.embeddings.searched import search

    search(options, for_embed, lambda line: print(line, file=told, flush=True))


def _parted(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The options of the search, and those of groups of plmft.embed (hardware=gpu, model.path=..., columns.id=...)."""
    from plmft.config.compose import config_folder

    groups = {folder.name for folder in config_folder().iterdir() if folder.is_dir()} | {"columns"}
    group = [word.lstrip("+~").partition("=")[0].partition(".")[0] in groups for word in arguments]
    return (
        [word for word, other in zip(arguments, group, strict=True) if not other],
        [word for word, other in zip(arguments, group, strict=True) if other],
    )
