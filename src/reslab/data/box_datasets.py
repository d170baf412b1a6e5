"""Images with boxes around their objects, for object detection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.boxes import MIN_VISIBLE, BoxIssue, BoxTable, begin_transform, finish_transform, make_target
from reslab.data.image_datasets import ImageDataset
from reslab.data.target_datasets import SampleTransform, TargetImageDataset
from reslab.spec.errors import invalid
from reslab.spec.task import TargetKind

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
