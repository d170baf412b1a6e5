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

from reslab.data.dataset import Data
from reslab.data.formats.class_folders import SPLIT_FOLDERS, ClassFiles
from reslab.data.formats.image_folder import open_listed
from reslab.data.splits import check_fraction
from reslab.spec.errors import invalid, nearest, unknown_name


def csv_lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not empty, the header first, with its number in the file: cells apart by comma, semicolon or
    tab, whichever the first line has.

    Raises ValueError for text that is not UTF-8, and for quotes that do not close.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"{file} in UTF-8", str(error), next_step="save it as UTF-8") from None
    first = text.partition("\n")[0]
    # Spreadsheets write semicolons where the comma is the decimal point.
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: not to be read as CSV ({error})") from None


COLUMNS = ("path", "label", "split")
_SPLITS = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}


@dataclass(frozen=True)
class Row:
    """One line of the table: a picture, its class's name, and its split ("train" where there is no such column)."""

    line: int
    path: Path
    label: str
    split: str


def open_table(
    file: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> Data:
    """The pictures a CSV file lists: `path,label[,split]`, paths relative to the file's folder, split train, val, test.

    Classes are the labels in lexicographic order (10 before 2). Without a split column `val_fraction` (0.2) is held
    out, as of a folder. Raises ValueError naming the line of every fault, and as `open_folder` for broken pictures.
    """
    file = file.resolve()
    if val_fraction is not None:
        check_fraction(val_fraction)
    listed = list_table(file)
    return open_listed(file, file.parent, listed, val_fraction, split_seed, skip_bad_images, split_record)


def list_table(file: Path) -> dict[str, ClassFiles]:
    """The files of each split with their labels; the classes are those of all splits, and train has each of them."""
    rows = list(_rows(file))
    _check_once(file, rows)
    by_split = {split: [row for row in rows if row.split == split] for split in SPLIT_FOLDERS}
    if not by_split["train"]:
        there = ", ".join(sorted({row.split for row in rows})) or "none at all"
        raise invalid(f"rows of the split train in {file}", f"only {there}" if rows else "no rows")
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise invalid(f"at least 2 labels in {file}", f"a single class, {classes[0]!r}", next_step="add a second class")
    _check_trained(file, rows, {row.label for row in by_split["train"]})
    label_of = {name: label for label, name in enumerate(classes)}
    return {
        split: ClassFiles(file, classes, tuple(row.path for row in part), tuple(label_of[row.label] for row in part))
        for split, part in by_split.items()
        if part
    }


def _rows(file: Path) -> Iterator[Row]:
    lines = csv_lines(file)
    place = _columns(file, next(lines, (1, []))[1])
    for number, cells in lines:
        yield _row(file, number, cells, place)


def _columns(file: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in COLUMNS[:2] if name not in names]
    if missing:
        found = nearest(missing[0], names, 1)
        raise invalid(
            f"a first line with the columns {','.join(COLUMNS[:2])} (and split, if you like) in {file}",
            f"{','.join(header) or 'an empty file'}",
            next_step=f"rename {found[0]} to {missing[0]}" if found else f"add the column {missing[0]}",
        )
    return {name: names.index(name) for name in COLUMNS if name in names}


def _row(file: Path, line: int, cells: list[str], place: Mapping[str, int]) -> Row:
    values = {name: cells[at].strip() if at < len(cells) else "" for name, at in place.items()}
    for name, value in values.items():
        if not value:
            raise invalid(f"a {name} in line {line} of {file}", ",".join(cells))
    split = values.get("split", "train")
    if split.lower() not in _SPLITS:
        raise unknown_name(f"split in line {line} of {file}", split, _SPLITS)
    path = Path(os.path.normpath(file.parent / values["path"]))
    return Row(line, path, values["label"], _SPLITS[split.lower()])


def _check_once(file: Path, rows: list[Row]) -> None:
    seen: dict[Path, Row] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            said = f"line {first.line} ({first.label}, {first.split}) and line {row.line} ({row.label}, {row.split})"
            raise invalid(f"every picture once in {file}", f"{row.path} in {said}", next_step="keep one of the lines")


def _check_trained(file: Path, rows: list[Row], trained: set[str]) -> None:
    for row in rows:
        if row.label not in trained:
            near = nearest(row.label, trained, 1)
            raise invalid(
                f"labels of {row.split} that train has too, in {file}",
                f"{row.label!r} in line {row.line}",
                near[0] if near else "",
                "rename it, or add pictures of it to train",
            )
