"""Check a dataset before training: read every image once and collect what is in it and what is wrong with it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from reslab.data.check.duplicates import (
    DuplicateGroup,
    ImageInfo,
    find_exact_duplicates,
    find_near_duplicates,
    inspect_images,
)
from reslab.data.dataset import DatasetListing, DatasetSplits
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.registry import list_dataset
from reslab.data.splits import default_eval_transform

UNLABELED = "(unlabeled)"


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """A checked image: its split, its class name (or UNLABELED), and its index in its dataset."""

    split: str
    label: str
    dataset: ImageDataset
    index: int
    info: ImageInfo

    @property
    def name(self) -> str:
        """The file's name; for an image without a file its split and index (`train/#12`)."""
        return f"{self.split}/{self.info.name}" if self.info.name.startswith("#") else self.info.name


@dataclass(frozen=True, eq=False)
class DataCheck:
    """The result of a check: every image of the listing, and the groups of identical or nearly identical images.

    `counts[split][class]` counts the labeled images, readable or not; groups hold indices into `images`.
    """

    listing: DatasetListing
    images: tuple[CheckedImage, ...]
    counts: Mapping[str, Mapping[str, int]]
    duplicates: tuple[DuplicateGroup, ...]

    @property
    def unreadable(self) -> tuple[CheckedImage, ...]:
        return tuple(image for image in self.images if image.info.error)

    @property
    def readable(self) -> tuple[CheckedImage, ...]:
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
        return default_eval_transform((image.info.height, image.info.width) for image in self.readable)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        return {
            "name": self.listing.name,
            "location": self.listing.location,
            "classes": list(self.listing.classes),
            "num_images": len(self.images),
            "splits": {
                split: {"num_images": sum(counts.values()), "per_class": dict(counts)}
                for split, counts in self.counts.items()
            },
            "unlabeled": {split: len(dataset) for split, dataset in self.listing.unlabeled.items()},
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
            "ignored": {
                "other_files": len(self.listing.ignored.other_files),
                "repeated": len(self.listing.ignored.repeated),
                "folders": [path.name for path in self.listing.ignored.folders],
                "system_folders": sorted({path.name for path in self.listing.ignored.system_folders}),
            },
        }

    def _names(self, group: DuplicateGroup) -> list[str]:
        return [self.images[index].name for index in group.indices]


def check_data(
    data: str | Path | DatasetSplits, data_dir: Path | None = None, columns: Mapping[str, str] | None = None
) -> DataCheck:
    """Check a named dataset, the data at a path, or an open dataset (`as_dataset` makes one of tensors).

    Raises ValueError only if there is nothing to read; `listing.layout_error` has the error that training would raise.
    """
    if isinstance(data, DatasetSplits):
        listing = DatasetListing(data.name, data.location, data.classes, data.splits, messages=data.messages)
    else:
        listing = list_dataset(data, data_dir, columns)
    checked: list[CheckedImage] = []
    for split, dataset in listing.splits.items():
        labels = [listing.classes[label] for label in dataset.labels.tolist()]
        checked += _check_split(split, dataset, labels)
    for split, unlabeled in listing.unlabeled.items():
        checked += _check_split(split, unlabeled, [UNLABELED] * len(unlabeled))
    infos = [image.info for image in checked]
    duplicates = (*find_exact_duplicates(infos), *find_near_duplicates(infos))
    return DataCheck(listing, tuple(checked), _count_classes(listing), duplicates)


def _check_split(split: str, dataset: ImageDataset | FileImageDataset, labels: list[str]) -> list[CheckedImage]:
    indexed_infos = enumerate(zip(inspect_images(dataset), labels, strict=True))
    return [CheckedImage(split, label, dataset, index, info) for index, (info, label) in indexed_infos]


def _count_classes(listing: DatasetListing) -> dict[str, dict[str, int]]:
    return {
        split: {
            name: int(count)
            for name, count in zip(
                listing.classes, dataset.labels.bincount(minlength=len(listing.classes)).tolist(), strict=True
            )
        }
        for split, dataset in listing.splits.items()
    }


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
