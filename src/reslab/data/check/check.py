"""Check a dataset before training: read every image once, collect what is in it, and the kinds of findings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from reslab.data.boxes import BoxImageDataset
from reslab.data.check.duplicates import (
    DuplicateGroup,
    ImageInfo,
    find_exact_duplicates,
    find_near_duplicates,
    inspect_images,
)
from reslab.data.check.statistics import (
    BoxStatistics,
    LabelStatistics,
    MaskStatistics,
    class_counts,
    count_boxes,
    count_mask_pixels,
    label_statistics,
    label_texts,
)
from reslab.data.dataset import DatasetListing, DatasetSplits
from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.mask_classes import MaskValuesLike
from reslab.data.formats.mask_files import default_mask_transform
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.registry import list_dataset
from reslab.data.splits import default_eval_transform
from reslab.data.target_datasets import MaskImageDataset
from reslab.spec.errors import invalid

UNLABELED = "(unlabeled)"
NO_OBJECT = "(no object)"


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """A checked image: its split, its label as text (or UNLABELED), and its index in its dataset.

    The label of an image with a mask or boxes names the classes that it shows; `target_error` says why these cannot be
    used.
    """

    split: str
    label: str
    dataset: ImageDataset
    index: int
    info: ImageInfo
    target_error: str = ""

    @property
    def name(self) -> str:
        """The file's name; for an image without a file its split and index (`train/#12`)."""
        return f"{self.split}/{self.info.name}" if self.info.name.startswith("#") else self.info.name


@dataclass(frozen=True, eq=False)
class DataCheck:
    """The result of a check: every image of the listing, and the groups of identical or nearly identical images.

    `counts[split][class]` counts the labeled images, readable or not; a split whose labels are not classes has none.
    Groups hold indices into `images`. `masks` has the pixels of each split whose images have masks, `boxes` the boxes
    of each split whose images have boxes; `counts` then has the images that show a class.
    """

    listing: DatasetListing
    images: tuple[CheckedImage, ...]
    counts: Mapping[str, Mapping[str, int]]
    duplicates: tuple[DuplicateGroup, ...]
    labels: LabelStatistics
    masks: Mapping[str, MaskStatistics] = field(default_factory=dict)
    boxes: Mapping[str, BoxStatistics] = field(default_factory=dict)

    @property
    def num_images(self) -> dict[str, int]:
        """The number of labeled images of each split, readable or not."""
        return {split: len(dataset) for split, dataset in self.listing.splits.items()}

    @property
    def unreadable(self) -> tuple[CheckedImage, ...]:
        """The images whose files exist and cannot be decoded."""
        return tuple(image for image in self.images if image.info.error and not image.info.is_missing)

    @property
    def missing(self) -> tuple[CheckedImage, ...]:
        """The listed images whose files do not exist."""
        return tuple(image for image in self.images if image.info.is_missing)

    @property
    def readable(self) -> tuple[CheckedImage, ...]:
        """The images that can be decoded."""
        return tuple(image for image in self.images if not image.info.error)

    @property
    def with_warning(self) -> tuple[CheckedImage, ...]:
        """The damaged JPEG files that decode with a warning."""
        return tuple(image for image in self.images if image.info.warning)

    @property
    def cross_split(self) -> tuple[DuplicateGroup, ...]:
        """The groups of duplicates across splits: train/test leakage."""
        return tuple(
            group for group in self.duplicates if len({self.images[index].split for index in group.indices}) > 1
        )

    @property
    def label_conflicts(self) -> tuple[DuplicateGroup, ...]:
        """The groups of identical images with more than one label."""
        return tuple(group for group in self.duplicates if group.is_exact and len(self._labels(group)) > 1)

    def _labels(self, group: DuplicateGroup) -> set[str]:
        return {self.images[index].label for index in group.indices} - {UNLABELED}

    @property
    def imbalance(self) -> float:
        """The largest training class divided by the smallest; infinite if one is empty, 1 without training images."""
        class_counts = list(self.counts.get("train", {}).values())
        if not class_counts:
            return 1.0
        return max(class_counts) / min(class_counts) if min(class_counts) else float("inf")

    @property
    def eval_transform(self) -> str:
        """The evaluation transform that training would choose for these image sizes."""
        sizes = [(image.info.height, image.info.width) for image in self.readable]
        if self.boxes:
            return ""
        return default_mask_transform(sizes) if self.masks else default_eval_transform(sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        return {
            "name": self.listing.name,
            "location": self.listing.location,
            "task": self.listing.task,
            "classes": list(self.listing.classes),
            "num_images": len(self.images),
            "splits": {split: self._split_to_dict(split) for split in self.listing.splits},
            "class_pairs": [
                {"classes": [pair.first, pair.second], "num_images": pair.num_both} for pair in self.labels.pairs
            ],
            "unlabeled": {split: len(dataset) for split, dataset in self.listing.unlabeled.items()},
            "missing": [image.name for image in self.missing],
            "unreadable": [{"path": image.name, "error": image.info.error} for image in self.unreadable],
            "decode_warnings": [{"path": image.name, "warning": image.info.warning} for image in self.with_warning],
            "duplicates": [self._names(group) for group in self.duplicates if group.is_exact],
            "near_duplicates": [
                {"paths": self._names(group), "max_distance": group.max_distance}
                for group in self.duplicates
                if not group.is_exact
            ],
            "cross_split_duplicates": [
                {"paths": self._names(group), "exact": group.is_exact} for group in self.cross_split
            ],
            "label_conflicts": [self._names(group) for group in self.label_conflicts],
            "sizes": size_statistics([image.info for image in self.readable]),
            "channels": {
                str(num_channels): num_images
                for num_channels, num_images in sorted(Counter(image.info.channels for image in self.readable).items())
            },
            "num_exif_rotated": sum(image.info.exif_rotated for image in self.readable),
            "blank": [image.name for image in self.readable if image.info.is_blank],
            "imbalance": self.imbalance,
            "layout_error": self.listing.layout_error,
            "masks": {split: self._mask_dict(split) for split in self.masks},
            "boxes": {split: self._box_dict(split) for split in self.boxes},
            "ignored": {
                "other_files": len(self.listing.ignored.other_files),
                "repeated": len(self.listing.ignored.repeated),
                "folders": [path.name for path in self.listing.ignored.folders],
                "system_folders": sorted({path.name for path in self.listing.ignored.system_folders}),
            },
        }

    def _mask_dict(self, split: str) -> dict[str, Any]:
        statistics = self.masks[split]
        images = [image for image in self.images if image.split == split]
        pixels = zip(self.listing.classes, statistics.pixels_per_class.tolist(), strict=True)
        return {
            "pixels_per_class": dict(pixels),
            "void_share": statistics.void_share,
            "all_void": [images[i].name for i in statistics.all_void],
            "without_object": [images[i].name for i in statistics.without_object],
            "errors": [{"path": image.name, "error": image.target_error} for image in images if image.target_error],
        }

    def _box_dict(self, split: str) -> dict[str, Any]:
        statistics = self.boxes[split]
        images = [image for image in self.images if image.split == split]
        per_class = zip(self.listing.classes, statistics.objects_per_class.tolist(), strict=True)
        return {
            "num_boxes": statistics.num_objects,
            "per_class": dict(per_class),
            "sizes": dict(statistics.sizes),
            "median_side": statistics.median_side,
            "crowds": statistics.num_crowds,
            "difficult": statistics.num_difficult,
            "tiny": len(statistics.tiny),
            "elongated": len(statistics.elongated),
            "repeated": len(statistics.repeated),
            "without_object": [images[i].name for i in statistics.without_object],
            "issues": [
                {"path": issue.image, "location": issue.location, "kind": issue.kind, "error": issue.text}
                for issue in statistics.issues
            ],
            "errors": [{"path": image.name, "error": image.target_error} for image in images if image.target_error],
        }

    def _split_to_dict(self, split: str) -> dict[str, Any]:
        values = {
            value.name: {
                "mean": value.mean,
                "std": value.std,
                "min": value.minimum,
                "max": value.maximum,
                "outliers": [self.listing.splits[split].name(i) for i in value.outliers],
            }
            for value in self.labels.values.get(split, ())
        }
        result: dict[str, Any] = {"num_images": self.num_images[split], "per_class": dict(self.counts[split])}
        if self.labels.num_without_class is not None:
            result["without_class"] = self.labels.num_without_class[split]
        return {**result, "values": values} if values else result

    def _names(self, group: DuplicateGroup) -> list[str]:
        return [self.images[index].name for index in group.indices]


def check_data(
    data: str | Path | DatasetSplits,
    data_dir: Path | None = None,
    columns: ColumnNames | None = None,
    task: str | None = None,
    mask_values: MaskValuesLike | None = None,
) -> DataCheck:
    """Check a named dataset, the data at a path, or an open dataset (`as_dataset` makes one of tensors).

    `columns`, `task` and `mask_values` are those of `open_dataset`. Raises ValueError only if there is nothing to read,
    or a label in a CSV file or in shards is invalid; `listing.layout_error` has the error that training would raise.
    """
    if isinstance(data, DatasetSplits):
        listing = DatasetListing(
            data.name, data.location, data.classes, data.splits, messages=data.messages, task=data.task
        )
    else:
        listing = list_dataset(data, data_dir, columns, task, mask_values)
    checked: list[CheckedImage] = []
    masks: dict[str, MaskStatistics] = {}
    boxes: dict[str, BoxStatistics] = {}
    for split, dataset in listing.splits.items():
        if isinstance(dataset, MaskImageDataset):
            masks[split] = count_mask_pixels(dataset, len(listing.classes))
            checked += _check_masks(split, dataset, masks[split], listing.classes)
            continue
        if isinstance(dataset, BoxImageDataset):
            boxes[split] = count_boxes(dataset, len(listing.classes))
            checked += _check_boxes(split, dataset, boxes[split], listing.classes)
            continue
        checked += _check_split(split, dataset, label_texts(dataset, listing.classes))
    for split, unlabeled in listing.unlabeled.items():
        checked += _check_split(split, unlabeled, [UNLABELED] * len(unlabeled))
    infos = [image.info for image in checked]
    duplicates = (*find_exact_duplicates(infos), *find_near_duplicates(infos))
    images_per_class = {
        **{split: statistics.images_per_class.tolist() for split, statistics in masks.items()},
        **{split: statistics.images_per_class.tolist() for split, statistics in boxes.items()},
    }
    counts = class_counts(listing) | {
        split: dict(zip(listing.classes, numbers, strict=True)) for split, numbers in images_per_class.items()
    }
    return DataCheck(listing, tuple(checked), counts, duplicates, label_statistics(listing), masks, boxes)


def _check_split(split: str, dataset: ImageDataset | FileImageDataset, labels: list[str]) -> list[CheckedImage]:
    indexed_infos = enumerate(zip(inspect_images(dataset), labels, strict=True))
    return [CheckedImage(split, label, dataset, index, info) for index, (info, label) in indexed_infos]


def _check_masks(
    split: str, dataset: MaskImageDataset, statistics: MaskStatistics, classes: Sequence[str]
) -> list[CheckedImage]:
    checked = []
    for i, info in enumerate(inspect_images(dataset.images)):
        error, size = statistics.errors.get(i, ""), (info.height, info.width)
        if not error and not info.error and statistics.sizes[i] != size:
            sizes = ["{}x{}".format(*pair) for pair in (size, statistics.sizes[i])]
            error = str(invalid(f"a mask of the size of its image, {sizes[0]}", sizes[1]))
        shown = statistics.pixels[i].nonzero().flatten().tolist()
        label = ", ".join(classes[label] for label in shown) or UNLABELED
        checked.append(CheckedImage(split, label, dataset, i, info, error))
    return checked


def _check_boxes(
    split: str, dataset: BoxImageDataset, statistics: BoxStatistics, classes: Sequence[str]
) -> list[CheckedImage]:
    checked = []
    for i, info in enumerate(inspect_images(dataset.images)):
        label = ", ".join(statistics.classes_of(i, classes)) or NO_OBJECT
        error = "" if info.error else dataset.errors.get(i, "")
        checked.append(CheckedImage(split, label, dataset, i, info, error))
    return checked


def size_statistics(infos: list[ImageInfo]) -> dict[str, Any]:
    """Return minimum, median and maximum of height and width in pixels, the number of sizes and the most common one."""
    if not infos:
        return {}
    heights, widths = [info.height for info in infos], [info.width for info in infos]
    most_common, num_images = Counter(zip(heights, widths, strict=True)).most_common(1)[0]
    return {
        "height": {"min": min(heights), "median": int(median(heights)), "max": max(heights)},
        "width": {"min": min(widths), "median": int(median(widths)), "max": max(widths)},
        "num_sizes": len(set(zip(heights, widths, strict=True))),
        "most_common": {"height": most_common[0], "width": most_common[1], "num_images": num_images},
    }


class Severity(StrEnum):
    """The severity of a finding, the most serious first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class FindingKind(StrEnum):
    """The subject of a finding."""

    UNLABELED = "unlabeled"
    LAYOUT = "layout"
    IGNORED_FILES = "ignored-files"
    SYSTEM_FOLDERS = "system-folders"
    TASK = "task"
    LABELS = "labels"
    SIMILAR_CLASSES = "similar-classes"
    FLOAT_RANGE = "float-range"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    DECODE_WARNINGS = "decode-warnings"
    CROSS_SPLIT_DUPLICATES = "cross-split-duplicates"
    CROSS_SPLIT_NEAR_DUPLICATES = "cross-split-near-duplicates"
    LABEL_CONFLICTS = "label-conflicts"
    DUPLICATES = "duplicates"
    NEAR_DUPLICATES = "near-duplicates"
    MASKS = "masks"
    VOID_MASKS = "void-masks"
    WITHOUT_OBJECT = "without-object"
    VOID_SHARE = "void-share"
    RARE_PIXELS = "rare-pixels"
    BOXES = "boxes"
    CLIPPED_BOXES = "clipped-boxes"
    EMPTY_BOXES = "empty-boxes"
    REPEATED_BOXES = "repeated-boxes"
    SMALL_BOXES = "small-boxes"
    TINY_BOXES = "tiny-boxes"
    ELONGATED_BOXES = "elongated-boxes"
    IMBALANCE = "imbalance"
    SMALL_CLASSES = "small-classes"
    ALWAYS_SHOWN = "always-shown"
    NEVER_APART = "never-apart"
    NO_CLASS = "no-class"
    CONSTANT_VALUES = "constant-values"
    OUTLIERS = "outliers"
    VALUE_RANGE = "value-range"
    BLANK = "blank"
    CHANNELS = "channels"
    EXIF_ROTATED = "exif-rotated"
    SMALL_IMAGES = "small-images"
    ELONGATED = "elongated"


@dataclass(frozen=True)
class Finding:
    """One result of a check: programs read `severity` and `kind`, people read `text`."""

    severity: Severity
    kind: FindingKind
    text: str


def count_images(num_images: int) -> str:
    """Return `1 image is` or `5 images are`."""
    return "1 image is" if num_images == 1 else f"{num_images:,} images are"


def join_names(images: Sequence[CheckedImage]) -> str:
    """Return the names of the first images."""
    return shorten_list([image.name for image in images])


def shorten_list(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
