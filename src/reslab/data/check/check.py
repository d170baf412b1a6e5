"""`reslab data check`: every picture of a data set read once, and what a person should know before training on it.

What lies at a path, faults and all: the splits as far as they can be made out, and what is wrong with the layout.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from reslab.data.check.duplicates import (
    DuplicateGroup,
    ImageInfo,
    find_exact_duplicates,
    find_near_duplicates,
    inspect_images,
)
from reslab.data.formats.class_folders import (
    SPLIT_FOLDERS,
    LabeledFiles,
    check_folder,
    check_same_classes,
    find_image_files,
    find_split_folders,
    list_image_files,
    list_labeled_files,
    subfolders,
)
from reslab.data.formats.csv_table import list_csv
from reslab.data.image_datasets import FileImageDataset, ImageDataset, ShardImageDataset
from reslab.data.registry import DATASETS, open_dataset
from reslab.data.splits import default_eval_transform
from reslab.data.webdataset.dataset import find_shards, shard_classes
from reslab.data.webdataset.tar import index_shard
from reslab.spec.errors import unknown_name


@dataclass(frozen=True, eq=False)
class DatasetListing:
    """The pictures of a path by split; `loose` are those without a class, `fault` why training would refuse it."""

    name: str
    location: str
    classes: tuple[str, ...]
    splits: Mapping[str, ImageDataset]
    unlabeled: Mapping[str, FileImageDataset]
    layout_error: str = ""


def list_dataset(name_or_path: str | Path, data_dir: Path | None = None) -> DatasetListing:
    """The pictures of a named data set, a folder, a CSV file or shards, without looking at any.

    Raises ValueError where there is nothing there, or a CSV file or a shard cannot be read as one.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text.lower() in DATASETS:
        data = open_dataset(text, data_dir)
        return DatasetListing(data.name, data.location, data.classes, data.splits, {})
    path = Path(text).expanduser()
    if not path.exists() and "/" not in text:
        raise unknown_name("data set, folder or file", text, DATASETS, "`reslab data check PATH` takes a path")
    path = path.resolve()
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return _list_table(path)
    return _list_shards(path) if find_shards(path) else _list_folder(path)


def _list_table(path: Path) -> DatasetListing:
    files_by_split = list_csv(path)
    return DatasetListing(
        path.stem, str(path), files_by_split["train"].classes, _file_datasets(files_by_split, path.parent), {}
    )


def _list_shards(path: Path) -> DatasetListing:
    root = path.parent if path.is_file() else path
    samples_by_split = {
        split: [sample for shard in shards for sample in index_shard(shard)]
        for split, shards in find_shards(path).items()
    }
    classes = shard_classes(
        root, {split: [sample.label for sample in samples] for split, samples in samples_by_split.items()}
    )
    label_of = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, samples in samples_by_split.items():
        labels = [label_of[sample.label] if sample.label in label_of else int(sample.label) for sample in samples]
        locations = tuple(sample.location for sample in samples)
        splits[split] = ShardImageDataset(locations, torch.tensor(labels, dtype=torch.int64), 3, root)
    return DatasetListing(path.stem if path.is_file() else path.name, str(path), classes, splits, {})


def _list_folder(root: Path) -> DatasetListing:
    check_folder(root)
    folders = _existing_split_folders(root)
    paths_by_split = {
        split: {path.name: find_image_files(path) for path in subfolders(folder)} for split, folder in folders.items()
    }
    classes = tuple(sorted({name for files in paths_by_split.values() for name in files}))
    files_by_split = {}
    for split, files in paths_by_split.items():
        pairs = [(path, classes.index(name)) for name, class_paths in files.items() for path in class_paths]
        paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
        files_by_split[split] = LabeledFiles(folders[split], classes, paths, labels)
    unlabeled = {split: image_paths for split, folder in folders.items() if (image_paths := list_image_files(folder))}
    return DatasetListing(
        root.name,
        str(root),
        classes,
        {split: dataset for split, dataset in _file_datasets(files_by_split, root).items() if len(dataset)},
        {
            split: FileImageDataset(
                tuple(unlabeled_paths), torch.zeros(len(unlabeled_paths), dtype=torch.int64), 3, root
            )
            for split, unlabeled_paths in unlabeled.items()
        },
        _find_layout_error(
            lambda: check_same_classes(
                {split: list_labeled_files(folder) for split, folder in find_split_folders(root).items()}
            )
        ),
    )


def _existing_split_folders(root: Path) -> dict[str, Path]:
    """train/, val/ and test/ where train/ is there, in whatever state; else the folder itself."""
    candidates = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    existing = {split: folder for split, folder in candidates.items() if folder is not None}
    # A class may be called train: its pictures then lie in it directly, and its neighbours are no splits.
    other_names = {path.name for path in subfolders(root)} - {folder.name for folder in existing.values()}
    if "train" not in existing or (other_names and not subfolders(existing["train"])):
        return {"train": root}
    return existing


def _find_layout_error(list_strictly: Callable[[], object]) -> str:
    try:
        list_strictly()
    except ValueError as error:
        return str(error)
    return ""


def _file_datasets(files_by_split: Mapping[str, LabeledFiles], root: Path) -> dict[str, ImageDataset]:
    return {
        split: FileImageDataset(files.paths, torch.tensor(files.labels, dtype=torch.int64), 3, root)
        for split, files in files_by_split.items()
    }


UNLABELED = "(unlabeled)"


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """A picture that was looked at: its split, its class (NO_CLASS where it lies loose), its place in its images."""

    split: str
    label: str
    dataset: ImageDataset
    index: int
    info: ImageInfo

    @property
    def name(self) -> str:
        """The file's name; a number alone (`#12`) says its split too."""
        return f"{self.split}/{self.info.name}" if self.info.name.startswith("#") else self.info.name


@dataclass(frozen=True, eq=False)
class DataCheck:
    """What a check found. `counts[split][class]` are the pictures with a class, readable or not; `seen` all pictures.

    `twins` group places in `seen`: the same pixels (`exact`) or nearly the same look.
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
    def cross_split(self) -> tuple[DuplicateGroup, ...]:
        """The twins that stand in more than one split."""
        return tuple(
            group for group in self.duplicates if len({self.images[index].split for index in group.indices}) > 1
        )

    @property
    def label_conflicts(self) -> tuple[DuplicateGroup, ...]:
        """The same pixels under more than one class."""
        return tuple(group for group in self.duplicates if group.is_exact and len(self._labels(group)) > 1)

    def _labels(self, group: DuplicateGroup) -> set[str]:
        return {self.images[index].label for index in group.indices} - {UNLABELED}

    @property
    def imbalance(self) -> float:
        """The largest class of train by the smallest; infinite where a class has none, 1 where there is no train."""
        class_counts = list(self.counts.get("train", {}).values())
        if not class_counts:
            return 1.0
        return max(class_counts) / min(class_counts) if min(class_counts) else float("inf")

    @property
    def eval_transform(self) -> str:
        """The evaluation's words, as they follow from the sizes."""
        return default_eval_transform((image.info.height, image.info.width) for image in self.readable)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
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
        }

    def _names(self, group: DuplicateGroup) -> list[str]:
        return [self.images[index].name for index in group.indices]


def check_data(name_or_path: str | Path, data_dir: Path | None = None) -> DataCheck:
    """Read everything at a path (or of a named data set) once, faults and all.

    Raises ValueError only where there is nothing to read; what training would refuse is `inventory.fault`.
    """
    listing = list_dataset(name_or_path, data_dir)
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
    """Smallest, median and largest height and width in pixels, how many different sizes, and the commonest."""
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
