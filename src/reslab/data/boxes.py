"""The boxes of a dataset: one table, what can be wrong with a box, the target of an image, and images with boxes.

A box is (x1, y1, x2, y2) in pixels from the upper left corner of the image: pixel (row, column) covers x from column to
column + 1, so that a box of one pixel is 1 wide, and 0 <= x1 < x2 <= width.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.image_datasets import ImageDataset
from reslab.data.segments import Segment, decode_segments
from reslab.data.target_datasets import SampleTransform, TargetImageDataset
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind

MIN_VISIBLE = 0.1
"""The share of a box's area that a crop must leave, or its object is dropped."""
FULL_BOXES = "full_boxes"
"""The key of the boxes as they would be without the border of the image, while a target is transformed."""
_ROUNDING = 1.0  # a box that sticks out by so few pixels is clipped without mention
ImageId = int | str


class BoxIssueKind(StrEnum):
    """The kind of a problem with a box. `ERRORS` stop training; of the others, boxes are clipped or left out."""

    NOT_FINITE = "not-finite"
    SWAPPED = "swapped"
    OUTSIDE = "outside"
    UNKNOWN_CLASS = "unknown-class"
    CLIPPED = "clipped"
    EMPTY = "empty"


ERRORS = (BoxIssueKind.NOT_FINITE, BoxIssueKind.SWAPPED, BoxIssueKind.OUTSIDE, BoxIssueKind.UNKNOWN_CLASS)


@dataclass(frozen=True)
class BoxIssue:
    """A problem with a box: kind, image, location in the file (`line 3`, `annotation 17`), and what is required."""

    kind: BoxIssueKind
    image: str
    location: str
    text: str

    @property
    def is_error(self) -> bool:
        """True if the image cannot be used as it is."""
        return self.kind in ERRORS


def fit_box(box: Sequence[float], height: int, width: int) -> tuple[tuple[float, ...], BoxIssueKind | None, str]:
    """Return a box clipped to its image, the kind of its issue if there is one, and what was required and came."""
    x1, y1, x2, y2 = box
    shown = ", ".join(f"{value:g}" for value in box)
    if not all(map(np.isfinite, box)):
        return (0.0,) * 4, BoxIssueKind.NOT_FINITE, str(invalid("4 finite numbers as a box", shown))
    if x2 < x1 or y2 < y1:
        ordered = ", ".join(f"{value:g}" for value in (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))
        return (0.0,) * 4, BoxIssueKind.SWAPPED, str(invalid("a box with x1 < x2 and y1 < y2", shown, ordered))
    if x1 == x2 or y1 == y2:
        return (0.0,) * 4, BoxIssueKind.EMPTY, str(invalid("a box with an area", shown))
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        required = f"a box inside the image of height {height} and width {width}"
        return (0.0,) * 4, BoxIssueKind.OUTSIDE, str(invalid(required, shown))
    if max(abs(old - new) for old, new in zip(box, clipped, strict=True)) > _ROUNDING:
        nearest = ", ".join(f"{value:g}" for value in clipped)
        required = f"a box within the image of height {height} and width {width}"
        return clipped, BoxIssueKind.CLIPPED, str(invalid(required, shown, nearest))
    return clipped, None, ""


@dataclass(frozen=True, eq=False)
class BoxTable:
    """The objects of N images, M in all: those of image i are rows `offsets[i]` to `offsets[i + 1]`.

    * `sizes` (N, 2) int64: height and width of each image; `image_ids`: of each image, COCO's id or its file's name.
    * `boxes` (M, 4) float32, `labels` (M,) int64 from 1, `areas` (M,) float32 in square pixels.
    * `crowd` (M,) bool: a box around many objects (COCO's `iscrowd`). `difficult` (M,) bool: an object that VOC does
      not count.
    * `segments`: of each object its mask, None without one; empty if no object has any.

    Raises ValueError where lengths do not fit, or a label is below 1.
    """

    sizes: np.ndarray
    image_ids: tuple[ImageId, ...]
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    segments: tuple[Segment | None, ...] = field(default=())

    def __post_init__(self) -> None:
        num_images, num_objects = len(self.image_ids), len(self.labels)
        if self.sizes.shape != (num_images, 2) or len(self.offsets) != num_images + 1:
            raise invalid(f"sizes and offsets of {num_images} images", f"{len(self.sizes)} and {len(self.offsets) - 1}")
        lengths = {len(array) for array in (self.boxes, self.areas, self.crowd, self.difficult)}
        if lengths != {num_objects} or self.boxes.shape[1:] != (4,) or int(self.offsets[-1]) != num_objects:
            raise invalid(f"a box, area and flags for each of {num_objects} objects", f"{sorted(lengths)}")
        if self.segments and len(self.segments) != num_objects:
            raise invalid(f"a segment or None for each of {num_objects} objects", f"{len(self.segments)} segments")
        if num_objects and int(self.labels.min()) < 1:
            next_step = "add 1 to all labels: 0 is the background"
            raise invalid("labels of boxes from 1", f"label {int(self.labels.min())}", "1", next_step)

    def __len__(self) -> int:
        return len(self.image_ids)

    @cached_property
    def image_of(self) -> np.ndarray:
        """The image of each object, (M,) int64."""
        counts: np.ndarray = np.diff(self.offsets)
        return np.repeat(np.arange(len(self)), counts)

    def rows(self, i: int) -> slice:
        """Return the rows of image i."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def subset(self, indices: Sequence[int]) -> "BoxTable":
        """Return the objects of these images."""
        images = np.asarray(indices, np.int64)
        counts = np.diff(self.offsets)[images]
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in images]
        rows = np.concatenate(spans).astype(np.int64) if spans else np.zeros(0, np.int64)
        return BoxTable(
            self.sizes[images],
            tuple(self.image_ids[i] for i in images),
            np.concatenate(([0], counts.cumsum())),
            self.boxes[rows],
            self.labels[rows],
            self.areas[rows],
            self.crowd[rows],
            self.difficult[rows],
            tuple(self.segments[row] for row in rows) if self.segments else (),
        )

    def masks(self, i: int) -> np.ndarray:
        """Return the masks (n, H, W) uint8 of the objects of image i.

        Raises ValueError where an object has none, or its segment does not suit the image.
        """
        rows = self.rows(i)
        segments = [segment for segment in self.segments[rows] if segment is not None]
        if len(segments) != rows.stop - rows.start:
            got = f"{len(segments)} masks of {rows.stop - rows.start} objects of image {self.image_ids[i]}"
            raise invalid("a mask for each object", got, next_step="load boxes without masks")
        height, width = self.sizes[i].tolist()
        return decode_segments(segments, height, width)

    def digest(self) -> bytes:
        """Return a hash of all annotations."""
        digest = hashlib.sha256(repr(self.image_ids).encode("utf-8", "surrogateescape"))
        arrays = (self.sizes, self.offsets, self.boxes, self.labels, self.areas, self.crowd, self.difficult)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        for segment in self.segments:
            digest.update(b"-" if segment is None else segment.content())
        return digest.digest()


@dataclass(frozen=True)
class ObjectRow:
    """One object as a row of a table: its box, label from 1, area, flags and mask."""

    box: tuple[float, ...]
    label: int
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    segment: Segment | None = None


def make_box_table(
    image_ids: Sequence[ImageId], sizes: Sequence[tuple[int, int]], objects: Sequence[Sequence[ObjectRow]]
) -> BoxTable:
    """Return the table of the objects of each image; an object without an area gets that of its box."""
    rows = [row for of_image in objects for row in of_image]
    counts = np.array([len(of_image) for of_image in objects], np.int64)
    boxes = np.array([row.box for row in rows], np.float32).reshape(-1, 4)
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = [box_area if row.area is None else row.area for row, box_area in zip(rows, box_areas, strict=True)]
    segments = tuple(row.segment for row in rows)
    return BoxTable(
        np.array(sizes, np.int64).reshape(-1, 2),
        tuple(image_ids),
        np.concatenate(([0], counts.cumsum())),
        boxes,
        np.array([row.label for row in rows], np.int64),
        np.array(areas, np.float32),
        np.array([row.crowd for row in rows], bool),
        np.array([row.difficult for row in rows], bool),
        segments if any(segment is not None for segment in segments) else (),
    )


def make_target(table: BoxTable, i: int, *, with_masks: bool = False) -> dict[str, Any]:
    """Return the target of image i: `boxes`, `labels`, `area`, `crowd`, `difficult`, `image_id`, and `masks` if asked.

    `boxes` are `tv_tensors.BoundingBoxes`, `masks` a `tv_tensors.Mask` (n, H, W) uint8.
    """
    from torchvision import tv_tensors

    rows = table.rows(i)
    size = tuple(table.sizes[i].tolist())
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(torch.from_numpy(table.boxes[rows].copy()), format="XYXY", canvas_size=size),
        "labels": torch.from_numpy(table.labels[rows].copy()),
        "area": torch.from_numpy(table.areas[rows].copy()),
        "crowd": torch.from_numpy(table.crowd[rows].copy()),
        "difficult": torch.from_numpy(table.difficult[rows].copy()),
        "image_id": table.image_ids[i],
    }
    if with_masks:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(table.masks(i)))
    return target


def begin_transform(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target with a second copy of its boxes, which no transform clips: see `finish_transform`."""
    from torchvision import tv_tensors

    boxes = target["boxes"]
    full = tv_tensors.BoundingBoxes(
        boxes.as_subclass(Tensor).clone(), format=boxes.format, canvas_size=boxes.canvas_size, clamping_mode=None
    )
    return {**target, FULL_BOXES: full, "box_area": _areas(boxes)}


def finish_transform(target: Mapping[str, Any], min_visible: float = MIN_VISIBLE) -> dict[str, Any]:
    """Return a transformed target as plain tensors, without the objects that have vanished.

    An object stays if at least `min_visible` of the area of its box is inside the image, and its box there is at least
    1 pixel high and wide, or as large as it was without the border; with masks, if its mask has a pixel where the image
    shows the object. `area` changes in proportion to that of the box, clipped.
    """
    boxes, full = target["boxes"].as_subclass(Tensor) + 0.0, target[FULL_BOXES].as_subclass(Tensor)  # -0 becomes 0
    sides, full_sides = boxes[:, 2:] - boxes[:, :2], full[:, 2:] - full[:, :2]
    areas, full_areas = sides.prod(1), full_sides.prod(1)
    # A nearly whole box may lose some of its area to rounding.
    keep = (areas >= min_visible * full_areas * (1 - 1e-4)) & (sides > 0).all(1)
    keep &= (sides >= full_sides.clamp_max(1) - 1e-3).all(1)
    if "masks" in target:
        keep &= (target["masks"].as_subclass(Tensor) != 0).flatten(1).any(1)
    finished = {name: value for name, value in target.items() if name not in (FULL_BOXES, "box_area")}
    finished["boxes"] = boxes
    finished["area"] = target["area"] * (areas / target["box_area"].clamp_min(1e-12))
    if "masks" in target:
        finished["masks"] = target["masks"].as_subclass(Tensor)
    return select_objects(finished, keep)


def select_objects(target: Mapping[str, Any], keep: Tensor) -> dict[str, Any]:
    """Return a target with only the objects where `keep` (n,) is True."""
    num_objects = len(keep)
    return {
        name: value[keep] if isinstance(value, Tensor) and value.ndim and len(value) == num_objects else value
        for name, value in target.items()
    }


def without_ignored(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target without crowds and difficult objects, from which a detector is not trained."""
    return select_objects(target, ~(target["crowd"] | target["difficult"]))


def without_background(detections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the detections of an image without those of class 0, the background.

    Only RetinaNet can have some: it has an output for class 0 too, which training drives to 0.
    """
    return select_objects(detections, detections["labels"] > 0)


def _areas(boxes: Tensor) -> Tensor:
    plain = boxes.as_subclass(Tensor)
    return (plain[:, 2:] - plain[:, :2]).prod(1)


_GRAY = 224


@dataclass(frozen=True, eq=False, repr=False)
class BoxImageDataset(TargetImageDataset):
    """Images with boxes around their objects, as torchvision's detectors take them.

    A target is a dictionary:

    * `boxes` (n, 4) float32: x1, y1, x2, y2 in pixels of the image (`reslab.data.boxes`); n may be 0.
    * `labels` (n,) int64 from 1: 0 is the background, and the class of label k has name k - 1 of `classes`.
    * `area` (n,) float32, of the mask where the data says so, else of the box; `crowd` and `difficult` (n,) bool.
    * `image_id`: COCO's id, or the file's name. `masks` (n, H, W) uint8 of 0 and 1, if `with_masks`.

    `dataset[i]` is (tensor, target), the image float32 (C, H, W), both preprocessed as in evaluation. A batch is a list
    of images of their own sizes and a list of targets. A transform drops the objects that it leaves less than
    `min_visible` of their box (`finish_transform`). `issues` are the boxes that were clipped or left out,
    `errors` the reasons by index why the annotations of an image cannot be used (`reslab data check` lists these
    images, too); `category_ids` are COCO's ids of the classes.
    Raises ValueError unless there are as many rows of the table as images, or masks are required of objects without.
    """

    target_kind = TargetKind.BOXES
    has_listed_batches = True

    images: ImageDataset
    table: BoxTable
    with_masks: bool = False
    min_visible: float = MIN_VISIBLE
    issues: tuple[BoxIssue, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    category_ids: tuple[int, ...] = ()
    input_transform: SampleTransform | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.table):
            raise invalid(f"boxes for each of {len(self.images)} images", f"boxes for {len(self.table)} images")
        if not 0 <= self.min_visible <= 1:
            nearest = "0" if self.min_visible < 0 else "1"
            raise invalid("a least visible share of a box from 0 to 1", self.min_visible, nearest)
        if self.with_masks and len(self.table.labels) and not self.has_masks:
            raise invalid("a mask for each object", "boxes alone", next_step="load boxes without masks")

    @property
    def has_masks(self) -> bool:
        """True if every object has a mask."""
        return bool(self.table.segments) and all(segment is not None for segment in self.table.segments)

    def load_target(self, i: int) -> dict[str, Any]:
        """Return the target of image i; its boxes and masks are tv_tensors."""
        return make_target(self.table, i, with_masks=self.with_masks)

    def load_sample(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        """Return image i and its target, ready to be transformed."""
        return self.load_image(i), begin_transform(self.load_target(i))

    def finish_target(self, target: Any) -> dict[str, Any]:
        """Return a transformed target as plain tensors, without the objects that have vanished."""
        return finish_transform(target, self.min_visible)

    def collate_targets(self, targets: Sequence[Any]) -> list[Any]:
        """Return the targets as a list."""
        return list(targets)

    def __getitem__(self, i: int) -> tuple[Tensor, dict[str, Any]]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"index {i} of {len(self)} images")
        index = int(i) % len(self)
        pixels, target = self.load_sample(index)
        if self.input_transform is None:
            return pixels.float().div_(255), self.finish_target(target)
        try:
            pixels, target = self.input_transform.apply_sample(pixels, target, index)
        except ValueError as error:
            raise ValueError(f"{self.name(index)}: {error}") from error
        return pixels, self.finish_target(target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} images with {len(self.table.labels):,} boxes)"

    def image_sizes(self) -> tuple[tuple[int, int], ...]:
        """Return height and width of every image."""
        return self._sizes

    @cached_property
    def _sizes(self) -> tuple[tuple[int, int], ...]:
        return tuple((height, width) for height, width in self.table.sizes.tolist())

    def target_digest(self) -> bytes:
        """Return a hash of all annotations."""
        return self.table.digest()

    def count_objects(self, num_classes: int) -> np.ndarray:
        """Return the number of objects of each class, (num_classes,) int64."""
        return np.bincount(self.table.labels, minlength=num_classes + 1)[1:]

    def subset(self, indices: Sequence[int]) -> "BoxImageDataset":
        names = {self.name(i) for i in indices}
        issues = tuple(issue for issue in self.issues if issue.image in names)
        errors = {new: self.errors[old] for new, old in enumerate(indices) if old in self.errors}
        images, table = self.images.subset(indices), self.table.subset(indices)
        return replace(self, images=images, table=table, issues=issues, errors=errors)


class AnnotatedBoxDataset(BoxImageDataset):
    """The boxes of images whose files need not be there."""

    def preview(self, i: int) -> Tensor:
        """Return image i, or gray pixels of its size where it cannot be read."""
        try:
            return super().preview(i)
        except (OSError, ValueError):
            height, width = self.table.sizes[i].tolist()
            return torch.full((3, height, width), _GRAY, dtype=torch.uint8)
