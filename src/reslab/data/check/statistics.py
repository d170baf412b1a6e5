"""Statistics of the targets of a dataset: values, classes that images show together, pixels of masks, boxes."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reslab.data.boxes import BoxImageDataset, BoxIssue, BoxIssueKind, BoxTable
from reslab.data.dataset import DatasetListing
from reslab.data.image_datasets import ImageDataset
from reslab.data.masks import VOID
from reslab.data.target_datasets import MaskImageDataset
from reslab.data.targets import count_images
from reslab.spec.task import TargetKind, find_task

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


@dataclass(frozen=True, eq=False)
class MaskStatistics:
    """The pixels of each class in N masks: `pixels` (N, C) int64 and `void` (N,) int64; `sizes` are height and width.

    `errors` has the reason by index why a mask cannot be read, whose counts and size are 0.
    """

    pixels: Tensor
    void: Tensor
    sizes: tuple[tuple[int, int], ...]
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def pixels_per_class(self) -> Tensor:
        """The pixels of each class in all masks, (C,) int64."""
        return self.pixels.sum(0)

    @property
    def images_per_class(self) -> Tensor:
        """The number of images that show each class, (C,) int64."""
        return (self.pixels > 0).sum(0)

    @property
    def void_share(self) -> float:
        """The share of void pixels in all masks; 0 without masks."""
        total = int(self.pixels.sum() + self.void.sum())
        return int(self.void.sum()) / total if total else 0.0

    @property
    def all_void(self) -> list[int]:
        """The masks in which every pixel is void."""
        is_void = (self.pixels.sum(1) == 0) & (self.void > 0)
        return is_void.nonzero().flatten().tolist()

    @property
    def without_object(self) -> list[int]:
        """The masks that show class 0, the background, and no other class."""
        is_background = (self.pixels[:, 0] > 0) & (self.pixels[:, 1:].sum(1) == 0)
        return is_background.nonzero().flatten().tolist()


def count_mask_pixels(dataset: MaskImageDataset, num_classes: int) -> MaskStatistics:
    """Read every mask, in threads, and count the pixels of each class and of void."""
    with ThreadPoolExecutor() as pool:
        rows = list(pool.map(lambda i: _count_mask(dataset, i), range(len(dataset))))
    counts = torch.tensor([counts for counts, _, _ in rows], dtype=torch.int64).view(-1, 256)
    errors = {i: error for i, (_, _, error) in enumerate(rows) if error}
    return MaskStatistics(counts[:, :num_classes], counts[:, VOID], tuple(size for _, size, _ in rows), errors)


def _count_mask(dataset: MaskImageDataset, i: int) -> tuple[list[int], tuple[int, int], str]:
    try:
        mask = dataset.masks.load(i)
    except ValueError as error:
        return [0] * 256, (0, 0), str(error)
    height, width = mask.shape
    return np.bincount(mask.reshape(-1), minlength=256).tolist(), (height, width), ""


NO_CLASS = "(no class)"
_OUTLIER_IQRS = 3.0


@dataclass(frozen=True)
class ValueSummary:
    """A value of a split: its mean, standard deviation (of the population) and range, and the outliers.

    Outliers are the indices of the images whose values are more than three interquartile ranges below the first or
    above the third quartile ("far out": Tukey 1977, Exploratory Data Analysis).
    """

    name: str
    mean: float
    std: float
    minimum: float
    maximum: float
    outliers: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClassPair:
    """Two classes that training images show together: the images with both, with the first and with the second."""

    first: str
    second: str
    num_both: int
    num_first: int
    num_second: int

    @property
    def is_always(self) -> bool:
        """True if no image shows only one of them."""
        return self.num_both == self.num_first == self.num_second


def class_counts(listing: DatasetListing) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split; empty for a split whose labels are not classes."""
    counts = {
        split: count_images(dataset.labels, dataset.target_kind, len(listing.classes))
        for split, dataset in listing.splits.items()
    }
    return {
        split: {} if numbers is None else dict(zip(listing.classes, numbers.tolist(), strict=True))
        for split, numbers in counts.items()
    }


def summarize_values(dataset: ImageDataset, names: Sequence[str]) -> tuple[ValueSummary, ...]:
    """Return a summary of each value of a split."""
    return tuple(_summarize(dataset.labels[:, k].double(), name) for k, name in enumerate(names) if len(dataset))


def _summarize(values: Tensor, name: str) -> ValueSummary:
    first_quartile, third_quartile = values.quantile(torch.tensor([0.25, 0.75], dtype=values.dtype)).tolist()
    margin = _OUTLIER_IQRS * (third_quartile - first_quartile)
    is_outlier = (values < first_quartile - margin) | (values > third_quartile + margin)
    # With more than half of the values equal, the range between the quartiles says nothing of the others.
    outliers = is_outlier.nonzero().flatten().tolist() if margin > 0 else []
    return ValueSummary(
        name,
        mean=float(values.mean()),
        std=float(values.std(correction=0)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        outliers=tuple(outliers),
    )


def count_class_pairs(labels: Tensor, names: Sequence[str]) -> tuple[ClassPair, ...]:
    """Return the pairs of classes that occur together in multi-hot labels (N, C), the most frequent first."""
    together = (labels.T.double() @ labels.double()).long()
    first, second = (together.triu(1) > 0).nonzero(as_tuple=True)
    pairs = [
        ClassPair(names[a], names[b], int(together[a, b]), int(together[a, a]), int(together[b, b]))
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair.num_both))


@dataclass(frozen=True, eq=False)
class LabelStatistics:
    """Statistics of labels: values by split, classes that occur together, images without a label."""

    values: Mapping[str, tuple[ValueSummary, ...]]
    pairs: tuple[ClassPair, ...] = ()
    num_without_class: Mapping[str, int] | None = None


def _no_statistics(_: DatasetListing) -> LabelStatistics:
    return LabelStatistics({})


def _multi_hot_statistics(listing: DatasetListing) -> LabelStatistics:
    train = listing.splits.get("train")
    pairs = () if train is None else count_class_pairs(train.labels, listing.classes)
    without = {split: int((dataset.labels.sum(1) == 0).sum()) for split, dataset in listing.splits.items()}
    return LabelStatistics({}, pairs, without)


def _value_statistics(listing: DatasetListing) -> LabelStatistics:
    return LabelStatistics(
        {split: summarize_values(dataset, listing.classes) for split, dataset in listing.splits.items()}
    )


_STATISTICS: dict[TargetKind, Callable[[DatasetListing], LabelStatistics]] = {
    TargetKind.MULTI_HOT: _multi_hot_statistics,
    TargetKind.VALUES: _value_statistics,
}


def label_statistics(listing: DatasetListing) -> LabelStatistics:
    """Return the statistics of the labels of a listing."""
    return _STATISTICS.get(find_task(listing.task).target, _no_statistics)(listing)


def _multi_hot_text(label: Tensor, names: Sequence[str]) -> str:
    return ", ".join(names[k] for k in label.nonzero().flatten().tolist()) or NO_CLASS


def _values_text(label: Tensor, names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{label.item():g}"
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, label.tolist(), strict=True))


LABEL_TEXTS: dict[TargetKind, Callable[[Tensor, Sequence[str]], str]] = {
    TargetKind.CLASS: lambda label, names: names[int(label)],
    TargetKind.MULTI_HOT: _multi_hot_text,
    TargetKind.VALUES: _values_text,
}
"""The label of an image as text, by the kind of the targets."""


def label_texts(dataset: ImageDataset, names: Sequence[str]) -> list[str]:
    """Return the label of each image as text: `ant, bee`, or `3.5`; empty where the image as a whole has none."""
    text = LABEL_TEXTS.get(dataset.target_kind)
    return [text(label, names) for label in dataset.labels] if text else [""] * len(dataset)
