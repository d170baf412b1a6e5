"""A CSV file that lists pictures: the columns path and label, maybe split.

The lines of a CSV file as spreadsheets write it.
"""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reslab.data.dataset import DatasetSplits
from reslab.data.formats.class_folders import SPLIT_FOLDERS, LabeledFiles
from reslab.data.formats.image_folder import open_image_files
from reslab.data.splits import check_fraction
from reslab.spec.errors import invalid, nearest, unknown_name


def read_csv_rows(csv_path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty, the header first, with its number in the file: cells apart by comma, semicolon or
    tab, whichever the first line has.

    Raises ValueError for text that is not UTF-8, and for quotes that do not close.
    """
    try:
        text = csv_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"{csv_path} in UTF-8", str(error), next_step="save it as UTF-8") from None
    header_line = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal point.
    delimiter = next((separator for separator in ",;\t" if separator in header_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{csv_path}:{reader.line_num}: not to be read as CSV ({error})") from None


COLUMNS = ("path", "label", "split")
_SPLIT_NAMES = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}


@dataclass(frozen=True)
class CsvRow:
    """One line of the table: a picture, its class's name, and its split ("train" where there is no such column)."""

    line: int
    path: Path
    label: str
    split: str


def open_csv(
    csv_path: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> DatasetSplits:
    """The pictures a CSV file lists: `path,label[,split]`, paths relative to the file's folder, split train, val, test.

    Classes are the labels in lexicographic order (10 before 2). Without a split column `val_fraction` (0.2) is held
    out, as of a folder. Raises ValueError naming the line of every fault, and as `open_folder` for broken pictures.
    """
    csv_path = csv_path.resolve()
    if val_fraction is not None:
        check_fraction(val_fraction)
    files_by_split = list_csv(csv_path)
    return open_image_files(
        csv_path, csv_path.parent, files_by_split, val_fraction, split_seed, skip_bad_images, split_record
    )


def list_csv(csv_path: Path) -> dict[str, LabeledFiles]:
    """The files of each split with their labels; the classes are those of all splits, and train has each of them."""
    rows = list(_parse_rows(csv_path))
    _check_unique_paths(csv_path, rows)
    by_split = {split: [row for row in rows if row.split == split] for split in SPLIT_FOLDERS}
    if not by_split["train"]:
        splits_found = ", ".join(sorted({row.split for row in rows})) or "none at all"
        raise invalid(f"rows of the split train in {csv_path}", f"only {splits_found}" if rows else "no rows")
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise invalid(
            f"at least 2 labels in {csv_path}", f"a single class, {classes[0]!r}", next_step="add a second class"
        )
    _check_train_labels(csv_path, rows, {row.label for row in by_split["train"]})
    label_of = {name: label for label, name in enumerate(classes)}
    return {
        split: LabeledFiles(
            csv_path, classes, tuple(row.path for row in split_rows), tuple(label_of[row.label] for row in split_rows)
        )
        for split, split_rows in by_split.items()
        if split_rows
    }


def _parse_rows(csv_path: Path) -> Iterator[CsvRow]:
    rows = read_csv_rows(csv_path)
    columns = _parse_header(csv_path, next(rows, (1, []))[1])
    for number, cells in rows:
        yield _parse_row(csv_path, number, cells, columns)


def _parse_header(csv_path: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        matches = nearest(missing[0], names, 1)
        raise invalid(
            f"a first line with the columns {','.join(COLUMNS[:2])} (and split, if you like) in {csv_path}",
            f"{','.join(header) or 'an empty file'}",
            next_step=f"rename {matches[0]} to {missing[0]}" if matches else f"add the column {missing[0]}",
        )
    return {name: names.index(name) for name in COLUMNS if name in names}


def _parse_row(csv_path: Path, line: int, cells: list[str], columns: Mapping[str, int]) -> CsvRow:
    values = {name: cells[index].strip() if index < len(cells) else "" for name, index in columns.items()}
    for name, value in values.items():
        if not value:
            raise invalid(f"a {name} in line {line} of {csv_path}", ",".join(cells))
    split = values.get("split", "train")
    if split.lower() not in _SPLIT_NAMES:
        raise unknown_name(f"split in line {line} of {csv_path}", split, _SPLIT_NAMES)
    path = Path(os.path.normpath(csv_path.parent / values["path"]))
    return CsvRow(line, path, values["label"], _SPLIT_NAMES[split.lower()])


def _check_unique_paths(csv_path: Path, rows: list[CsvRow]) -> None:
    seen: dict[Path, CsvRow] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            conflict = (
                f"line {first.line} ({first.label}, {first.split}) and line {row.line} ({row.label}, {row.split})"
            )
            raise invalid(
                f"every picture once in {csv_path}", f"{row.path} in {conflict}", next_step="keep one of the lines"
            )


def _check_train_labels(csv_path: Path, rows: list[CsvRow], train_labels: set[str]) -> None:
    for row in rows:
        if row.label not in train_labels:
            suggestion = nearest(row.label, train_labels, 1)
            raise invalid(
                f"labels of {row.split} that train has too, in {csv_path}",
                f"{row.label!r} in line {row.line}",
                suggestion[0] if suggestion else "",
                "rename it, or add pictures of it to train",
            )
