"""Published figures beside a run's own: on the same split and metric, or not at all, with the reason.

The table is published.csv beside this file: facts with their sources, all as fractions (a source's percents are divided
by 100 and the note says so). It holds only figures on exactly the splits that plmft reads; left out are re-splits,
other averages (PEER's mean Q3 over proteins) and shares of the training set. Costs milliseconds to read.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("published.csv")
# Records of the published splits, from the papers' data. A run on others is not compared.
RECORDS: dict[str, dict[str, int]] = {
    "tape/fluorescence": {"train": 21_446, "valid": 5_362, "test": 27_217},
    "tape/stability": {"train": 53_614, "valid": 2_512, "test": 12_851},
    "tape/remote_homology_fold": {"train": 12_312, "valid": 736, "test": 718},
    "flip/gb1_one_vs_rest": {"train": 25, "valid": 3, "test": 8_705},
    "flip/gb1_three_vs_rest": {"train": 2_691, "valid": 299, "test": 5_743},
    "flip/secondary_structure": {
        "train": 9_712,
        "valid": 1_080,
        "test": 364,
        "test_cb513": 513,
        "test_ts115": 115,
        "test_casp12": 21,
    },
}
BASELINES = ("scratch", "features")  # networks trained from scratch; descriptors, homology and linear models
# Baselines of ours, and the published ones that they are like; sizes and details differ, so these keep their names.
LIKE = {
    "onehot_cnn": "peer_cnn",
    "onehot_resnet": "peer_resnet",
    "onehot_bilstm": "peer_lstm",
    "onehot_linear": "onehot",
}
SHOWN = 6


@dataclass(frozen=True)
class Row:
    """One published figure.

    Args:
        protocol, split, metric: what it is of, under plmft's names; value is a fraction or a correlation.
        model: as in conf/model where plmft has it, else the source's own. method: frozen, lora, full, random_init
            (full tuning from random weights), scratch or features.
        sd, seeds: over repeated runs, None where the source gives none.
        where: the source's table or figure.
    """

    protocol: str
    split: str
    metric: str
    model: str
    method: str
    value: float
    sd: float | None
    seeds: int | None
    source: str
    where: str
    doi_or_url: str
    note: str


@dataclass(frozen=True)
class Comparison:
    """A run's figures beside the published ones.

    Args:
        rows: (published, ours) pairs, nearest first within a split; empty where nothing can be compared.
        reasons: why a split, or all, is not compared. model: the run's, under its name in the table.
    """

    rows: tuple[tuple[Row, float], ...]
    reasons: tuple[str, ...] = ()
    model: str = ""

    def lines(self, limit: int = SHOWN) -> list[tuple[str, str]]:
        """(label, text) for the table that ends a run, and the reasons.

        At most `limit` figures of the test split: the same model's first, then the best baseline and the best of all.
        """
        found = [pair for pair in self.rows if pair[0].split == "test"]
        shown = [_line(row, ours) for row, ours in _most_telling(found, self.model, limit)]
        return shown + [("published values", reason) for reason in self.reasons]

    def write_csv(self, file: Path) -> None:
        """All rows with their sources; `difference` is ours less the published value."""
        names = ("protocol", "split", "metric", "model", "method", "value", "sd", "seeds")
        sources = ("source", "where", "doi_or_url", "note")
        with file.open("w", newline="", encoding="utf-8") as handle:
            table = csv.writer(handle, lineterminator="\n")
            table.writerow((*names, "ours", "difference", *sources))
            for row, ours in self.rows:
                known = [getattr(row, name) for name in names]
                table.writerow((*known, ours, ours - row.value, *(getattr(row, name) for name in sources)))


def compare(
    protocol: str,
    metrics: Mapping[str, float],
    records: Mapping[str, int],
    *,
    model: str,
    tuning: str,
    init: str = "pretrained",
    subset: bool = False,
) -> Comparison:
    """A run beside what is published on the same split and metric.

    Args:
        protocol: the task's key; empty where nothing is published on its split.
        metrics: the run's figures, as "test/spearman". records: the run's records by split.
        model, tuning, init: names as in conf/model and conf/tuning; init is pretrained or random.
        subset: the run took a part of a split alone.
    """
    expected = RECORDS.get(protocol)
    if expected is None:
        return Comparison((), ("none on this split and metric",))
    if subset:
        return Comparison((), ("not compared: the run took a part of the records",))
    differ = _differences(expected, records, [s for s in ("train", "valid") if s in expected])
    if differ:
        return Comparison((), (f"not compared: {differ}",))
    rows, reasons = [], []
    for split in (s for s in records if s.startswith("test")):
        found = published(protocol, split, metrics, model=model, tuning=tuning, init=init)
        differ = _differences(expected, records, [split]) if found else ""
        if differ:
            reasons.append(f"not compared on {split}: {differ}")
        else:
            rows += [(row, metrics[f"{row.split}/{row.metric}"]) for row in found]
    if not rows and not reasons:
        reasons.append("none on this split and metric")
    return Comparison(tuple(rows), tuple(reasons), LIKE.get(model, model))


def published(
    protocol: str,
    split: str,
    metrics: Mapping[str, float],
    *,
    model: str,
    tuning: str,
    init: str = "pretrained",
) -> list[Row]:
    """Rows of a split whose metric is among `metrics`, nearest first.

    First the same model and method, then the same model by others, then baselines, then other models; the last two by
    falling value. Args: as compare.
    """
    name, method = LIKE.get(model, model), method_of(model, tuning, init)

    def distance(row: Row) -> tuple[int, float]:
        if row.model == name:
            return (0 if row.method == method else 1, -row.value)
        return (2 if row.method in BASELINES else 3, -row.value)

    rows = [r for r in load() if (r.protocol, r.split) == (protocol, split) and f"{split}/{r.metric}" in metrics]
    return sorted(rows, key=distance)


def method_of(model: str, tuning: str, init: str) -> str:
    """The table's word for how a run of ours was trained; one that no source has stands apart from all of them."""
    if model in LIKE:
        return "features" if model == "onehot_linear" else "scratch"
    if init == "random":
        return "random_init" if tuning == "full" else f"random_init_{tuning}"
    return tuning


@cache
def load() -> tuple[Row, ...]:
    """The whole table."""
    with TABLE.open(newline="", encoding="utf-8") as handle:
        return tuple(_row(line) for line in csv.DictReader(handle))


def _row(line: dict[str, str]) -> Row:
    sd, seeds = line.pop("sd"), line.pop("seeds")
    value = float(line.pop("value"))
    return Row(**line, value=value, sd=float(sd) if sd else None, seeds=int(seeds) if seeds else None)


def _differences(expected: Mapping[str, int], records: Mapping[str, int], splits: list[str]) -> str:
    return "; ".join(
        f"{split} has {records.get(split, 0):,} records, the published split {expected.get(split, 0):,}"
        for split in splits
        if records.get(split, 0) != expected.get(split, 0)
    )


def _most_telling(rows: list[tuple[Row, float]], model: str, limit: int) -> list[tuple[Row, float]]:
    same = [pair for pair in rows if pair[0].model == model]
    baselines = [pair for pair in rows if pair[0].method in BASELINES]
    best = [max(group, key=lambda pair: pair[0].value) for group in (baselines, rows) if group]
    beside = [pair for i, pair in enumerate(best) if pair not in best[:i]]
    nearest = [pair for pair in same if pair not in beside][: limit - len(beside)]
    chosen = nearest + beside
    return [pair for pair in rows if pair in chosen]


def _line(row: Row, ours: float) -> tuple[str, str]:
    value = f"{row.value:.3f}" if row.sd is None else f"{row.value:.3f} ± {row.sd:.3f}"
    return (
        f"published {row.metric}, {row.model} {row.method}",
        f"{value}  (ours {ours - row.value:+.3f}; {row.source}, {row.where})",
    )
