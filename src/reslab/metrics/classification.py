"""Metrics from a confusion matrix: per-class metrics, the most confused pairs, and the interval of an accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reslab.spec.errors import invalid

ConfusionMatrix = Sequence[Sequence[int]]


@dataclass(frozen=True)
class ClassMetrics:
    """Precision, recall and F1 of one class as fractions (NaN where undefined), and its number of samples."""

    index: int
    name: str
    precision: float
    recall: float
    f1: float
    num_samples: int


@dataclass(frozen=True)
class ConfusedPair:
    """A pair of classes: `count` of the `num_samples` of `true_class` were predicted as `predicted_class`."""

    true_class: str
    predicted_class: str
    count: int
    num_samples: int


def per_class_metrics(confusion: ConfusionMatrix, classes: Sequence[str]) -> list[ClassMetrics]:
    """Return each class's precision TP/(TP+FP), recall TP/(TP+FN), F1 2TP/(2TP+FP+FN), from confusion[true][predicted].

    A ratio with denominator 0 is NaN (scikit-learn's `zero_division=nan`). Raises ValueError unless the matrix is
    square and has one row for each class.
    """
    check_confusion_matrix(confusion, classes)
    column_sums = [sum(row[index] for row in confusion) for index in range(len(classes))]
    metrics = []
    for index, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        num_correct, num_true = row[index], sum(row)
        precision, recall = ratio_or_nan(num_correct, column_sums[index]), ratio_or_nan(num_correct, num_true)
        f1 = ratio_or_nan(2 * num_correct, column_sums[index] + num_true)
        metrics.append(ClassMetrics(index, name, precision, recall, f1, num_true))
    return metrics


def check_confusion_matrix(confusion: ConfusionMatrix, classes: Sequence[str]) -> None:
    """Raise ValueError unless `confusion` has one row and one column for each class."""
    sizes = {len(confusion), *(len(row) for row in confusion)}
    if sizes != {len(classes)}:
        raise invalid(f"a confusion matrix of {len(classes)} rows and columns, one a class", f"sizes {sorted(sizes)}")


def macro_average(values: Sequence[float]) -> float:
    """Return the unweighted (macro) mean over the classes that have a value; NaN if none has."""
    defined = [value for value in values if not math.isnan(value)]
    return ratio_or_nan(sum(defined), len(defined))


def most_confused_pairs(
    confusion: ConfusionMatrix, classes: Sequence[str], max_pairs: int = 6, num_classes: int | None = None
) -> list[ConfusedPair]:
    """Return the most confused pairs, sorted by count, then by fraction of the true class, then in class order.

    With `num_classes`, only pairs of the first so many classes: the others are no classes, such as background.
    """
    pairs = [
        ConfusedPair(classes[i], classes[j], count, sum(row))
        for i, row in enumerate(confusion[:num_classes])
        for j, count in enumerate(row[:num_classes])
        if i != j and count > 0
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, pair.num_samples))[:max_pairs]


def wilson_interval(num_correct: int, num_samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927, JASA 22: 209-212), by default at 95 %, as fractions."""
    proportion, z2_over_n = num_correct / num_samples, z * z / num_samples
    center = (proportion + z2_over_n / 2) / (1 + z2_over_n)
    half_width = (
        z * math.sqrt(proportion * (1 - proportion) / num_samples + z2_over_n / num_samples / 4) / (1 + z2_over_n)
    )
    return max(0.0, round(center - half_width, 12)), min(1.0, round(center + half_width, 12))


def ratio_or_nan(numerator: float, denominator: float) -> float:
    """Return the ratio; NaN where the denominator is 0."""
    return numerator / denominator if denominator else math.nan
