"""A user's own file: numbers, classes, sets of labels, a class a residue, or pairs of sequences; no code.

Accuracy is the primary metric of classes, for it is always defined; a majority baseline stands beside it.
"""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from plmft import InputError
from plmft.data.table import KINDS, Table, TableKind, read_table
from plmft.data.table_columns import Chosen, Named
from plmft.data.table_splits import Splitting
from plmft.data.task import DataPlace, Loaded, Task
from plmft.models.head_spec import ResidueHead, SequenceHead

PRIMARY = {"regression": "spearman", "multilabel": "f1_max", "pairs": "auroc"}  # else accuracy
Share = Annotated[float, Gt(0), Lt(1)]


def table(
    name: str,
    file: str | None,
    kind: TableKind,
    metric: str | None,
    unit: str,
    sequence: Named,
    partner: Named,
    target: Named,
    split: Named,
    id: Named,
    labels: str | None,
    mask: str | None,
    unlabelled: str,
    missing: Literal["refuse", "drop"],
    split_by: Literal["cluster", "random"],
    fractions: tuple[Share, Share, Share],
    seed: Annotated[int, Ge(0)],
    head: SequenceHead,
    residue_head: ResidueHead,
) -> Task:
    """The task for one file. Raises: InputError: a metric that the kind has not, fractions that don't add up to 1."""
    if abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"task.fractions={list(fractions)}: they add up to {sum(fractions):g}, not to 1.")
    columns = Chosen(sequence, target, split, id, partner)
    splitting = Splitting(split_by, tuple(fractions), seed)

    def read(place: DataPlace) -> Loaded:
        if file is None:
            raise InputError("task.file is not set. Name a CSV, TSV, Parquet or FASTA file, plain or gzipped.")
        path, *beside = (Path(f).expanduser() if f else None for f in (file, labels, mask))
        return read_table(Table(path, kind, columns, splitting, *beside, unlabelled, missing, place.purpose))

    return Task(
        name=name,
        kind=KINDS[kind],
        primary_metric=_primary(kind, metric),
        read=read,
        head=residue_head if kind == "residue_classes" else head,
        unit=unit if kind == "regression" else "",
        citation="the user's own file",
        licence="that of the file",
    )


def _primary(kind: TableKind, metric: str | None) -> str:
    from plmft.metrics.evaluate import SCORERS

    known = SCORERS[KINDS[kind]].names
    if metric is not None and metric not in known:
        raise InputError(f"task.metric={metric}: no metric of {kind}. Known: {', '.join(known)}.")
    return metric or PRIMARY.get(kind, "accuracy")
