"""Targets and predictions of object detection, one dataclass an image, and the overlap of boxes.

Boxes are (x1, y1, x2, y2) in pixels of the image, labels are the indices of classes from 0. Average precision ranks the
predictions of all images: gather targets and predictions of all processes (the dataclasses can be pickled). The order
of the images is free: images are evaluated by rising `image_id`, and predictions of equal score in this order, within
an image in the order given. Counts of outcomes and confusion matrices (`detection_errors`) of processes are summed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
