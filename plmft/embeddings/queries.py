"""Queries of a search: embeddings of the index's own model, or sequences that it embeds first. No others are taken."""

import csv
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from plmft import InputError
from plmft.embeddings.choices import FILES
from plmft.embeddings.formats import Embeddings, open_embeddings

SAME = ("weights_sha256", "architecture_sha256", "tokenizer_sha256", "layer", "pooling", "width")
NEAR = ("precision", "dtype", "length_policy", "context")  # vectors compare, but are not the same to the last digit


def open_queries(
    query: str, base: Embeddings, index: str, for_embed: Sequence[str], tell: Callable[[str], None]
) -> Embeddings:
    """Raises: InputError: not there, of another model than the index; and as plmft.embed."""
    path = Path(query).expanduser()
    if is_embeddings(path):
        found = open_embeddings(path, base.about["layer"])
        for note in check_same(found.about, base.about, query, index):
            tell(note)
        return found
    return embedded(query, base, index, for_embed, tell)


def is_embeddings(path: Path) -> bool:
    """A folder, or a file of a format that plmft.embed writes; Parquet is looked into, for sequences are so, too."""
    if path.suffix != ".parquet" or not path.is_file():
        return path.is_dir() or path.suffix in FILES
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return any(name.startswith("layer_") for name in pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False  # whoever reads it will tell


def check_same(queries: dict[str, Any], base: dict[str, Any], query: str, index: str) -> list[str]:
    """Notes on what differs a little. Raises: InputError: vectors of both don't compare; what differs is told."""
    differ = [key for key in SAME if queries.get(key) != base.get(key)]
    if differ:
        raise InputError(
            f"query={query} was embedded otherwise than index={index}: {_told(differ, queries, base)}. Such vectors do "
            "not compare. Embed both with one model, layer and pooling, or give the sequences as the query."
        )
    near = [key for key in NEAR if queries.get(key) != base.get(key)]
    return [f"Queries and index differ in {_told(near, queries, base)}."] if near else []


def _told(keys: Sequence[str], queries: dict[str, Any], base: dict[str, Any]) -> str:
    """Both values of each; of digests the names of what they are of."""
    named = {"weights_sha256": "model", "architecture_sha256": "model", "tokenizer_sha256": "model"}
    told = []
    for key in keys:
        shown = named.get(key, key)
        ours, theirs = queries.get(shown), base.get(shown)
        told.append(
            f"{key.removesuffix('_sha256')} ({shown} {ours} and {theirs})"
            if ours != theirs
            else f"{key.removesuffix('_sha256')} (of {shown} {ours})"
        )
    return ", ".join(told)


def embedded(
    query: str, base: Embeddings, index: str, for_embed: Sequence[str], tell: Callable[[str], None]
) -> Embeddings:
    """Sequences as vectors of the index's model, layer and pooling, in a folder that goes when they are read.

    Raises: InputError: the index does not tell its model, weights that must be named are not, all sequences are
        rejected; and as plmft.embed.
    """
    from plmft.embed import embed

    with tempfile.TemporaryDirectory(prefix="plmft-queries-") as scratch:
        output = Path(scratch) / "queries"
        outcome = embed([*as_the_index(base.about, index, for_embed), f"input={query}", f"output={output}"])
        counts = outcome.counts
        if outcome.rejected is not None:
            _tell_rejected(outcome.rejected, query, counts.rejected, tell, all_of_them=not counts.done)
        tell(f"Queries: {counts.done:,} sequences of {query}, {outcome.computed:,} computed")
        found = open_embeddings(output, base.about["layer"])
    for note in check_same(found.about, base.about, query, index):
        tell(note)
    return found


def as_the_index(about: dict[str, Any], index: str, for_embed: Sequence[str]) -> list[str]:
    """Options of plmft.embed that make vectors as those of the index."""
    if about.get("made_by") != "plmft.embed":
        raise InputError(
            f"{index} does not tell which model made it, so it can't embed queries. Give embeddings as query."
        )
    if str(about["weights"]).startswith("tuned") and not about["run"]:
        raise InputError(
            f"{index} was made with run=FOLDER, a tuned model whose run it does not know. Embed the queries so, too "
            "(python -m plmft.embed run=FOLDER input=... output=...), and give that output as the query."
        )
    if about["weights"] == "local" and not any(
        word.startswith(("model.path=", "model.checkpoint=")) for word in for_embed
    ):
        raise InputError(
            f"{index} was made with weights of a folder or file, which it does not name. Add model.path=FOLDER as it "
            "was then, or give embeddings as the query."
        )
    named = next((word.partition("=")[2] for word in for_embed if word.startswith("model=")), about["model"])
    if named != about["model"]:
        raise InputError(f"model={named}: {index} was embedded by {about['model']}. Leave model out.")
    layer, seeded = about["layer"], re.fullmatch(r"random, seed (\d+)", str(about["weights"]))
    options = [f"layers=[{layer}]", "per=sequence", f"pooling={about['pooling']}", "dtype=float32"]
    options += [f"length_policy={about['length_policy']}"]
    options += [f"run={about['run']}"] if about["run"] else []
    if not about["run"] and not any(word.startswith("model=") for word in for_embed):
        options.append(f"model={about['model']}")
    return [*options, *(["model.init=random", f"seed={seeded[1]}"] if seeded else []), *for_embed]


def _tell_rejected(file: Path, query: str, count: int, tell: Callable[[str], None], *, all_of_them: bool) -> None:
    """The first of the list, and how many. Raises: InputError: nothing else is there."""
    with file.open(newline="") as text:
        first = next(csv.DictReader(text))
    told = f"{first['place']}: {first['id']}: {first['reason']}"
    if all_of_them:
        raise InputError(f"query={query}: all {count:,} sequences are rejected; the first, {told}")
    tell(f"{count:,} sequences of {query} are rejected and have no hits; the first, {told}")
