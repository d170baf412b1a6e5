"""Average precision of PASCAL VOC, at one IoU threshold (Everingham et al. 2010, IJCV 88: 303-338, Sec. 4.2).

The rules are those of the Python version of the development kit, `voc_eval.py` of py-faster-rcnn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from reslab.metrics.classification import macro_average
from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    Floats,
    box_overlaps,
    pair_images,
    rank_by_score,
    to_array,
)
from reslab.spec.errors import invalid

_FALSE_POSITIVE, _IGNORED = -1, -2


class Interpolation(StrEnum):
    """The way from a precision-recall curve to a number; precision at r is the highest at a recall of at least r."""

    ALL_POINT = "all-point"
    """The area under the interpolated curve (VOC 2010 and later)."""
    ELEVEN_POINT = "11-point"
    """The mean of the interpolated precision at recall 0, 0.1, ... 1 (VOC 2007 to 2009)."""


@dataclass(frozen=True)
class VocClassResult:
    """A class: its average precision (NaN without an object that counts), and its curve by falling score.

    `num_objects` counts the objects that are neither difficult nor crowds. The curve has a point for each prediction
    that counts.
    """

    ap: float
    num_objects: int
    scores: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]


@dataclass(frozen=True)
class VocResult:
    """The results of the classes, and the mean of their average precisions over the classes that have objects."""

    classes: tuple[VocClassResult, ...]
    mean_ap: float


def voc_average_precision(
    targets: Sequence[DetectionTarget],
    predictions: Sequence[DetectionPrediction],
    num_classes: int,
    *,
    iou_threshold: float = 0.5,
    interpolation: Interpolation = Interpolation.ALL_POINT,
    inclusive_pixels: bool = False,
) -> VocResult:
    """Return the average precision of each class over all images, which must have been gathered from all processes.

    Each prediction belongs to the object of its class that it overlaps most, also if that object is taken. It is a true
    positive if their IoU is above the threshold and no prediction of higher score has the object, else a false
    positive. Predictions of difficult objects and of crowds do not count. `inclusive_pixels` adds 1 to the sides of
    boxes, as the development kit does for its corners, which are pixels. Equal scores rank as
    `reslab.metrics.detection` says. Raises ValueError as `pair_images` does, and for a threshold outside 0 to 1.
    """
    if not 0 <= iou_threshold <= 1:
        raise invalid("an IoU threshold from 0 to 1", iou_threshold)
    columns = [np.zeros((3, 0))]  # label, score, and object or kind of each prediction
    num_objects, first_object = np.zeros(num_classes, dtype=np.int64), 0
    for target, prediction in pair_images(targets, predictions, num_classes):
        objects = _find_objects(target, prediction, iou_threshold, inclusive_pixels)
        objects = np.where(objects >= 0, objects + first_object, objects)
        first_object += len(target.boxes)
        columns.append(np.stack([to_array(prediction.labels), to_array(prediction.scores), objects]))
        counted = target.labels.cpu().numpy()[~target.is_ignored]
        num_objects += np.bincount(counted, minlength=num_classes)
    labels, scores, objects = np.concatenate(columns, axis=1)
    classes = tuple(
        _class_result(scores[labels == label], objects[labels == label], count, interpolation)
        for label, count in enumerate(num_objects.tolist())
    )
    return VocResult(classes, macro_average([one.ap for one in classes]))


def mean_ap(result: VocResult, interpolation: Interpolation) -> float:
    """Return the mean average precision of a result's curves by another interpolation; NaN without objects."""
    interpolate = _INTERPOLATIONS[interpolation]
    curves = [one for one in result.classes if one.num_objects]
    return macro_average([interpolate(np.array(one.precision), np.array(one.recall)) for one in curves])


def best_f1_score(result: VocResult) -> float:
    """Return the score from which on the predictions of all classes have the highest F1; NaN without a true positive.

    F1 = 2 TP / (predictions + objects), counted over all classes together. Of equal ones, the highest score.
    """
    scores = np.array([score for one in result.classes for score in one.scores])
    if not len(scores):
        return math.nan
    order = rank_by_score(scores)
    hits = np.concatenate([_true_positives(one) for one in result.classes])
    scores, true_positives = scores[order], np.cumsum(hits[order])
    num_objects = sum(one.num_objects for one in result.classes)
    f1 = 2 * true_positives / (np.arange(1, len(scores) + 1) + num_objects)
    f1[:-1][scores[1:] == scores[:-1]] = 0.0  # a threshold does not part equal scores
    return float(scores[f1.argmax()]) if true_positives[-1] else math.nan


def _true_positives(one: VocClassResult) -> Floats:
    """Return 1 for each prediction that is a true positive, else 0."""
    counts = np.round(np.array(one.precision) * np.arange(1, len(one.precision) + 1))
    return np.diff(counts, prepend=0.0)


def _find_objects(
    target: DetectionTarget, prediction: DetectionPrediction, iou_threshold: float, inclusive_pixels: bool
) -> NDArray[np.int64]:
    """Return the index of the object that each prediction belongs to, or that it is a false positive or ignored."""
    if not len(target.boxes):
        return np.full(len(prediction.boxes), _FALSE_POSITIVE)
    overlaps = box_overlaps(to_array(prediction.boxes), to_array(target.boxes), inclusive_pixels=inclusive_pixels)
    is_same_class = to_array(prediction.labels)[:, None] == to_array(target.labels)[None]
    overlaps = np.where(is_same_class, overlaps, -1.0)
    best = overlaps.argmax(1)
    matches = np.where(target.is_ignored[best], _IGNORED, best)
    return np.where(overlaps.max(1) > iou_threshold, matches, _FALSE_POSITIVE)


def _class_result(scores: Floats, objects: Floats, num_objects: int, interpolation: Interpolation) -> VocClassResult:
    order = rank_by_score(scores)
    order = order[objects[order] != _IGNORED]
    scores, objects = scores[order], objects[order]
    is_first = np.zeros(len(objects), dtype=bool)
    is_first[np.unique(objects, return_index=True)[1]] = True  # the highest score of each object
    true_positives = np.cumsum(is_first & (objects != _FALSE_POSITIVE))
    precision = true_positives / np.arange(1, len(objects) + 1)
    recall = true_positives / num_objects if num_objects else np.full(len(objects), math.nan)
    ap = _INTERPOLATIONS[interpolation](precision, recall) if num_objects else math.nan
    return VocClassResult(ap, num_objects, tuple(scores.tolist()), tuple(precision.tolist()), tuple(recall.tolist()))


def _area(precision: Floats, recall: Floats) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def _eleven_points(precision: Floats, recall: Floats) -> float:
    # These recalls, not i / 10: the rounding of arange decides whether a recall of 3/10 reaches the fourth.
    points = [precision[recall >= level].max(initial=0.0) for level in np.arange(0.0, 1.1, 0.1)]
    return float(sum(points) / len(points))


_INTERPOLATIONS = {Interpolation.ALL_POINT: _area, Interpolation.ELEVEN_POINT: _eleven_points}
