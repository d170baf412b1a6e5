"""Count the boxes of a dataset: of each class, by size as COCO does, and those that are mostly mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reslab.data.box_datasets import BoxImageDataset
from reslab.data.boxes import BoxIssue, BoxIssueKind, BoxTable

MIN_SIDE = 8.0
"""The side in pixels below which a box is tiny."""
MAX_ASPECT_RATIO = 10.0
"""The ratio of a box's longer to its shorter side beyond which it is elongated."""
SIZE_LIMITS = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""The areas in square pixels below which an object is small, medium or large (Lin et al. 2014)."""


@dataclass(frozen=True, eq=False)
class BoxStatistics:
    """The M objects of N images of a split.

    `objects_per_class` and `images_per_class` (C,) int64; `sizes` counts the objects by the name of their size, of
    areas as the annotations state them. `sides` (M, 2): height and width of each box in pixels. `tiny`, `elongated` and
    `repeated` are rows of the table, the last of objects with the box and class of an earlier one in their image;
    `without_object` are images. `issues` are the boxes that were clipped or left out.
    """

    table: BoxTable
    objects_per_class: np.ndarray
    images_per_class: np.ndarray
    sizes: Mapping[str, int]
    sides: np.ndarray
    tiny: tuple[int, ...]
    elongated: tuple[int, ...]
    repeated: tuple[int, ...]
    without_object: tuple[int, ...]
    issues: tuple[BoxIssue, ...]

    @property
    def num_objects(self) -> int:
        """The number of objects."""
        return len(self.table.labels)

    @property
    def num_crowds(self) -> int:
        """The number of crowds."""
        return int(self.table.crowd.sum())

    @property
    def num_difficult(self) -> int:
        """The number of difficult objects."""
        return int(self.table.difficult.sum())

    @property
    def median_side(self) -> float:
        """The median square root of the area of a box, in pixels; 0 without boxes."""
        return float(np.median(np.sqrt(self.sides.prod(1)))) if len(self.sides) else 0.0

    def issues_of(self, kind: BoxIssueKind) -> list[BoxIssue]:
        """Return the issues of one kind."""
        return [issue for issue in self.issues if issue.kind is kind]

    def classes_of(self, i: int, names: Sequence[str]) -> dict[str, int]:
        """Return the number of objects of each class that image i has."""
        counts = np.bincount(self.table.labels[self.table.rows(i)], minlength=len(names) + 1)[1:]
        return {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}


def count_boxes(dataset: BoxImageDataset, num_classes: int) -> BoxStatistics:
    """Count the boxes of a dataset."""
    table = dataset.table
    sides = np.stack((table.boxes[:, 3] - table.boxes[:, 1], table.boxes[:, 2] - table.boxes[:, 0]), 1)
    shown = np.zeros((len(table), num_classes), bool)
    shown[table.image_of, table.labels - 1] = True
    size_of = np.searchsorted(list(SIZE_LIMITS.values()), table.areas, side="right")
    is_elongated = sides.max(1, initial=0) > MAX_ASPECT_RATIO * sides.min(1, initial=np.inf)
    return BoxStatistics(
        table,
        dataset.count_objects(num_classes),
        shown.sum(0),
        {name: int((size_of == k).sum()) for k, name in enumerate(SIZE_LIMITS)},
        sides,
        _rows(sides.min(1, initial=np.inf) < MIN_SIDE),
        _rows(is_elongated),
        _find_repeated(table),
        _rows(np.diff(table.offsets) == 0),
        dataset.issues,
    )


def _rows(is_chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(np.nonzero(is_chosen)[0].tolist())


def _find_repeated(table: BoxTable) -> tuple[int, ...]:
    keys = np.concatenate((table.image_of[:, None], table.labels[:, None], table.boxes), 1)
    _, first = np.unique(keys, axis=0, return_index=True)
    return tuple(sorted(set(range(len(keys))) - set(first.tolist())))
