"""A linear probe: what a straight line through embeddings tells of a label, scored as a tuned model is.

    python -m plmft.embed probe embeddings=embeddings labels=table.csv target=fitness split=set

embeddings=PATH   what plmft.embed wrote; layer=N where it holds several layers
labels=FILE       CSV, TSV, Parquet or FASTA headers; rows belong to vectors by id (id=COLUMN), never by their order
target=COLUMN     numbers (ridge), classes (logistic) or sets of labels (a logistic each), as kind=... says; or a letter
                  a residue (logistic), with embeddings of per=residue
split=COLUMN      train, valid, test, test_<name>; without one: by clusters of the file's sequences, else at random
metric=NAME       that the penalty is chosen by, on the validation split
output=FOLDER     probe.json and the predictions of each test set; a new or an empty folder

Vectors are centred and scaled by the training split. Metrics, 95 % intervals and baseline are those of plmft.train, so
the probe of a frozen model and the tuned model compare. On one core: seconds for thousands of sequences.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Len

from plmft import InputError
from plmft.data.whole_file import check_free
from plmft.embeddings.options import HELP, read_options

Named = str | int | None
Share = Annotated[float, Gt(0)]
Penalty = Annotated[float, Gt(0)]
PRIMARY = {
    "regression": "spearman",
    "classification": "accuracy",
    "multilabel": "f1_max",
    "residue_classes": "accuracy",
}


@dataclass(frozen=True)
class Probe:
    """The options; see conf/embed_probe.yaml."""

    embeddings: str
    labels: str
    target: Named
    split: Named
    id: Named
    kind: Literal["auto", "regression", "classification", "multilabel", "residue_classes"]
    metric: str | None
    missing: Literal["refuse", "drop"]
    layer: int | None
    penalties: Annotated[tuple[Penalty, ...], Len(1)]
    fractions: tuple[Share, Share, Share]
    output: str | None
    seed: Annotated[int, Ge(0)]


def main(arguments: list[str]) -> None:
    """The command. Raises: InputError: a user's mistake."""
    if any(word in HELP for word in arguments):
        print(__doc__)
        return
    options = read_options(arguments, "embed_probe", Probe)
    if abs(sum(options.fractions) - 1) > 1e-6:
        raise InputError(f"fractions={list(options.fractions)}: they add up to {sum(options.fractions):g}, not to 1.")
    if options.output is not None:
        check_free("output", options.output)
    from plmft.embeddings.probed import probe

    result = probe(options)
    for line in result.lines():
        print(line)
    if options.output is not None:
        print(f"Written: {result.write(Path(options.output).expanduser())}")
