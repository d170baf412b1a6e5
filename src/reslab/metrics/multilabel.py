"""Metrics of multi-label classification: average precision, curves, thresholds, F1, exact matches, Hamming loss.

Scores (N, C) are finite numbers, higher where a label is more likely; targets and predictions (N, C) are 0 and 1. Over
several processes, the confusion of `label_confusion` and the count of `count_exact_matches` are summed, which is exact.
Average precision, curves and thresholds need the scores and targets of all samples gathered; their order is free.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.metrics.checks import as_counts, check_same_shape, check_table
from reslab.metrics.classification import ClassMetrics, macro_average, ratio_or_nan
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Precision and recall of one class where each distinct score is the threshold, by rising threshold.

    As in scikit-learn, a last point of precision 1 and recall 0 has no threshold. Recall is NaN without a positive.
    """

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class AveragedMetrics:
    """Precision, recall and F1 as fractions, averaged over the classes; NaN where undefined."""

    precision: float
    recall: float
    f1: float


def average_precision(scores: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Return each class's average precision: the sum of (R_n - R_(n-1)) P_n over the distinct scores as thresholds.

    Samples of equal score enter together, as in scikit-learn's `average_precision_score`. NaN for a class without a
    positive. The mean (mAP) is `macro_average` of these. Raises ValueError for shapes that differ, NaN or infinite
    scores, and targets other than 0 and 1.
    """
    scores, targets = _check_scores(scores, targets)
    return tuple(_average_precision(*columns) for columns in zip(scores.T, targets.T, strict=True))


def mean_average_precision(scores: Tensor, targets: Tensor) -> float:
    """Return the mean of `average_precision` over the classes that have a positive; NaN if none has."""
    return macro_average(average_precision(scores, targets))


def precision_recall_curves(scores: Tensor, targets: Tensor) -> list[PrecisionRecallCurve]:
    """Return each class's precision-recall curve. Raises ValueError as `average_precision` does."""
    scores, targets = _check_scores(scores, targets)
    return [_curve(*columns) for columns in zip(scores.T, targets.T, strict=True)]


def best_f1_thresholds(scores: Tensor, targets: Tensor, default: float = 0.5) -> Tensor:
    """Return the thresholds (C,) float64 whose predictions `score >= threshold` have the highest F1 on these samples.

    Of thresholds with equal F1 the highest is taken, which predicts the fewest positives. Each threshold is a score of
    its class; a class without a positive has none to find and takes `default`. Fit them on a validation split.
    """
    scores, targets = _check_scores(scores, targets)
    thresholds = [_best_f1_threshold(*columns, default) for columns in zip(scores.T, targets.T, strict=True)]
    return torch.tensor(thresholds, dtype=torch.float64)


def predict_labels(scores: Tensor, thresholds: Tensor | float) -> Tensor:
    """Return `score >= threshold` (N, C) as booleans, compared in float64; `thresholds` are (C,) or one for all."""
    table = check_table("scores", scores)
    limits = torch.as_tensor(thresholds, dtype=torch.float64).cpu()
    if limits.ndim and limits.shape != table.shape[1:]:
        raise invalid(f"{table.shape[1]} thresholds, one a class", f"shape {tuple(limits.shape)}")
    return table >= limits


def label_confusion(predictions: Tensor, targets: Tensor) -> Tensor:
    """Return the counts (C, 4) int64 of each class: true positives, false positives, false negatives, true negatives.

    Counts of several batches or processes add up to those of the whole.
    """
    predicted, positive = _check_zeros_and_ones(predictions, targets)
    pairs = ((predicted, positive), (predicted, ~positive), (~predicted, positive), (~predicted, ~positive))
    return torch.stack([(first & second).sum(0) for first, second in pairs], 1)


def count_exact_matches(predictions: Tensor, targets: Tensor) -> int:
    """Return the number of samples whose labels are all right. Divided by N it is the subset accuracy."""
    predicted, positive = _check_zeros_and_ones(predictions, targets)
    return int((predicted == positive).all(1).sum())


def label_metrics(confusion: Tensor, classes: tuple[str, ...]) -> list[ClassMetrics]:
    """Return each class's precision TP/(TP+FP), recall TP/(TP+FN), F1 2TP/(2TP+FP+FN), from `label_confusion`.

    `num_samples` is the number of positives. A ratio with denominator 0 is NaN (scikit-learn's `zero_division=nan`).
    """
    rows = as_counts("a confusion of labels", confusion, 4)
    if len(rows) != len(classes):
        raise invalid(f"a confusion of {len(classes)} rows, one a class", f"{len(rows)} rows")
    scores = [_precision_recall_f1(*row[:3]) for row in rows]
    return [
        ClassMetrics(index, name, *values, row[0] + row[2])
        for index, (name, row, values) in enumerate(zip(classes, rows, scores, strict=True))
    ]


def micro_averaged(confusion: Tensor) -> AveragedMetrics:
    """Return precision, recall and F1 of the counts summed over the classes."""
    columns = zip(*as_counts("a confusion of labels", confusion, 4), strict=True)
    tp, fp, fn, _ = (sum(column) for column in columns)
    return AveragedMetrics(*_precision_recall_f1(tp, fp, fn))


def macro_averaged(confusion: Tensor) -> AveragedMetrics:
    """Return the unweighted means of precision, recall and F1 over the classes where each is defined."""
    rows = [_precision_recall_f1(*row[:3]) for row in as_counts("a confusion of labels", confusion, 4)]
    precision, recall, f1 = (macro_average(column) for column in zip(*rows, strict=True))
    return AveragedMetrics(precision, recall, f1)


def _average_precision(scores: Tensor, positive: Tensor) -> float:
    _, true_positives, num_predicted = _count_at_thresholds(scores, positive)
    num_positives = int(true_positives[-1])
    if not num_positives:
        return math.nan
    gained = true_positives.diff(prepend=true_positives.new_zeros(1))
    return float((gained * (true_positives / num_predicted)).sum() / num_positives)


def _curve(scores: Tensor, positive: Tensor) -> PrecisionRecallCurve:
    thresholds, true_positives, num_predicted = (values.flip(0) for values in _count_at_thresholds(scores, positive))
    precision = (true_positives / num_predicted).tolist()
    recall = (true_positives / true_positives[0]).tolist()  # 0 / 0 is NaN
    return PrecisionRecallCurve((*precision, 1.0), (*recall, 0.0), tuple(thresholds.tolist()))


def _best_f1_threshold(scores: Tensor, positive: Tensor, default: float) -> float:
    thresholds, true_positives, num_predicted = _count_at_thresholds(scores, positive)
    if not true_positives[-1]:
        return default
    # Equal ratios of integers round to equal floats, and argmax takes the first of equals: the highest threshold.
    f1 = 2 * true_positives / (num_predicted + true_positives[-1])
    return float(thresholds[f1.argmax()])


def _count_at_thresholds(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct scores, highest first, and the true positives and predictions at or above each, float64."""
    ordered, order = scores.sort(descending=True)
    is_last = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    last = is_last.nonzero().squeeze(1)
    return ordered[last], positive[order].cumsum(0)[last].double(), (last + 1).double()


def _check_scores(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape("scores", scores, "targets", targets)
    return check_table("scores", scores), _as_booleans("targets", targets)


def _check_zeros_and_ones(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape("predictions", predictions, "targets", targets)
    return _as_booleans("predictions", predictions), _as_booleans("targets", targets)


def _as_booleans(name: str, values: Tensor) -> Tensor:
    table = check_table(name, values)
    others = (table != 0) & (table != 1)
    if others.any():
        raise invalid(f"{name} of 0 and 1", f"{float(table[others][0]):g} and {int(others.sum()) - 1} more like it")
    return table == 1


def _precision_recall_f1(tp: int, fp: int, fn: int) -> tuple[float, float, float]:
    return ratio_or_nan(tp, tp + fp), ratio_or_nan(tp, tp + fn), ratio_or_nan(2 * tp, 2 * tp + fp + fn)
