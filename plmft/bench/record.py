"""Where the rows of a benchmark go: a line of rows.jsonl each, as they come; at the end rows.csv and summary.json.

MLflow gets every measured value as the metric bench/<column>, with the number of its row as the step, and the files.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

from plmft.bench.protocol import Row
from plmft.bench.table import columns_of
from plmft.data.whole_file import write_whole
from plmft.tracking.run import Run


class Recorder:
    """Keeps rows.

    Args: folder: of the run. tracked: the MLflow run.
    """

    def __init__(self, folder: Path, tracked: Run) -> None:
        self.rows: list[Row] = []
        self._folder, self._tracked = folder, tracked
        self._file = folder / "rows.jsonl"

    def add(self, row: Row) -> Row:
        """Keep one; what is None is left out.

        Raises: ValueError: a figure that is no number, which a protocol must leave out with a note.
        """
        kept = {name: value for name, value in row.items() if value is not None}
        wrong = [name for name, value in kept.items() if isinstance(value, float) and not math.isfinite(value)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not finite. Leave it out, and say why in the row's note.")
        with self._file.open("a") as file:
            file.write(json.dumps(kept) + "\n")
        figures = {f"bench/{name}": value for name, value in kept.items() if isinstance(value, float)}
        self._tracked.metrics(figures, len(self.rows))
        self.rows.append(kept)
        return kept

    def finish(self, about: Mapping[str, object], fixed: Mapping[str, object]) -> None:
        """Write rows.csv and summary.json from what there is, and have the store keep all three files."""
        write_whole(self._folder / "rows.csv", to_csv(self.rows).encode())
        summary = {**about, "fixed": dict(fixed), "rows": self.rows}
        write_whole(self._folder / "summary.json", (json.dumps(summary, indent=2, default=str) + "\n").encode())
        for name in ("rows.jsonl", "rows.csv", "summary.json"):
            if (self._folder / name).exists():
                self._tracked.artifact(self._folder / name)


def to_csv(rows: list[Row]) -> str:
    """Conditions, figures, note; an empty cell is a value that was not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
