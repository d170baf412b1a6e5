"""Image files as a dataset: a folder of class folders, a CSV file of images with labels, or a folder with such a file.

The file of labels in a folder is one for all images, or one in the folder of each split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from reslab.data.cache import scan_images
from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetListing, DatasetSplits
from reslab.data.dataset_names import readable_class_names
from reslab.data.formats.class_folders import (
    SPLIT_FOLDERS,
    LabeledFiles,
    align_classes,
    any_image_below,
    check_folder,
    check_not_nested,
    find_split_folders,
    list_class_images,
    list_image_files,
    list_labeled_splits,
    split_of_folder,
    subfolders,
)
from reslab.data.formats.csv_table import (
    ColumnNames,
    CsvRow,
    CsvTable,
    label_rows,
    list_csv,
    read_labeled_rows,
    read_table,
    resolve_path,
)
from reslab.data.formats.file_listing import IgnoredFiles
from reslab.data.formats.imagenet import TINY_IMAGENET_LABELS, list_annotated_files
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.splits import (
    SplitOptions,
    apply_split,
    check_label_coverage,
    classes_without,
    collect_skipped,
    default_eval_transform,
    rare_class_messages,
)
from reslab.data.targets import TARGET_RULES
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess
from reslab.spec.task import find_task


def open_image_folder(root: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images of a folder: train/ with val/ and test/, or class folders to split.

    Raises ValueError for every mistake in the layout, and for unreadable images unless they may be skipped.
    """
    root = root.resolve()
    files_by_split, ignored, messages = _list_splits(root)
    files_by_split = align_classes(files_by_split)
    messages = (*ignored.messages(root), *messages)
    return _open_files(root, root, files_by_split, options, messages)


def _list_splits(root: Path) -> tuple[dict[str, LabeledFiles], IgnoredFiles, tuple[str, ...]]:
    """Return the labeled files of each split, what is ignored, and messages; raise ValueError for a wrong layout."""
    layout = find_split_folders(root)
    folders, ignored = dict(layout.split_folders), layout.ignored
    annotated = {split: folder for split, folder in folders.items() if (folder / TINY_IMAGENET_LABELS).is_file()}
    test = folders.get("test")
    if annotated and test and [path.name for path in subfolders(test)] == ["images"]:  # without labels, as published
        del folders["test"]
        ignored += IgnoredFiles(unlabeled=tuple(list_image_files(test / "images")))
    class_folders = {split: folder for split, folder in folders.items() if split not in annotated}
    messages = tuple(text for folder in class_folders.values() for text in check_not_nested(folder))
    files_by_split, ignored_in_splits = list_labeled_splits(class_folders)
    if "train" in files_by_split:
        classes = files_by_split["train"].classes
        files_by_split |= {split: list_annotated_files(folder, classes) for split, folder in annotated.items()}
    unlabeled = tuple(path for folder in class_folders.values() for path in list_image_files(folder))
    ordered = {split: files_by_split[split] for split in SPLIT_FOLDERS if split in files_by_split}
    return ordered, ignored + ignored_in_splits + IgnoredFiles(unlabeled=unlabeled), messages


def open_csv(csv_path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images that a CSV file lists (`list_csv`), paths relative to its folder; columns given are recorded.

    Raises ValueError with the line of every mistake, and for unreadable images unless they may be skipped.
    """
    csv_path = csv_path.resolve()
    columns = options.columns or (options.record or {}).get("columns")
    files_by_split, messages = list_csv(csv_path, columns, options.requested_task)
    return open_labeled_files(csv_path, csv_path.parent, files_by_split, options, messages)


def open_labeled_files(
    location: Path,
    root: Path,
    files_by_split: Mapping[str, LabeledFiles],
    options: SplitOptions,
    messages: tuple[str, ...],
) -> DatasetSplits:
    """Open listed files whose names are relative to `root`; the names of columns are recorded."""
    columns = options.columns or (options.record or {}).get("columns")
    train = files_by_split["train"]
    if train.task_reason:
        messages = (*messages, train.task_reason)
    data = _open_files(location, root, files_by_split, options, messages)
    if not columns:
        return data
    recorded = {role: names if isinstance(names, str) else list(names) for role, names in columns.items()}
    return replace(data, split_record={**data.split_record, "columns": recorded})


def open_listed_images(
    path: Path, images: Mapping[str, Sequence[tuple[Path | str, str]]], options: SplitOptions
) -> DatasetSplits:
    """Open image files that are listed with their class names, by split; `train` is required.

    Paths are relative to the folder of `path`, or to `path` itself if it is one. Raises ValueError for a split without
    images, other classes than in training, and for unreadable images unless they may be skipped.
    """
    path = path.resolve()
    root = path if path.is_dir() else path.parent
    files_by_split = label_images(path, images)
    return _open_files(path, root, files_by_split, options)


def label_images(path: Path, images: Mapping[str, Sequence[tuple[Path | str, str]]]) -> dict[str, LabeledFiles]:
    """Return listed images with the number of their class: that of its name in alphabetical order."""
    if not images.get("train"):
        raise invalid(f"images of the split train in {path}", f"the splits {', '.join(images) or 'none'}")
    root = path if path.is_dir() else path.parent
    classes = tuple(sorted({name for _, name in images["train"]}))
    files_by_split = {}
    for split, pairs in images.items():
        unknown = sorted({name for _, name in pairs} - set(classes))
        if unknown:
            raise invalid(f"the classes of train ({', '.join(classes[:5])})", f"{unknown[0]} in {split} of {path}")
        ordered = sorted((classes.index(name), root / file) for file, name in pairs)
        labels, paths = tuple(label for label, _ in ordered), tuple(file for _, file in ordered)
        files_by_split[split] = LabeledFiles(root, classes, paths, labels)
    return files_by_split


def _open_files(
    location: Path,
    root: Path,
    files_by_split: Mapping[str, LabeledFiles],
    options: SplitOptions,
    messages: tuple[str, ...] = (),
) -> DatasetSplits:
    """Open listed files, whose labels number the classes of the training images; names are relative to `root`."""
    scanned = scan_images(location, root, [path for files in files_by_split.values() for path in files.paths])
    unreadable = {name: file.error for name, file in scanned.items() if file.error}
    missing = [name for name, file in scanned.items() if file.num_bytes < 0]
    skipped = collect_skipped(root, unreadable, options, missing)
    skipped_names = {name for name, _ in skipped}
    splits: Mapping[str, ImageDataset] = {
        split: _without_skipped(files, root, skipped_names) for split, files in files_by_split.items()
    }
    train = files_by_split["train"]
    _check_training_classes(train, splits["train"])
    coverage = _coverage_messages(train, splits)
    classes = readable_class_names(train.classes)
    splits, record = apply_split(location, splits, classes, options)
    if skipped:
        record = {**record, "skipped_files": [list(pair) for pair in skipped]}
    eval_transform = default_eval_transform((file.height, file.width) for file in scanned.values() if not file.error)
    return DatasetSplits(
        name=location.stem if location.is_file() else location.name,
        source=f"images in {location}",
        classes=classes,
        preprocess=Preprocess(3, eval_transform, IMAGENET_MEAN, IMAGENET_STD),
        splits=splits,
        split_record=record,
        skipped_files=skipped,
        decode_warnings=tuple((name, file.warning) for name, file in scanned.items() if file.warning),
        location=str(location),
        messages=(*messages, *coverage, *rare_class_messages(record)),
        task=train.task,
    )


def _without_skipped(files: LabeledFiles, root: Path, skipped_names: set[str]) -> FileImageDataset:
    dataset = files.to_dataset(root)
    return dataset.subset([i for i in range(len(dataset)) if dataset.name(i) not in skipped_names])


def _check_training_classes(train: LabeledFiles, kept: ImageDataset) -> None:
    empty_labels = classes_without(train.to_dataset(None), kept.labels, len(train.classes))
    if empty_labels and TARGET_RULES[kept.target_kind].keeps_classes:
        got = f"none of {', '.join(train.classes[label] for label in empty_labels)}"
        raise invalid(f"a readable training image of every class in {train.folder}", got)


def _coverage_messages(train: LabeledFiles, splits: Mapping[str, ImageDataset]) -> tuple[str, ...]:
    return check_label_coverage(
        {split: dataset.labels for split, dataset in splits.items()},
        train.classes,
        has_class_list=True,
        target_kind=find_task(train.task).target,
    )


def list_image_folder(root: Path) -> DatasetListing:
    """List the images of a folder, also if training would refuse its layout.

    Raises ValueError only if `root` is not a folder.
    """
    check_folder(root)
    folders = _existing_split_folders(root)
    files_by_split, ignored = list_class_images(folders)
    classes = tuple(sorted({name for files in files_by_split.values() for name in files}))
    splits: dict[str, ImageDataset] = {}
    for split, files in files_by_split.items():
        pairs = [(path, classes.index(name)) for name, paths in files.items() for path in paths]
        if pairs:
            splits[split] = _to_dataset([path for path, _ in pairs], [label for _, label in pairs], root)
    messages: tuple[str, ...] = ()
    layout_error = ""
    try:
        labeled, ignored, messages = _list_splits(root)
        labeled = align_classes(labeled)
        classes = labeled["train"].classes
        splits = {split: files.to_dataset(root) for split, files in labeled.items()}
        messages = (*messages, *_coverage_messages(labeled["train"], splits))
    except ValueError as error:
        layout_error = str(error)
    unlabeled_paths = {split: list_image_files(folder) for split, folder in folders.items()}
    unlabeled = {split: _to_dataset(paths, [0] * len(paths), root) for split, paths in unlabeled_paths.items() if paths}
    listed = {path for paths in unlabeled_paths.values() for path in paths}
    ignored = replace(ignored, unlabeled=tuple(path for path in ignored.unlabeled if path not in listed))
    return DatasetListing(root.name, str(root), classes, splits, unlabeled, layout_error, ignored, messages)


def list_csv_dataset(csv_path: Path, columns: ColumnNames | None = None, task: str | None = None) -> DatasetListing:
    """List the images of a CSV file. Raises ValueError as `list_csv` does."""
    files_by_split, messages = list_csv(csv_path, columns, task)
    splits = {split: files.to_dataset(csv_path.parent) for split, files in files_by_split.items()}
    return _labeled_listing(csv_path, csv_path.stem, files_by_split["train"], splits, messages)


def _labeled_listing(
    location: Path, name: str, train: LabeledFiles, splits: Mapping[str, ImageDataset], messages: tuple[str, ...]
) -> DatasetListing:
    """Return the listing of labeled files, with the classes and the task of those for training."""
    return DatasetListing(
        name,
        str(location),
        train.classes,
        splits,
        messages=(*messages, *_coverage_messages(train, splits)),
        task=train.task,
        task_reason=train.task_reason,
    )


def _existing_split_folders(root: Path) -> dict[str, Path]:
    """Return train/, val/ and test/ in whatever state if there is a train/, else the folder itself as train."""
    candidates = {
        split: next((path for path in subfolders(root) if split_of_folder(path.name) == split), None)
        for split in SPLIT_FOLDERS
    }
    existing = {split: folder for split, folder in candidates.items() if folder is not None}
    # A class may be called train: then its images are directly in the folder, and its siblings are not splits.
    other_names = {path.name for path in subfolders(root)} - {folder.name for folder in existing.values()}
    if "train" not in existing or (other_names and not subfolders(existing["train"])):
        return {"train": root}
    return existing


def _to_dataset(paths: Sequence[Path], labels: Sequence[int], root: Path) -> FileImageDataset:
    return FileImageDataset(tuple(paths), torch.tensor(labels, dtype=torch.int64), 3, root)


LABEL_FILES = ("labels.csv", "labels.tsv", "labels.txt", "annotations.csv", "annotations.tsv", "annotations.txt")
"""The names of a labels file, in any case, the preferred ones first."""


def has_labels_file(path: Path) -> bool:
    """Return True if a path is a folder with a labels file, in itself or for training, and without class folders."""
    return path.is_dir() and bool(find_labels_files(path)) and not _has_class_folders(path)


def find_labels_files(root: Path) -> dict[str, Path]:
    """Return the labels file of each split, or that of the folder itself under the key ""; empty without any."""
    own = _labels_file(root)
    if own is not None:
        return {"": own}
    files = {split_of_folder(folder.name) or "": _labels_file(folder) for folder in subfolders(root)}
    present = {split: files[split] for split in SPLIT_FOLDERS if files.get(split) is not None}
    return {split: file for split, file in present.items() if file is not None} if "train" in present else {}


def _labels_file(folder: Path) -> Path | None:
    by_name = {path.name.lower(): path for path in folder.iterdir() if path.is_file()}
    return next((by_name[name] for name in LABEL_FILES if name in by_name), None)


def _has_class_folders(root: Path) -> bool:
    """Return True if at least two folders that are no splits have images, in the training folder or beside it."""
    train = next((folder for folder in subfolders(root) if split_of_folder(folder.name) == "train"), root)
    return sum(split_of_folder(folder.name) is None and any_image_below(folder) for folder in subfolders(train)) > 1


def open_labels_folder(root: Path, options: SplitOptions) -> DatasetSplits:
    """Open a folder of images with a labels file (`list_labels_folder`).

    Raises ValueError with the line of every mistake, and for unreadable images unless they may be skipped.
    """
    root = root.resolve()
    columns = options.columns or (options.record or {}).get("columns")
    files_by_split, messages = _list_files(root, columns, options.requested_task)
    names = " and ".join(file.relative_to(root).as_posix() for file in find_labels_files(root).values())
    return open_labeled_files(root, root, files_by_split, options, (f"the labels are those of {names}", *messages))


def list_labels_folder(root: Path, columns: ColumnNames | None = None, task: str | None = None) -> DatasetListing:
    """List the images of a folder with a labels file. Raises ValueError with the line of every mistake."""
    files_by_split, messages = _list_files(root, columns, task)
    splits = {split: files.to_dataset(root) for split, files in files_by_split.items()}
    return _labeled_listing(root, root.name, files_by_split["train"], splits, messages)


def _list_files(
    root: Path, columns: ColumnNames | None, task: str | None
) -> tuple[dict[str, LabeledFiles], tuple[str, ...]]:
    """Return the files of each split with their labels, and messages.

    A labels file is read as a CSV file. Its paths are relative to its folder, or else to a folder in that, such as
    images/. Without a column of splits, that of a row is the split of its file, or the split that its first folder is
    named after if that holds for all rows.
    """
    label_columns: tuple[str, ...] = ()
    all_rows: list[CsvRow] = []
    messages: list[str] = []
    for split, file in find_labels_files(root).items():
        folder = _image_folder(file, columns)
        table, rows = read_labeled_rows(file, columns, task, folder)
        names = tuple(table.label_columns.values())
        if label_columns and names != label_columns:
            required = f"the columns of labels {', '.join(label_columns)} in {file}, as in training"
            raise invalid(required, ", ".join(names), next_step="give both files the same columns")
        label_columns = names
        messages += table.messages
        all_rows += _set_splits(rows, table, split, root)
    files_by_split, label_messages = label_rows(root, label_columns, all_rows, task)
    return files_by_split, (*messages, *label_messages)


def _image_folder(file: Path, columns: ColumnNames | None) -> Path:
    """Return the folder that the paths of a labels file are relative to: its own, or one in it."""
    table = read_table(file, columns, required=("image",))
    index = table.columns["image"]
    first = next((cells[index].strip() for _, cells in table.rows if len(cells) > index and cells[index].strip()), "")
    folders = (file.parent, *subfolders(file.parent))
    return next((folder for folder in folders if first and resolve_path(folder, first).exists()), file.parent)


def _set_splits(rows: list[CsvRow], table: CsvTable, split: str, root: Path) -> list[CsvRow]:
    if split:
        return [replace(row, split=split) for row in rows]
    by_folder = [_split_of_path(row.path, root) for row in rows]
    if "split" in table.columns or not all(by_folder):
        return rows
    return [replace(row, split=by_folder[i] or row.split) for i, row in enumerate(rows)]


def _split_of_path(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts if path.is_relative_to(root) else ()
    return split_of_folder(parts[0]) if len(parts) > 1 else None
