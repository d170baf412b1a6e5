"""Metrics of semantic segmentation from a confusion matrix of pixels: IoU, Dice and accuracies.

The confusion matrix holds exact integers: those of batches or processes are summed, and the metrics are computed once,
from the sum. No other quantity of this module may be averaged over batches.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reslab.metrics.checks import as_counts, check_integers, check_label_range, check_same_shape
from reslab.metrics.classification import macro_average, ratio_or_nan

VOID_LABEL = 255
_CHUNK_PIXELS = 1 << 22  # bounds the int64 copies of masks to 32 MiB each


@dataclass(frozen=True)
class SegmentationMetrics:
    """Metrics of each class and of all, as fractions; NaN where undefined.

    With TP, FP and FN in pixels: `iou` TP/(TP+FP+FN) and `dice` (F1) 2TP/(2TP+FP+FN) are undefined for a class that is
    neither true nor predicted anywhere, `accuracy` TP/(TP+FN) for one that is never true. `mean_iou` (mIoU),
    `mean_dice` and `mean_accuracy` are the means over the classes where they are defined. `frequency_weighted_iou`
    weights the IoU of each class by its share of the true pixels (Long, Shelhamer, Darrell 2015, Sec. 5).
    """

    iou: tuple[float, ...]
    dice: tuple[float, ...]
    accuracy: tuple[float, ...]
    num_pixels: tuple[int, ...]
    mean_iou: float
    mean_dice: float
    mean_accuracy: float
    pixel_accuracy: float
    frequency_weighted_iou: float


def segmentation_confusion(
    predictions: Tensor, targets: Tensor, num_classes: int, void_label: int | None = VOID_LABEL
) -> Tensor:
    """Return the confusion matrix (C, C) int64, on the device of the masks: pixels of a true class (row) predicted as
    a class (column).

    Masks are integers of any one shape. Pixels whose target is `void_label` do not count. Raises ValueError for shapes
    that differ and, where pixels count, for labels outside 0 to C - 1.
    """
    check_same_shape("predicted masks", predictions, "true masks", targets)
    check_integers("predicted masks", predictions)
    check_integers("true masks", targets)
    counts = torch.zeros(num_classes**2, dtype=torch.int64, device=targets.device)
    chunks = (masks.reshape(-1).split(_CHUNK_PIXELS) for masks in (predictions, targets))
    for predicted, true in zip(*chunks, strict=True):
        predicted, true = _without_void(predicted.long(), true.long(), void_label)
        check_label_range("labels of predicted masks", predicted, num_classes)
        check_label_range("labels of true masks", true, num_classes)
        counts += torch.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def segmentation_metrics(confusion: Tensor) -> SegmentationMetrics:
    """Return the metrics of a confusion matrix (C, C) of integers. Raises ValueError for any other shape or type."""
    rows = as_counts("a confusion matrix of pixels", confusion)
    true = [sum(row) for row in rows]
    predicted = [sum(column) for column in zip(*rows, strict=True)]
    correct = [row[index] for index, row in enumerate(rows)]
    counts = list(zip(correct, true, predicted, strict=True))
    iou = tuple(ratio_or_nan(tp, num_true + num_predicted - tp) for tp, num_true, num_predicted in counts)
    dice = tuple(ratio_or_nan(2 * tp, num_true + num_predicted) for tp, num_true, num_predicted in counts)
    accuracy = tuple(ratio_or_nan(tp, num_true) for tp, num_true, _ in counts)
    weighted = math.fsum(num_true * value for num_true, value in zip(true, iou, strict=True) if num_true)
    return SegmentationMetrics(
        iou=iou,
        dice=dice,
        accuracy=accuracy,
        num_pixels=tuple(true),
        mean_iou=macro_average(iou),
        mean_dice=macro_average(dice),
        mean_accuracy=macro_average(accuracy),
        pixel_accuracy=ratio_or_nan(sum(correct), sum(true)),
        frequency_weighted_iou=ratio_or_nan(weighted, sum(true)),
    )


def _without_void(predicted: Tensor, true: Tensor, void_label: int | None) -> tuple[Tensor, Tensor]:
    if void_label is None:
        return predicted, true
    kept = true != void_label
    return predicted[kept], true[kept]
