"""Metrics of class probabilities, for whole sequences and for residues: what the likeliest class gives, and how
probabilities rank. Ranking metrics are those of the second of two classes, or the mean over classes, one against all
others. Costs a sort for each class that occurs.
"""

from collections.abc import Callable, Sequence

import numpy as np

from plmft.data.records import IGNORE
from plmft.metrics.classification import (
    CLASS,
    RESIDUE,
    class_metrics,
    confusion,
    f1_macro,
    f1_names,
    f1_scores,
    mcc,
    pair_codes,
    protein_confusions,
    residue_metrics,
)
from plmft.metrics.intervals import accuracy_interval, bootstrap_interval
from plmft.metrics.ranking import (
    Statistic,
    auroc,
    auroc_of_counts,
    average_precision,
    average_precision_of_counts,
    grouped_statistic,
)

Interval = tuple[float, float] | None
CLASSES_WITH_F1 = 20  # more are not listed one by one
RANKING = {"auroc": (auroc, auroc_of_counts), "auprc": (average_precision, average_precision_of_counts)}
SEQUENCE_NAMES = (*CLASS, *RANKING, "top5_accuracy")
RESIDUE_NAMES = (*RESIDUE, "mcc", *RANKING)


def sequence_metrics(
    predicted: Sequence[np.ndarray], measured: Sequence[int], classes: Sequence[str]
) -> dict[str, float]:
    """accuracy, f1_macro, mcc, auroc, auprc; top5_accuracy of more than 5 classes; f1_<class> of at most 20.

    Args:
        predicted: n of (C,) probabilities. measured: n class numbers, or IGNORE.
    Returns: by name; what is not defined is left out. Raises: as class_metrics.
    """
    probabilities, labels = np.asarray(predicted), np.asarray(measured)
    chosen = probabilities.argmax(1)
    metrics = class_metrics(chosen, labels, classes)
    kept = labels != IGNORE
    metrics |= ranking_metrics(probabilities[kept], labels[kept])
    if len(classes) > 5:
        metrics["top5_accuracy"] = float(in_top5(probabilities[kept], labels[kept]).mean())
    return metrics | f1_by_class(confusion(chosen, labels, len(classes)), classes)


def per_residue_metrics(
    predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], classes: Sequence[str]
) -> dict[str, float]:
    """What residue_metrics gives, and mcc, auroc and auprc over all labelled residues.

    Args: predicted: for each protein (L, C) probabilities. measured: for each (L,) class numbers, or IGNORE.
    """
    chosen = [np.argmax(p, axis=1) for p in predicted]
    metrics = residue_metrics(chosen, measured, classes)
    correlation = mcc(protein_confusions(chosen, measured, len(classes)).sum(0))
    if correlation is not None:
        metrics["mcc"] = correlation
    probabilities, labels = np.concatenate(predicted), np.concatenate(measured)
    return metrics | ranking_metrics(probabilities[labels != IGNORE], labels[labels != IGNORE])


def ranking_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """auroc and auprc of labelled samples; probabilities (n, C), labels (n,)."""
    found = {}
    for name, (metric, _) in RANKING.items():
        values = [metric(probabilities[:, c], labels == c) for c in ranked_classes(labels, probabilities.shape[1])]
        defined = [value for value in values if value is not None]
        if defined:
            found[name] = float(np.mean(defined))
    return found


def ranked_classes(labels: np.ndarray, n_classes: int) -> Sequence[int]:
    """The second of two classes; of more, those that occur."""
    return [1] if n_classes == 2 else np.unique(labels)


def in_top5(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,) bool: fewer than 5 classes are likelier than the measured one, or as likely with a lower number."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    return ((probabilities > own) | ((probabilities == own) & earlier)).sum(1) < 5


def f1_by_class(counts: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """f1_<class> of the classes that occur, where they are few; counts (C, C)."""
    if len(classes) > CLASSES_WITH_F1:
        return {}
    scores = zip(f1_names(classes), f1_scores(counts), strict=True)
    return {name: float(f1) for name, f1 in scores if np.isfinite(f1)}


def sequence_interval(
    primary: str, predicted: Sequence[np.ndarray], measured: Sequence[int], classes: Sequence[str], seed: int
) -> Interval:
    """The interval of a metric of SEQUENCE_NAMES; labelled sequences are resampled."""
    probabilities, labels = np.asarray(predicted), np.asarray(measured)
    kept = labels != IGNORE
    probabilities, labels, n = probabilities[kept], labels[kept], int(kept.sum())
    if primary in RANKING:
        return _ranking_interval(primary, probabilities, labels, np.arange(n), n, seed)
    if primary == "top5_accuracy":
        right = in_top5(probabilities, labels)
        return bootstrap_interval(lambda i: float(right[i].mean()), n, seed=seed)
    codes = pair_codes(probabilities.argmax(1), labels, len(classes), "sequences")
    if primary == "accuracy":
        right = codes // len(classes) == codes % len(classes)
        return bootstrap_interval(lambda i: float(right[i].mean()), n, seed=seed)
    metric, occurring = CLASS[primary], np.unique([codes // len(classes), codes % len(classes)])
    size = len(occurring)  # of 1,195 classes few occur: counts of these alone
    pairs = np.searchsorted(occurring, codes // len(classes)) * size + np.searchsorted(occurring, codes % len(classes))

    def statistic(indices: np.ndarray) -> float | None:
        return metric(np.bincount(pairs[indices], minlength=size**2).reshape(size, size))

    return bootstrap_interval(statistic, n, seed=seed)


def per_residue_interval(
    primary: str, predicted: Sequence[np.ndarray], measured: Sequence[np.ndarray], classes: Sequence[str], seed: int
) -> Interval:
    """The interval of a metric of RESIDUE_NAMES; proteins that have a label are resampled."""
    labelled = [i for i, m in enumerate(measured) if (m != IGNORE).any()]
    predicted, measured = [predicted[i] for i in labelled], [measured[i] for i in labelled]
    if primary in RANKING:
        labels = np.concatenate(measured)
        kept = labels != IGNORE
        protein = np.repeat(np.arange(len(measured)), [len(m) for m in measured])
        return _ranking_interval(
            primary, np.concatenate(predicted)[kept], labels[kept], protein[kept], len(measured), seed
        )
    counts = protein_confusions([np.argmax(p, axis=1) for p in predicted], measured, len(classes))
    correct, total = np.trace(counts, axis1=1, axis2=2), counts.sum((1, 2))
    if primary == "accuracy":
        return accuracy_interval(correct, total, seed=seed)
    if primary == "accuracy_per_protein":
        return bootstrap_interval(lambda i: float((correct[i] / total[i]).mean()), len(total), seed=seed)
    return _confusion_interval(mcc if primary == "mcc" else f1_macro, counts, seed)


def _confusion_interval(metric: Callable[[np.ndarray], float | None], counts: np.ndarray, seed: int) -> Interval:
    flat, shape = counts.reshape(len(counts), -1), counts.shape[1:]

    def statistic(indices: np.ndarray) -> float | None:
        return metric((np.bincount(indices, minlength=len(flat)) @ flat).reshape(shape))

    return bootstrap_interval(statistic, len(flat), seed=seed)


def _ranking_interval(
    primary: str, probabilities: np.ndarray, labels: np.ndarray, group: np.ndarray, groups: int, seed: int
) -> Interval:
    metric = RANKING[primary][1]
    statistics: list[Statistic] = [
        grouped_statistic(metric, probabilities[:, c], labels == c, group, groups)
        for c in ranked_classes(labels, probabilities.shape[1])
    ]

    def mean(indices: np.ndarray) -> float | None:
        values = [value for value in (statistic(indices) for statistic in statistics) if value is not None]
        return float(np.mean(values)) if values else None

    return bootstrap_interval(mean, groups, seed=seed)
