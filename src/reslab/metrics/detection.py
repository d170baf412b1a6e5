"""Targets and predictions of object detection, the overlap of boxes, and errors with a confusion matrix.

Boxes are (x1, y1, x2, y2) in pixels of the image, labels are the indices of classes from 0. Average precision ranks the
predictions of all images: gather targets and predictions of all processes (the dataclasses can be pickled). The order
of the images is free: images are evaluated by rising `image_id`, and predictions of equal score in this order, within
an image in the order given.

The outcomes of predictions and objects are those of TIDE (Bolya et al. 2020, TIDE: A General Toolbox for Identifying
Object Detection Errors, Sec. 2.2), as counts; the confusion matrix has the background. Counts and matrices of batches
or processes, with the same options, are summed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reslab.metrics.checks import check_finite, check_integers, check_label_range, check_unique, first_few
from reslab.spec.errors import invalid

Floats = NDArray[np.float64]
Rle = Mapping[str, Any]
"""A mask in COCO's run-length encoding: `size` [height, width] and `counts`."""
ImageId = int | str


@dataclass(frozen=True, eq=False)
class DetectionTarget:
    """The objects of one image: boxes (G, 4), labels (G,), and where given crowd and difficult flags, areas and masks.

    `crowd` marks a box around many objects (COCO's `iscrowd`): predictions on it do not count, and their overlap is the
    part of the prediction inside it. `difficult` marks an object that does not count, found or missed (VOC). `areas`
    (G,) assigns COCO's area ranges, in square pixels; COCO gives the areas of masks. Without them the areas of the
    boxes are used. Raises ValueError for other shapes and types, NaN, and boxes with x2 < x1 or y2 < y1.
    """

    image_id: ImageId
    boxes: Tensor
    labels: Tensor
    crowd: Tensor | None = None
    difficult: Tensor | None = None
    areas: Tensor | None = None
    masks: Sequence[Rle] | None = None

    def __post_init__(self) -> None:
        context = f"of the target of image {self.image_id!r}"
        _check_boxes(f"boxes {context}", self.boxes)
        _check_labels(f"labels {context}", self.labels, len(self.boxes))
        for name, values in (("crowd", self.crowd), ("difficult", self.difficult), ("areas", self.areas)):
            if values is not None:
                _check_vector(f"{name} {context}", values, len(self.boxes))
        _check_masks(f"masks {context}", self.masks, len(self.boxes))

    @property
    def is_crowd(self) -> NDArray[np.bool_]:
        """True for each object that is a crowd, (G,) bool."""
        return _as_flags(self.crowd, len(self.boxes))

    @property
    def is_difficult(self) -> NDArray[np.bool_]:
        """True for each object that is difficult, (G,) bool."""
        return _as_flags(self.difficult, len(self.boxes))

    @property
    def is_ignored(self) -> NDArray[np.bool_]:
        """True for each object that does not count, being a crowd or difficult, (G,) bool."""
        return self.is_crowd | self.is_difficult


@dataclass(frozen=True, eq=False)
class DetectionPrediction:
    """The predictions for one image: boxes (D, 4), scores (D,) and labels (D,), and for mask AP the masks.

    Raises ValueError for other shapes and types, NaN, and boxes with x2 < x1 or y2 < y1.
    """

    image_id: ImageId
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Sequence[Rle] | None = None

    def __post_init__(self) -> None:
        context = f"of the prediction for image {self.image_id!r}"
        _check_boxes(f"boxes {context}", self.boxes)
        _check_vector(f"scores {context}", self.scores, len(self.boxes))
        _check_labels(f"labels {context}", self.labels, len(self.boxes))
        _check_masks(f"masks {context}", self.masks, len(self.boxes))


def pair_images(
    targets: Sequence[DetectionTarget], predictions: Sequence[DetectionPrediction], num_classes: int
) -> list[tuple[DetectionTarget, DetectionPrediction]]:
    """Return the target and the prediction of each image, by rising image id; without a prediction an empty one.

    Raises ValueError unless there is a target, image ids are unique and of one type, each prediction has a target, and
    labels are from 0 to num_classes - 1.
    """
    _check_image_ids("targets", targets)
    _check_image_ids("predictions", predictions)
    by_id = {prediction.image_id: prediction for prediction in predictions}
    known = {target.image_id for target in targets}
    unknown = [image_id for image_id in by_id if image_id not in known]
    if not targets or unknown:
        got = f"{len(unknown)} of images without one: {first_few(unknown)}" if unknown else "no targets"
        raise invalid("a target for the image of each prediction", got, next_step="add targets without boxes")
    for target in targets:
        check_label_range(f"labels of the target of image {target.image_id!r}", target.labels, num_classes)
    for prediction in predictions:
        check_label_range(f"labels of the prediction for image {prediction.image_id!r}", prediction.labels, num_classes)
    ordered = sorted(targets, key=lambda target: target.image_id)
    return [(target, by_id.get(target.image_id) or _no_prediction(target)) for target in ordered]


def box_areas(boxes: Floats, inclusive_pixels: bool = False) -> Floats:
    """Return the areas (N,) of boxes (N, 4), in square pixels; with `inclusive_pixels` x2 and y2 belong to the box."""
    sides = boxes[:, 2:] - boxes[:, :2] + inclusive_pixels
    return sides[:, 0] * sides[:, 1]


def box_overlaps(
    boxes: Floats, others: Floats, is_crowd: NDArray[np.bool_] | None = None, inclusive_pixels: bool = False
) -> Floats:
    """Return the intersection over union (N, M) of boxes (N, 4) and others (M, 4); 0 where both have no area.

    Over an other that is a crowd, it is the intersection over the area of the box.
    """
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(bottom_right - top_left + inclusive_pixels, 0.0)
    intersection = sides[..., 0] * sides[..., 1]
    area = box_areas(boxes, inclusive_pixels)[:, None]
    whole = area + box_areas(others, inclusive_pixels)[None] - intersection
    if is_crowd is not None:
        whole = np.where(is_crowd[None], area, whole)
    return np.divide(intersection, whole, out=np.zeros_like(intersection), where=whole > 0)


def to_array(values: Tensor) -> Floats:
    """Return a tensor as a float64 array on the CPU."""
    array: Floats = values.detach().cpu().double().numpy()
    return array


def rank_by_score(scores: Floats) -> NDArray[np.int64]:
    """Return the order by falling score, in which equal scores keep their order."""
    return np.argsort(-scores, kind="stable")


def _check_image_ids(name: str, images: Sequence[DetectionTarget] | Sequence[DetectionPrediction]) -> None:
    ids = [image.image_id for image in images]
    if len({isinstance(image_id, str) for image_id in ids}) > 1:
        raise invalid(f"image ids of {name} of one type, int or str", "both")
    check_unique(name, ids)


def _no_prediction(target: DetectionTarget) -> DetectionPrediction:
    masks = None if target.masks is None else ()
    return DetectionPrediction(target.image_id, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), masks)


def _check_boxes(name: str, boxes: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        nearest = "" if boxes.numel() else "torch.zeros(0, 4)"
        raise invalid(f"{name} of shape (N, 4)", f"shape {tuple(boxes.shape)}", nearest)
    check_finite(name, boxes)
    is_inverted = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if is_inverted.any():
        first = int(is_inverted.nonzero()[0])
        got = f"{int(is_inverted.sum())} others, the first {boxes[first].tolist()} at {first}"
        raise invalid(f"{name} (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2", got, next_step="convert from x, y, w, h")


def _check_vector(name: str, values: Tensor, num_boxes: int) -> None:
    if values.shape != (num_boxes,):
        raise invalid(f"{name} of shape ({num_boxes},), one a box", f"shape {tuple(values.shape)}")
    check_finite(name, values)


def _check_labels(name: str, labels: Tensor, num_boxes: int) -> None:
    check_integers(name, labels)
    _check_vector(name, labels, num_boxes)


def _check_masks(name: str, masks: Sequence[Rle] | None, num_boxes: int) -> None:
    if masks is not None and len(masks) != num_boxes:
        raise invalid(f"{num_boxes} {name}, one a box", f"{len(masks)}")


def _as_flags(values: Tensor | None, num_boxes: int) -> NDArray[np.bool_]:
    return np.zeros(num_boxes, dtype=bool) if values is None else values.detach().cpu().numpy().astype(bool)


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
