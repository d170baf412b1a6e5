"""Open a dataset by name, by path or from objects in memory, and the table of formats that a path can have."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reslab.data.adapters import as_dataset
from reslab.data.dataset import DatasetListing, DatasetSplits
from reslab.data.dataset_names import dataset_path, unknown_dataset
from reslab.data.formats.box_csv import is_box_csv
from reslab.data.formats.box_files import (
    BOX_CSV,
    COCO,
    INSTANCES,
    VOC,
    YOLO,
    open_box_csv,
    open_coco,
    open_instances,
    open_voc,
    open_yolo,
)
from reslab.data.formats.coco_boxes import is_coco_folder
from reslab.data.formats.csv_table import ColumnNames, is_csv, list_csv_paths
from reslab.data.formats.image_files import (
    has_labels_file,
    label_images,
    list_csv_dataset,
    list_image_folder,
    list_labels_folder,
    open_csv,
    open_image_folder,
    open_labels_folder,
    open_listed_images,
)
from reslab.data.formats.mask_classes import MaskValuesLike, parse_mask_values
from reslab.data.formats.mask_files import (
    is_mask_csv,
    is_mask_folder,
    list_csv_images,
    list_images_with_masks,
    list_mask_csv,
    list_mask_folder,
    open_mask_csv,
    open_mask_folder,
)
from reslab.data.formats.voc_boxes import is_voc_folder
from reslab.data.formats.yolo_boxes import is_yolo
from reslab.data.image_datasets import ImageLocation
from reslab.data.named import DATASETS, open_named
from reslab.data.splits import SplitOptions
from reslab.data.webdataset.dataset import (
    has_shards,
    list_shards,
    list_unlabeled_images,
    open_shards,
    open_url_shards,
)
from reslab.data.webdataset.remote import is_url
from reslab.spec.errors import invalid
from reslab.spec.plugins import Table
from reslab.spec.task import DEFAULT_TASK, TargetKind, find_task


@dataclass(frozen=True)
class DataFormat:
    """A format of data at a path: how to recognize, open and list it.

    `open` returns the dataset for training and is strict; `list` returns its images with labels, also those that
    `open` would refuse, for `reslab data check`; `list_images` returns the images whatever their labels, for
    prediction. `list` takes the names of columns if the format `has_columns`, and the task if it has labels for
    several `tasks`, and what the numbers in masks are if it `has_masks`. All raise ValueError if the data cannot be
    read.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, SplitOptions], DatasetSplits]
    list: Callable[..., DatasetListing]
    list_images: Callable[[Path], Sequence[Path | ImageLocation]]
    has_columns: bool = False
    tasks: tuple[str, ...] = (DEFAULT_TASK,)
    has_masks: bool = False


_LABEL_TASKS = (DEFAULT_TASK, "multi-label", "regression")
_BOX_TASKS = ("detection",)
_FORMATS = (
    DataFormat(
        "masks-csv",
        is_mask_csv,
        open_mask_csv,
        list_mask_csv,
        list_csv_images,
        has_columns=True,
        tasks=("segmentation",),
        has_masks=True,
    ),
    DataFormat(
        "boxes-csv",
        is_box_csv,
        open_box_csv,
        BOX_CSV.list_path,
        BOX_CSV.list_images,
        has_columns=True,
        tasks=_BOX_TASKS,
    ),
    DataFormat("csv", is_csv, open_csv, list_csv_dataset, list_csv_paths, has_columns=True, tasks=_LABEL_TASKS),
    DataFormat(
        "masks",
        is_mask_folder,
        open_mask_folder,
        list_mask_folder,
        list_images_with_masks,
        tasks=("segmentation",),
        has_masks=True,
    ),
    DataFormat("coco", is_coco_folder, open_coco, COCO.list_path, COCO.list_images, tasks=_BOX_TASKS),
    DataFormat("voc", is_voc_folder, open_voc, VOC.list_path, VOC.list_images, tasks=_BOX_TASKS),
    DataFormat("yolo", is_yolo, open_yolo, YOLO.list_path, YOLO.list_images, tasks=_BOX_TASKS),
    DataFormat(
        "instances",
        is_mask_folder,
        open_instances,
        INSTANCES.list_path,
        list_images_with_masks,
        tasks=_BOX_TASKS,
        has_masks=True,
    ),
    DataFormat("webdataset", has_shards, open_shards, list_shards, list_unlabeled_images, tasks=_LABEL_TASKS),
    DataFormat(
        "labels-file",
        has_labels_file,
        open_labels_folder,
        list_labels_folder,
        list_unlabeled_images,
        has_columns=True,
        tasks=_LABEL_TASKS,
    ),
    DataFormat("image-folder", Path.is_dir, open_image_folder, list_image_folder, list_unlabeled_images),
)
FORMATS: Table[DataFormat] = Table("dataset format", {data_format.name: data_format for data_format in _FORMATS})
"""The formats: registered ones are tried first, then these in order (a folder with tar files is one of shards)."""

ImageReader = Callable[[Path], Mapping[str, Sequence[tuple[Path | str, str]]]]


def register_format(name: str, *, matches: Callable[[Path], bool]) -> Callable[[ImageReader], ImageReader]:
    """Return a decorator that registers a dataset format: paths for which `matches` is true are read by the function.

    The function takes the path and returns the images by split (`train`, and `val` or `test` if there are any), each a
    list of pairs of a file, relative to the path's folder, and the name of its class. Raises ValueError for a name that
    is taken.
    """

    def register(read: ImageReader) -> ImageReader:
        def open_path(path: Path, options: SplitOptions) -> DatasetSplits:
            return open_listed_images(path, read(path), options)

        def list_path(path: Path) -> DatasetListing:
            files = label_images(path, read(path))
            splits = {split: labeled.to_dataset(labeled.folder) for split, labeled in files.items()}
            return DatasetListing(path.stem, str(path), files["train"].classes, splits)

        def list_images(path: Path) -> list[Path]:
            return [file for labeled in label_images(path, read(path)).values() for file in labeled.paths]

        FORMATS.register(name, DataFormat(name, matches, open_path, list_path, list_images), read)
        return read

    return register


def suits_task(task: str, others: Sequence[str]) -> bool:
    """Return True if a task has targets of the same form as one of the others, as a task of a user's may have."""
    return find_task(task).target in {find_task(other).target for other in others}


def find_format(path: Path, task: str | None = None) -> DataFormat | None:
    """Return the format of the data at a path; None if it is of no format, such as a single image.

    A format with targets for the task is preferred: a folder of images and masks may be one of class folders, too.
    """
    formats = sorted(FORMATS.values(), key=lambda data_format: data_format.name not in FORMATS.plugin_of)
    suited = [data_format for data_format in formats if task is None or suits_task(task, data_format.tasks)]
    others = [data_format for data_format in formats if data_format not in suited]
    return next((data_format for data_format in (*suited, *others) if data_format.matches(path)), None)


def open_dataset(
    data: Any,
    data_dir: str | Path | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
    columns: ColumnNames | None = None,
    is_default_fraction: bool = False,
    task: str | None = None,
    mask_values: MaskValuesLike | None = None,
    dims: int = 2,
) -> DatasetSplits:
    """Open a named dataset (`DATASETS`), a folder, a CSV file, or WebDataset shards by path or URL.

    A folder has class folders, or images and a file of their labels (`LABEL_FILES`), their masks or their boxes.
    A name takes precedence over a folder of that name; `./name` opens the folder. A named dataset is searched for in
    `data_dir`, the cache and the system's folders. Tensors (images, labels), a map-style dataset and `DatasetSplits`
    are taken as by `as_dataset`; `dims` is 1 for tensors of signals, 3 for volumes. `val_fraction` holds out a
    stratified part of the training images for validation (default 0.2 for a path with training images only, else none).
    `split_record`, of an earlier opening, makes the same splits again. `columns` names the columns of a CSV file, by
    the keys "image", "label" and "split", where they are not called as usual (`USUAL_COLUMNS`); of labels there may be
    several, a list or names separated by commas. A `val_fraction` that is a default (`is_default_fraction`) gives way
    to a validation split of the data's own, and to rare classes. `task` says what the labels are for; without it the
    record or, where they leave no doubt, the labels decide. `mask_values` says what the values in masks are:
    `"instances"`, the numbers of the objects of an image, which are all of one class (without it only in the layout of
    Penn-Fudan), or the class of each value, `{0: "background", 128: "cell", 255: "void"}` or
    `"0=background,128=cell,255=void"`.
    Raises ValueError if there is no such dataset, its layout is wrong, it has no labels for the task, or images cannot
    be read.
    """
    if not isinstance(data, str | os.PathLike):
        _check_no_file_options(data, columns, mask_values)
        return as_dataset(
            data,
            val_fraction=val_fraction,
            split_seed=split_seed,
            split_record=split_record,
            is_default_fraction=is_default_fraction,
            dims=dims,
            task=task,
        )
    options = SplitOptions(
        val_fraction=val_fraction,
        seed=split_seed,
        skip_bad_images=skip_bad_images,
        record=split_record,
        columns=columns,
        is_default_fraction=is_default_fraction,
        task=task,
        mask_values=parse_mask_values(mask_values),
    )
    text = os.fspath(data)
    info = DATASETS.get(text.lower()) if isinstance(data, str) else None
    if info is not None:
        _check_task(info.name, (info.task,), options.requested_task)
        _check_mask_values(info.name, None, mask_values)
        return open_named(info, Path(data_dir).expanduser() if data_dir else None, options)
    if is_url(text):
        _check_mask_values(text, None, mask_values)
        return open_url_shards(text, options)
    path = dataset_path(data)
    if not path.exists() and isinstance(data, str) and "/" not in text and "\\" not in text:
        raise unknown_dataset(text)
    data_format = find_format(path, options.requested_task)
    _check_columns(path, data_format, columns)
    _check_task(path, data_format.tasks if data_format else (DEFAULT_TASK,), options.requested_task)
    _check_mask_values(path, data_format, mask_values)
    # Whatever is of no format is reported by the image folder, as the most common one.
    opened = data_format.open(path, options) if data_format else open_image_folder(path, options)
    other_tasks = () if options.requested_task else _other_tasks(path, opened.task)
    return replace(opened, messages=(*opened.messages, *other_tasks)) if other_tasks else opened


def _check_no_file_options(data: Any, columns: ColumnNames | None, mask_values: MaskValuesLike | None) -> None:
    """Raise ValueError for options of files with data that are objects."""
    got = f"a {type(data).__name__}"
    if columns:
        raise invalid("the path of a CSV file, where columns are named", got, next_step="omit the names of columns")
    if mask_values is not None:
        next_step = "pass masks of the numbers of the classes"
        raise invalid("a path, where mask_values is given", got, next_step=next_step)


def _other_tasks(path: Path, task: str) -> tuple[str, ...]:
    """Return a message on the targets of another task that a folder of images with masks or boxes has, too."""
    if find_task(task).target not in (TargetKind.MASK, TargetKind.BOXES):
        return ()
    kinds = [other for other in FORMATS.values() if other.tasks == _BOX_TASKS and not other.has_masks]
    has_boxes = task not in _BOX_TASKS and any(other.matches(path) for other in kinds)
    return (f"{path.name} has boxes, too: --task {_BOX_TASKS[0]} reads them",) if has_boxes else ()


def list_dataset(
    name_or_path: str | Path,
    data_dir: Path | None = None,
    columns: ColumnNames | None = None,
    task: str | None = None,
    mask_values: MaskValuesLike | None = None,
) -> DatasetListing:
    """List the images of a named dataset or of a path, also if training would refuse its layout.

    Raises ValueError if there is nothing, it has no labels for the task, or a CSV file or a shard cannot be read.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        got = f"a {type(name_or_path).__name__}"
        raise invalid("the name or path of a dataset", got, next_step="check_data(open_dataset(...)) checks objects")
    text = os.fspath(name_or_path)
    if isinstance(name_or_path, str) and text.lower() in DATASETS:
        data = open_dataset(text, data_dir, task=task, mask_values=mask_values)
        return DatasetListing(
            data.name, data.location, data.classes, data.splits, messages=data.messages, task=data.task
        )
    path = dataset_path(name_or_path)
    if not path.exists() and "/" not in text:
        raise unknown_dataset(text)
    path = path.resolve()
    data_format = find_format(path, task)
    _check_columns(path, data_format, columns)
    _check_task(path, data_format.tasks if data_format else (DEFAULT_TASK,), task)
    _check_mask_values(path, data_format, mask_values)
    if data_format is None:
        return list_image_folder(path)
    options: dict[str, Any] = {"columns": columns} if data_format.has_columns else {}
    if data_format.has_masks:
        options["mask_values"] = parse_mask_values(mask_values)
    return data_format.list(path, **options, **({"task": task} if len(data_format.tasks) > 1 else {}))


def _check_task(location: Path | str, tasks: Sequence[str], task: str | None) -> None:
    if task is not None and not suits_task(task, tasks):
        advice = "name a CSV file that lists the images with their labels, by its own path"
        next_step = advice if task in _LABEL_TASKS else "name other data"
        raise invalid(
            f"labels for the task {task} in {location}", f"labels for {', '.join(tasks)}", next_step=next_step
        )


def _check_mask_values(
    location: Path | str, data_format: DataFormat | None, mask_values: MaskValuesLike | None
) -> None:
    if mask_values is not None and not (data_format and data_format.has_masks):
        raise invalid("images with masks, where mask_values is given", location, next_step="omit mask_values")


def _check_columns(path: Path, data_format: DataFormat | None, columns: ColumnNames | None) -> None:
    if columns and not (data_format and data_format.has_columns):
        raise invalid("a CSV file, where columns are named", path, next_step="omit the names of columns")
