"""What a run made from an earlier one tells: before training what differs from then, afterwards if the result does.

`plmft.tracking.from_run` leaves what the earlier run was in the environment variable SOURCE; without it, all here is
empty.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

SOURCE = "PLMFT_FROM_RUN"
FROM_RUN_TAG, PREDICTIONS_TAG = "from_run", "predictions_digest"
CODE = ("git_commit", "git_dirty", "git_diff")
VERSIONS = "version."
SHORT = 12  # characters of a digest
MOST_PACKAGES = 8
# tag to what a user calls it; the code and versions have rows of their own
TAGS = {
    "model": "model",
    "task": "task",
    "tuning": "tuning",
    "data_digest": "data",
    "subset": "a subset of the data",
    "weights": "weights from",
    "model_revision": "weights, revision",
    "weights_digest": "weights, digest",
    "weights_seed": "weights, seed",
    "device": "device",
    "gpu.driver": "GPU driver",
    "precision": "precision",
    "attention": "attention",
    "strategy": "strategy",
    "world_size": "processes",
    "machine.cpu": "processor",
    "machine.usable_cores": "cores",
    "machine.platform": "system",
    "machine.host": "machine",
}
DIGESTS = {"data_digest", "weights_digest", "model_revision"}
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Source:
    """The earlier run.

    Args:
        status: how it ended, MLflow's word. packages: lines of its requirements.txt, empty where it kept none.
        filled: keys that its config lacks, with today's defaults. changed: (key, then, now) by the command line.
    """

    run_id: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]
    packages: list[str]
    filled: list[str]
    changed: list[Row]

    def text(self) -> str:
        """For the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def of_this_run(cls) -> "Source | None":
        """None: this run is made from no other."""
        text = os.environ.get(SOURCE)
        if not text:
            return None
        values = json.loads(text)
        return cls(**values | {"changed": [tuple(row) for row in values["changed"]]})


def source_tags() -> dict[str, str]:
    """The tag that names the earlier run; empty where there is none."""
    source = Source.of_this_run()
    return {FROM_RUN_TAG: source.run_id} if source else {}


def say_differences(
    console: "Console", tags: Mapping[str, object], counts: Mapping[str, int], tokens_per_batch: int
) -> None:
    """Print what differs between the earlier run and this one, whose tags and records in each split are given."""
    source = Source.of_this_run()
    if source is None:
        return
    if source.filled:
        console.print(
            f"Run {source.run_id} is of an older version; from today's defaults: {', '.join(source.filled)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    found = [*source.changed, *_rows(source, tags, counts, tokens_per_batch)]
    if not found:
        console.print(f"Nothing known differs from run {source.run_id}.", highlight=False, soft_wrap=True)
        return
    from rich.table import Table

    table = Table(title=f"What differs from run {source.run_id}", title_justify="left", title_style="bold")
    for column in ("", "then", "now"):
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(*row)
    console.print(table, markup=False)


def _rows(
    source: Source, tags: Mapping[str, object], counts: Mapping[str, int], tokens_per_batch: int
) -> Iterator[Row]:
    now = {name: str(value) for name, value in tags.items() if value}
    yield from _row("code", *(_code(of) for of in (source.tags, now)))
    for name in sorted({name for name in (*source.tags, *now) if name.startswith(VERSIONS)}):
        yield from _row(name.removeprefix(VERSIONS), source.tags.get(name), now.get(name))
    yield from _packages(source, now)
    for name, label in TAGS.items():
        if name in DIGESTS:
            yield from _row(label, *((of.get(name) or "")[:SHORT] for of in (source.tags, now)))
        else:
            yield from _row(label, source.tags.get(name), now.get(name))
    for split, count in counts.items():
        before = source.metrics.get(f"data/{split}")
        yield from _row(f"records {split}", None if before is None else f"{before:,.0f}", f"{count:,}")
    tokens = source.metrics.get("hardware/tokens_per_batch")
    if tokens is not None:
        yield from _row("tokens in a micro-step", f"{tokens:.0f}", str(tokens_per_batch))


def _row(label: str, then: str | None, now: str | None) -> Iterator[Row]:
    if (then or "") != (now or ""):
        yield label, then or "not known", now or "not known"


def _code(tags: Mapping[str, str]) -> str:
    commit, dirty, diff = (tags.get(name, "") for name in CODE)
    changed = f" and changes{f' ({diff[:6]})' if diff else ''}" if dirty == "true" else ""
    return commit[:SHORT] + changed


def _packages(source: Source, now: Mapping[str, str]) -> Iterator[Row]:
    """One row for the packages that have no row of their own."""
    if not source.packages:
        return
    from plmft.tracking.lineage_files import installed

    own = {name.removeprefix(VERSIONS) for name in now if name.startswith(VERSIONS)}
    then, today = (_versions(lines, own) for lines in (source.packages, installed()))
    differ = [name for name in sorted({*then, *today}) if then.get(name) != today.get(name)]
    if differ:
        more = f" and {len(differ) - MOST_PACKAGES} more" if len(differ) > MOST_PACKAGES else ""
        shown = differ[:MOST_PACKAGES]
        then_told, now_told = (", ".join(f"{n} {of.get(n, 'absent')}" for n in shown) + more for of in (then, today))
        yield f"{len(differ)} other packages", then_told, now_told


def _versions(lines: Sequence[str], besides: set[str]) -> dict[str, str]:
    pairs = (line.removeprefix("# ").partition(" ")[0].partition("==") for line in lines)
    return {name.lower(): version for name, mark, version in pairs if mark and name.lower() not in besides}


def predictions_digest(predictions: Mapping[str, Sequence[np.ndarray]]) -> str:
    """SHA-256 over the predictions of each test split, record by record, with their types and shapes."""
    total = hashlib.sha256()
    for split, values in sorted(predictions.items()):
        total.update(f"{split} {len(values)}\n".encode())
        for value in values:
            array = np.ascontiguousarray(value)
            total.update(f"{array.dtype.str} {array.shape}\n".encode())
            total.update(array.tobytes())
    return total.hexdigest()


def sameness(metrics: Mapping[str, float], primary: str, digest: str) -> list[str]:
    """Lines that tell whether the primary metric and the predictions are those of the earlier run; none without one."""
    source = Source.of_this_run()
    if source is None:
        return []
    name = f"test/{primary}"
    then, now = source.metrics.get(name), metrics.get(name)
    if then is None:
        return [f"Run {source.run_id} ended {source.status} and has no {name} to compare with."]
    same, run = now == then, f"run {source.run_id}"
    told = f"{name}: the same as in {run}" if same else f"{name}: {now!r}, in {run} {then!r}"
    kept = source.tags.get(PREDICTIONS_TAG)
    if kept is None:
        return [f"{told}. It kept no digest of its predictions."]
    alike = "the same, to the last bit" if kept == digest else "not the same"
    return [f"{told}. Predictions: {alike} (digest {digest[:SHORT]}, then {kept[:SHORT]})."]
