"""A folder of images with a file of their labels: one for all, or one in the folder of each split."""

from dataclasses import replace
from pathlib import Path

from reslab.data.dataset import DatasetListing, DatasetSplits
from reslab.data.formats.class_folders import SPLIT_FOLDERS, LabeledFiles, any_image_below, split_of_folder, subfolders
from reslab.data.formats.csv_table import (
    ColumnNames,
    CsvRow,
    CsvTable,
    label_rows,
    read_labeled_rows,
    read_table,
    resolve_path,
)
from reslab.data.formats.image_files import labeled_listing, open_labeled_files
from reslab.data.splits import SplitOptions
from reslab.spec.errors import invalid

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
    return labeled_listing(root, root.name, files_by_split["train"], splits, messages)


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
