"""Image files with boxes as a dataset for object detection, whatever the format of the annotations.

Masks that number the objects of an image (Penn-Fudan) give the smallest box around each number.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.data.boxes import AnnotatedBoxDataset, BoxImageDataset, BoxIssue, ObjectRow
from reslab.data.cache import ScannedFile, scan_files, scan_images
from reslab.data.dataset import DatasetListing, DatasetSplits
from reslab.data.formats.box_csv import read_box_csv
from reslab.data.formats.box_listing import (
    AnnotatedImage,
    AnnotatedObject,
    BoxListing,
    check_in_pixels,
    check_listed_once,
    coverage_messages,
    fit_objects,
    image_error,
    issue_messages,
    table_of,
)
from reslab.data.formats.coco_boxes import read_coco, read_coco_file
from reslab.data.formats.csv_table import ColumnNames
from reslab.data.formats.file_listing import relative_name
from reslab.data.formats.mask_classes import MaskMapping, parse_mask_values, record_mask_values
from reslab.data.formats.mask_pairs import check_paired, find_layout, list_mask_pairs
from reslab.data.formats.voc_boxes import read_voc
from reslab.data.formats.yolo_boxes import read_yolo
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.masks import MaskValues, read_stored_mask
from reslab.data.segments import InstanceNumber
from reslab.data.splits import SplitOptions, apply_split, collect_skipped
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

_OBJECT = "object"


def read_instances(root: Path, mask_values: MaskValues | MaskMapping | None = None) -> BoxListing:
    """Return the images of a folder with the boxes of the numbers from 1 in their masks.

    The class is that of the layout (`person` for Penn-Fudan), else `object`. Raises ValueError unless the masks number
    objects: `mask_values` says so where their folder does not.
    """
    layout = find_layout(root)
    assert layout is not None, root
    if (mask_values or layout.values) is not MaskValues.INSTANCES:
        required = f"boxes, or masks that number objects, in {root}"
        next_step = 'if the masks number the objects of an image, say so: mask_values="instances"'
        raise invalid(required, "masks of the class of each pixel", "--task segmentation", next_step)
    pairs = list_mask_pairs(root, layout)
    check_paired(pairs)
    category = layout.classes[-1] if layout.classes else _OBJECT
    paths = [mask for _, mask in pairs.all_pairs]
    rows = scan_files("instance-boxes", root, root, paths, _scan_instances)
    splits = {
        split: [_to_image(image, mask, rows[relative_name(root, mask)][1:], category) for image, mask in part]
        for split, part in pairs.splits.items()
    }
    return BoxListing(root, splits, (category,), messages=pairs.messages)


def _to_image(image: Path, mask: Path, row: Sequence[Any], category: str) -> AnnotatedImage:
    height, width, error, instances = row
    objects = tuple(
        AnnotatedObject(tuple(box), category, f"number {number}", area=area, segment=InstanceNumber(mask, number))
        for number, box, area in instances
    )
    return AnnotatedImage(image, objects, mask, size=None if error else (height, width), error=error)


def _scan_instances(path: Path) -> list[Any]:
    """Return height, width, why the mask cannot be read, and of each number the box and the number of pixels."""
    try:
        values = read_stored_mask(path, check_complete=True).values
    except ValueError as error:
        return [0, 0, str(error).removeprefix(f"{path}: "), []]
    if values.ndim != 2:
        return [*values.shape[:2], str(invalid("a mask of numbers", "colors")), []]
    numbers = np.unique(values[values > 0]).tolist()
    return [*values.shape, "", [[number, *instance_box(values == number)] for number in numbers]]


def instance_box(mask: np.ndarray) -> tuple[list[int], int]:
    """Return the smallest box (x1, y1, x2, y2) around the pixels of a mask (H, W) bool, and their number."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
    return box, int(np.count_nonzero(mask))


TASK = "detection"
TRAIN_TRANSFORM = "flip"
"""The training transform of torchvision's reference training of detectors."""
_PREPROCESS = Preprocess(3, "", (0.0,) * 3, (1.0,) * 3)
"""Pixels from 0 to 1 at their own size: detectors resize and normalize images themselves."""


@dataclass(frozen=True)
class _FittedImage:
    """An image with its name, size, usable objects and issues, and why it cannot be used."""

    image: AnnotatedImage
    name: str
    size: tuple[int, int]
    rows: list[ObjectRow]
    issues: list[BoxIssue]
    error: str


def open_boxes(location: Path, listing: BoxListing, options: SplitOptions, message: str) -> DatasetSplits:
    """Open images with boxes; `message` says why the task is detection.

    Raises ValueError for images listed twice, boxes that are not in pixels and classes that cannot be used, and unless
    these may be skipped, for images and annotations that cannot be read, sizes that differ, and boxes that are not
    inside their image.
    """
    if not listing.splits.get("train"):
        raise invalid(f"training images with boxes in {location}", f"only {', '.join(listing.splits) or 'none'}")
    check_listed_once(listing)
    check_in_pixels(listing)
    classes = tuple((options.record or {}).get("classes", ())) or listing.find_classes()
    scanned = scan_images(location, listing.root, [image.path for image in listing.all_images])
    fitted = {split: _fit_images(listing.root, images, scanned, classes) for split, images in listing.splits.items()}
    all_fitted = [one for images in fitted.values() for one in images]
    bad = {one.name: one.error for one in all_fitted if one.error}
    missing = [one.name for one in all_fitted if scanned[one.name].num_bytes < 0]
    skipped = collect_skipped(listing.root, bad, options, missing)
    if not classes:
        raise invalid(f"boxes in {location}", "none", next_step="check that the annotations belong to the images")
    names = {name for name, _ in skipped}
    kept = {split: [one for one in images if one.name not in names] for split, images in fitted.items()}
    datasets = {split: _to_dataset(listing, images) for split, images in kept.items()}
    coverage = coverage_messages(
        {split: dataset.table for split, dataset in datasets.items()}, classes, listing.classes is not None
    )
    splits, record = apply_split(location, datasets, classes, options)
    record = {**record, "classes": list(classes)}
    if skipped:
        record["skipped_files"] = [list(pair) for pair in skipped]
    issues = [issue for images in kept.values() for one in images for issue in one.issues]
    return DatasetSplits(
        name=_name(location),
        source=f"images with boxes in {location}",
        classes=classes,
        preprocess=_PREPROCESS,
        splits=splits,
        split_record=record,
        skipped_files=skipped,
        decode_warnings=tuple((name, file.warning) for name, file in scanned.items() if file.warning),
        location=str(location),
        messages=(message, *listing.messages, *coverage, *issue_messages(issues)),
        task=TASK,
    )


def list_boxes(location: Path, read: Callable[[], BoxListing]) -> DatasetListing:
    """Return the images of a listing with their usable boxes, also if training would refuse them.

    The error of reading it is the `layout_error`; boxes that cannot be used are the `issues` of the datasets.
    """
    layout_error, splits = "", {}
    classes: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    try:
        listing = read()
        classes, messages = listing.find_classes(), listing.messages
        scanned = scan_images(location, listing.root, [image.path for image in listing.all_images])
        fitted = {
            split: _fit_images(listing.root, images, scanned, classes) for split, images in listing.splits.items()
        }
        datasets = {split: _to_dataset(listing, images) for split, images in fitted.items()}
        splits = dict[str, ImageDataset](datasets)
        check_listed_once(listing)
        check_in_pixels(listing)
        if "train" in datasets:
            tables = {split: dataset.table for split, dataset in datasets.items()}
            messages += coverage_messages(tables, classes, listing.classes is not None)
    except ValueError as error:
        layout_error = str(error)
    name = _name(location)
    return DatasetListing(name, str(location), classes, splits, layout_error=layout_error, messages=messages, task=TASK)


def open_coco_file(path: Path) -> DatasetSplits:
    """Open one file of COCO's annotations to evaluate results: the files of its images need not be there.

    Raises ValueError as `read_coco_file` does, and for annotations that cannot be used.
    """
    path = path.resolve()
    listing = read_coco_file(path)
    check_in_pixels(listing)
    ((split, images),) = listing.splits.items()
    classes = listing.find_classes()
    fitted = [_fit_stated(listing.root, image, classes) for image in images]
    collect_skipped(listing.root, {one.name: one.error for one in fitted if one.error}, SplitOptions(), ())
    dataset = _to_dataset(listing, fitted)
    fields = {one.name: getattr(dataset, one.name) for one in dataclasses.fields(dataset)}
    return DatasetSplits(
        name=path.stem,
        source=f"annotations in {path}",
        classes=classes,
        preprocess=_PREPROCESS,
        splits={split: AnnotatedBoxDataset(**fields)},
        location=str(path),
        messages=issue_messages(dataset.issues),
        task=TASK,
    )


def _fit_stated(root: Path, image: AnnotatedImage, classes: Sequence[str]) -> _FittedImage:
    """Return an image with the size that its annotations state."""
    assert image.size is not None, image.path
    name = relative_name(root, image.path)
    rows, issues = fit_objects(image, name, image.size, classes)
    return _FittedImage(image, name, image.size, rows, issues, image_error(image, image.size, issues))


def _fit_images(
    root: Path, images: Sequence[AnnotatedImage], scanned: Mapping[str, ScannedFile], classes: Sequence[str]
) -> list[_FittedImage]:
    return [_fit_image(image, relative_name(root, image.path), scanned, classes) for image in images]


def _fit_image(
    image: AnnotatedImage, name: str, scanned: Mapping[str, ScannedFile], classes: Sequence[str]
) -> _FittedImage:
    file = scanned[name]
    size = (file.height, file.width)
    if file.error:
        error = f"no such file, listed in {image.source.name}" if file.num_bytes < 0 else file.error
        return _FittedImage(image, name, image.size or size, [], [], error)
    rows, issues = fit_objects(image, name, size, classes)
    return _FittedImage(image, name, size, rows, issues, image_error(image, size, issues))


def _to_dataset(listing: BoxListing, fitted: Sequence[_FittedImage]) -> BoxImageDataset:
    labels = torch.zeros(len(fitted), dtype=torch.int64)
    images = FileImageDataset(tuple(one.image.path for one in fitted), labels, 3, listing.root)
    table = table_of(
        [one.image for one in fitted],
        [one.name for one in fitted],
        [one.size for one in fitted],
        [one.rows for one in fitted],
    )
    issues = tuple(issue for one in fitted for issue in one.issues)
    errors = {i: one.error for i, one in enumerate(fitted) if one.error}
    return BoxImageDataset(images, table, issues=issues, errors=errors, category_ids=listing.category_ids)


def _name(location: Path) -> str:
    return location.stem if location.is_file() else location.name


Reader = Callable[[Path, SplitOptions], BoxListing]
"""Lists the annotated images at a path; of the options it may use `columns`, `mask_values` and `record`."""


@dataclass(frozen=True)
class BoxFormat:
    """A format of boxes: `read` lists the annotated images, `reason` says why the task is detection."""

    read: Reader
    reason: str

    def open_path(self, path: Path, options: SplitOptions) -> DatasetSplits:
        """Open the images at a path. Raises ValueError as `open_boxes` does."""
        path = path.resolve()
        data = open_boxes(path, self.read(path, options), options, f"{self.reason}: the task is {TASK}")
        stated = {
            "columns": options.columns and dict(options.columns),
            "mask_values": record_mask_values(options.mask_values),
        }
        record = {**data.split_record, **{name: value for name, value in stated.items() if value}}
        return replace(data, split_record=record)

    def list_path(
        self, path: Path, columns: ColumnNames | None = None, mask_values: MaskValues | MaskMapping | None = None
    ) -> DatasetListing:
        """List the images at a path with their boxes, also if training would refuse them."""
        path, options = path.resolve(), SplitOptions(columns=columns, mask_values=mask_values)
        return list_boxes(path, lambda: self.read(path, options))

    def list_images(self, path: Path) -> list[Path]:
        """Return the images at a path, for prediction."""
        return [image.path for image in self.read(path.resolve(), SplitOptions()).all_images]


COCO = BoxFormat(lambda path, _: read_coco(path), "the images have annotations in COCO's JSON")
VOC = BoxFormat(lambda path, _: read_voc(path), "the images have boxes in Annotations/")
YOLO = BoxFormat(lambda path, _: read_yolo(path), "the images have boxes in YOLO's text files")
BOX_CSV = BoxFormat(
    lambda path, options: read_box_csv(path, options.columns or (options.record or {}).get("columns")),
    "the file lists images with boxes",
)
INSTANCES = BoxFormat(
    lambda path, options: read_instances(
        path, options.mask_values or parse_mask_values((options.record or {}).get("mask_values"))
    ),
    "the masks number the objects of an image, each in a box",
)


def open_coco(path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images of a folder with the boxes of COCO's JSON."""
    return COCO.open_path(path, options)


def open_voc(path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images of a folder in the layout of PASCAL VOC with the boxes of its XML files."""
    return VOC.open_path(path, options)


def open_yolo(path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images that a data.yaml names with the boxes of YOLO's text files."""
    return YOLO.open_path(path, options)


def open_box_csv(path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images that a CSV file lists with their boxes."""
    return BOX_CSV.open_path(path, options)


def open_instances(path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images of a folder with the boxes of masks that number the objects of an image (Penn-Fudan)."""
    return INSTANCES.open_path(path, options)
