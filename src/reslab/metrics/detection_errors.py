"""Errors of object detection: the outcome of each prediction and object, and a confusion matrix with background.

The outcomes are those of TIDE (Bolya et al. 2020, TIDE: A General Toolbox for Identifying Object Detection Errors,
Sec. 2.2), as counts. Counts and confusion matrices of batches or processes, with the same options, are summed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reslab.metrics.detection import (
    DetectionPrediction,
    DetectionTarget,
    Floats,
    ImageId,
    box_overlaps,
    pair_images,
    rank_by_score,
    to_array,
)
from reslab.spec.errors import invalid

_NONE = -1


class Outcome(StrEnum):
    """The outcome of a prediction, or of an object; IoU thresholds are high (0.5) and low (0.1)."""

    CORRECT = "correct"
    """The prediction has an object of its class: IoU at least high, no higher score on the object."""
    LOCALIZATION = "localization"
    """The right class, but an IoU of at least low and below high."""
    CLASS = "class"
    """An IoU of at least high, but with an object of another class."""
    DUPLICATE = "duplicate"
    """The right class and an IoU of at least high, but a higher score has the object."""
    BACKGROUND = "background"
    """An IoU below low with every object."""
    BOTH = "both"
    """An IoU of at least low and below high, with an object of another class."""
    IGNORED = "ignored"
    """No error: the prediction is on a crowd or a difficult object of its class."""
    MISSED = "missed"
    """An object that no prediction has, and that no localization or class error is about."""


@dataclass(frozen=True)
class ImageOutcomes:
    """The outcomes of an image: `indices` of the predictions evaluated, by falling score, and the outcome of each.

    `objects` are the indices of the objects they are about, None for background and ignored ones. `missed` are the
    indices of the missed objects.
    """

    image_id: ImageId
    indices: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    objects: tuple[int | None, ...]
    missed: tuple[int, ...]


def find_outcomes(
    targets: Sequence[DetectionTarget],
    predictions: Sequence[DetectionPrediction],
    num_classes: int,
    *,
    min_score: float,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> list[ImageOutcomes]:
    """Return the outcomes of all predictions of at least `min_score`, and the missed objects, by rising image id.

    By falling score, each prediction takes the free object of its class with the highest IoU, if that is at least
    `iou_threshold`. The first of localization, class, duplicate, background and both that fits says what the others
    are; they are about the object of the highest IoU. Raises ValueError as `pair_images` does, and unless
    0 < background_iou < iou_threshold <= 1.
    """
    if not 0 < background_iou < iou_threshold <= 1:
        raise invalid("0 < background_iou < iou_threshold <= 1", f"{background_iou} and {iou_threshold}")
    pairs = pair_images(targets, predictions, num_classes)
    return [_image_outcomes(*pair, min_score, iou_threshold, background_iou) for pair in pairs]


def count_outcomes(images: Iterable[ImageOutcomes]) -> dict[Outcome, int]:
    """Return the number of each outcome, in the order of `Outcome`, over images."""
    counts: Counter[Outcome] = Counter()
    for image in images:
        counts.update(image.outcomes)
        counts[Outcome.MISSED] += len(image.missed)
    return {outcome: counts[outcome] for outcome in Outcome}


def detection_confusion(
    targets: Sequence[DetectionTarget],
    predictions: Sequence[DetectionPrediction],
    num_classes: int,
    *,
    min_score: float,
    iou_threshold: float = 0.5,
) -> Tensor:
    """Return the confusion matrix (C + 1, C + 1) int64 [true][predicted], in which the last index is background.

    By falling score, each prediction of at least `min_score` takes the free object of any class with the highest IoU,
    if that is at least `iou_threshold`. Objects left are counted in the last column, predictions left in the last row,
    unless they are on a crowd or difficult object of their class. Raises ValueError as `pair_images` does,
    and unless 0 < iou_threshold <= 1.
    """
    if not 0 < iou_threshold <= 1:
        raise invalid("an IoU threshold above 0, at most 1", iou_threshold)
    confusion = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for target, prediction in pair_images(targets, predictions, num_classes):
        kept = _ranked(prediction, min_score)
        boxes, predicted = to_array(prediction.boxes)[kept], prediction.labels.cpu().numpy()[kept]
        counted = ~target.is_ignored
        true = np.append(target.labels.cpu().numpy()[counted], num_classes)  # column -1 is background
        taken = _match(box_overlaps(boxes, to_array(target.boxes)[counted]), iou_threshold)
        has_outcome = (taken != _NONE) | ~_on_ignored(target, boxes, predicted, iou_threshold)
        np.add.at(confusion, (true[taken[has_outcome]], predicted[has_outcome]), 1)
        left = np.setdiff1d(np.arange(len(true) - 1), taken)
        confusion[:, num_classes] += np.bincount(true[left], minlength=num_classes + 1)
    return torch.from_numpy(confusion)


def _image_outcomes(
    target: DetectionTarget, prediction: DetectionPrediction, min_score: float, high: float, low: float
) -> ImageOutcomes:
    kept = _ranked(prediction, min_score)
    boxes, predicted = to_array(prediction.boxes)[kept], prediction.labels.cpu().numpy()[kept]
    counted = np.flatnonzero(~target.is_ignored)
    is_same = predicted[:, None] == target.labels.cpu().numpy()[counted][None]
    overlaps = box_overlaps(boxes, to_array(target.boxes)[counted])
    same, other = np.where(is_same, overlaps, 0.0), np.where(is_same, 0.0, overlaps)
    columns = (_match(same, high), _on_ignored(target, boxes, predicted, high), *_best(same), *_best(other))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    outcomes = [_outcome(*row, high=high, low=low) for row in rows]
    about = (Outcome.CORRECT, Outcome.LOCALIZATION, Outcome.CLASS)
    covered = {index for outcome, index in outcomes if outcome in about}
    return ImageOutcomes(
        image_id=target.image_id,
        indices=tuple(kept.tolist()),
        outcomes=tuple(outcome for outcome, _ in outcomes),
        objects=tuple(None if index is None else int(counted[index]) for _, index in outcomes),
        missed=tuple(int(counted[index]) for index in range(len(counted)) if index not in covered),
    )


def _outcome(
    taken: int,
    is_ignored: bool,
    same: float,
    same_index: int,
    other: float,
    other_index: int,
    *,
    high: float,
    low: float,
) -> tuple[Outcome, int | None]:
    """Return the outcome of a prediction and the column of the object it is about.

    `same` and `other` are its highest IoU with an object of its class and of another, with the columns of these.
    """
    if taken != _NONE:
        return Outcome.CORRECT, taken
    if is_ignored:
        return Outcome.IGNORED, None
    if low <= same < high:
        return Outcome.LOCALIZATION, same_index
    if other >= high:
        return Outcome.CLASS, other_index
    if same >= high:
        return Outcome.DUPLICATE, same_index
    if other < low:
        return Outcome.BACKGROUND, None
    return Outcome.BOTH, other_index


def _best(overlaps: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the highest IoU of each row and its column, the first of equals; 0 without columns."""
    if not overlaps.shape[1]:
        return np.zeros(len(overlaps)), np.full(len(overlaps), _NONE)
    return overlaps.max(1), overlaps.argmax(1)


def _ranked(prediction: DetectionPrediction, min_score: float) -> NDArray[np.int64]:
    """Return the indices of the predictions of at least `min_score`, by falling score."""
    scores = to_array(prediction.scores)
    order = rank_by_score(scores)
    return order[scores[order] >= min_score]


def _match(overlaps: Floats, iou_threshold: float) -> NDArray[np.int64]:
    """Return the index of the free object that each row takes in turn, the one of the highest IoU, or -1."""
    taken, free = np.full(len(overlaps), _NONE), overlaps.copy()
    for row in np.flatnonzero(_best(overlaps)[0] >= iou_threshold):
        column = int(free[row].argmax())
        if free[row, column] >= iou_threshold:
            taken[row] = column
            free[:, column] = 0.0
    return taken


def _on_ignored(
    target: DetectionTarget, boxes: Floats, labels: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.bool_]:
    """Return whether each prediction is on a crowd or difficult object of its class."""
    ignored = target.is_ignored
    overlaps = box_overlaps(boxes, to_array(target.boxes)[ignored], target.is_crowd[ignored])
    is_same = labels[:, None] == target.labels.cpu().numpy()[ignored][None]
    flags: NDArray[np.bool_] = (is_same & (overlaps >= iou_threshold)).any(1)
    return flags
