"""Read embeddings and labels, fit a linear probe, and score it as a tuned model is scored."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plmft import InputError
from plmft.data.records import Record
from plmft.data.table_splits import Splitting
from plmft.data.task import Loaded, Task
from plmft.data.whole_file import whole_folder, write_whole
from plmft.embeddings.formats import open_embeddings
from plmft.embeddings.linear_probe import Scaled, choose, fit_each, fitted_to
from plmft.embeddings.probe import PRIMARY, Probe
from plmft.embeddings.probe_data import Asked, Labelled, read_labelled
from plmft.embeddings.whole import check_finite, told_of
from plmft.metrics.evaluate import LOWER_IS_BETTER, SCORERS
from plmft.models.decisions import decided, named
from plmft.models.linear_baseline import Linear
from plmft.training.scoring import baseline_metrics, metrics_of_test, score

KIND_WORDS = {
    "sequence_regression": "regression",
    "sequence_classification": "classification",
    "sequence_multilabel": "multilabel",
    "residue_classification": "residue_classes",
}


@dataclass(frozen=True)
class Probed:
    """What a probe found.

    Args:
        metrics: as those of a run: `test/...`, `baseline/...`, `data/...`. predictions: by test split, in record order.
    """

    options: Probe
    task: Task
    model: Linear
    labelled: Labelled
    about: dict[str, Any]
    metrics: dict[str, float]
    predictions: dict[str, list[np.ndarray]]

    def lines(self) -> list[str]:
        """For the terminal."""
        kind, counts = self.task.kind, self.labelled.splits
        sizes = ", ".join(f"{split} {len(numbers):,}" for split, numbers in counts.items())
        found = [*self.labelled.notes, *self.model.notes]
        found += [
            "",
            f"{'Ridge' if kind == 'sequence_regression' else 'Logistic'} probe of {told_of(self.about)}",
            f"  {'records':28} {sizes}",
        ]
        primary = self.task.primary_metric  # of the mean, a rank correlation is not defined: its errors are told
        baseline = {primary} if f"baseline/{primary}" in self.metrics else SCORERS[kind].names
        for name, value in self.metrics.items():
            split, _, short = name.partition("/")
            if split.startswith("test") and not short.endswith(("_ci_low", "_ci_high")):
                found.append(f"  {f'{split} {short}':28} {value:.3f}{self._interval(name)}")
            elif split == "baseline" and short in baseline:
                found.append(f"  {f'{short}, no model':28} {value:.3f}")
        return found

    def _interval(self, name: str) -> str:
        low, high = self.metrics.get(f"{name}_ci_low"), self.metrics.get(f"{name}_ci_high")
        return "" if low is None or high is None else f"  (95 % {low:.3f} to {high:.3f})"

    def write(self, folder: Path) -> str:
        """probe.json, and predictions.parquet for each test split, all or none of them. Returns: what was written.

        Raises: InputError: no room or no right there.
        """
        plain = {"metrics": self.metrics, "penalty": self.model.penalty, "kind": KIND_WORDS[self.task.kind]}
        plain |= {"primary_metric": self.task.primary_metric, "classes": list(self.task.classes)}
        plain |= {"notes": [*self.labelled.notes, *self.model.notes], "embeddings": self.about}
        plain |= {"options": asdict(self.options)}
        try:
            with whole_folder(folder) as part:
                for split, found in self.predictions.items():
                    name = "predictions" if split == "test" else f"predictions_{split.removeprefix('test_')}"
                    _write_predictions(part / f"{name}.parquet", self.task, self._records(split), found)
                write_whole(part / "probe.json", json.dumps(plain, indent=1, default=str).encode())
        except OSError as error:
            raise InputError(f"output={folder}: can't be written ({error.strerror}). Name another folder.") from None
        return str(folder)

    def _records(self, split: str) -> list[Record]:
        return [self.labelled.records[number] for number in self.labelled.splits[split]]


def probe(options: Probe) -> Probed:
    """Fit, choose the penalty on the validation split, score the test splits.

    Raises: InputError: whatever is wrong with embeddings, labels or options.
    """
    embeddings = open_embeddings(options.embeddings, options.layer)
    vectors = check_finite(embeddings, options.embeddings)
    asked = Asked(
        Path(options.labels).expanduser(),
        options.target,
        options.split,
        options.id,
        options.kind,
        options.missing,
        Splitting("cluster", tuple(options.fractions), options.seed),
    )
    labelled = read_labelled(embeddings.ids, vectors, asked)
    task = _task(labelled, options.metric, options.labels)
    splits = {split: [labelled.records[n] for n in numbers] for split, numbers in labelled.splits.items()}
    if task.kind == "sequence_regression" and len({float(record.target) for record in splits["train"]}) < 2:
        raise InputError(
            f"{options.labels}: column {options.target!r} holds one value alone in the training records. At least two "
            "are needed."
        )
    train, note = fitted_to(task.kind, splits["train"])
    labelled.notes.extend([note] if note else [])
    features = Scaled([vectors[number] for number in labelled.rows], labelled.records, train)
    models = fit_each(task.kind, features, train, len(task.classes), options.penalties)
    model = choose(models, lambda one: _chosen_by(task, splits["valid"], one.predict(splits["valid"]), options.seed))
    tests = {split: records for split, records in splits.items() if split not in ("train", "valid")}
    predictions = {split: model.predict(records) for split, records in tests.items()}
    metrics = {f"data/{split}": float(len(records)) for split, records in splits.items()}
    for split, records in tests.items():
        metrics |= metrics_of_test(task, records, predictions[split], options.seed, split)
    metrics |= baseline_metrics(task, splits["train"], splits["test"], options.seed)
    return Probed(options, task, model, labelled, embeddings.about, metrics, predictions)


def _task(labelled: Labelled, metric: str | None, labels: str) -> Task:
    """Raises: InputError: a metric that the kind has not."""
    word, known = KIND_WORDS[labelled.kind], SCORERS[labelled.kind].names
    if metric is not None and metric not in known:
        raise InputError(f"metric={metric}: no metric of {word}. Known: {', '.join(known)}.")

    loaded = Loaded(labelled.records, labels, labelled.classes)
    primary = metric or PRIMARY[word]
    return Task("probe", labelled.kind, primary, lambda place: loaded, None, "", "", classes=labelled.classes)


def _chosen_by(task: Task, valid: Sequence[Record], found: list[np.ndarray], seed: int) -> float | None:
    """The primary metric, higher better; None where it is not defined."""
    value = score(task, valid, found, seed=seed, intervals=False).get(task.primary_metric)
    return -value if value is not None and task.primary_metric in LOWER_IS_BETTER else value


def _write_predictions(file: Path, task: Task, records: Sequence[Record], found: Sequence[np.ndarray]) -> None:
    """One row a record: id, measured, predicted and, for classes, probabilities; as plmft.train writes them."""
    import pandas as pd

    columns: dict[str, list] = {"id": [record.id for record in records]}
    if not task.classes:
        columns |= {"measured": [r.target for r in records], "predicted": [float(value) for value in found]}
    else:
        columns["measured"] = [named(task.kind, task.classes, record.target) for record in records]
        columns["predicted"] = [named(task.kind, task.classes, decided(task.kind, p)) for p in found]
        columns["probabilities"] = [p.ravel() for p in found]
    write_whole(file, pd.DataFrame(columns).to_parquet(index=False))
