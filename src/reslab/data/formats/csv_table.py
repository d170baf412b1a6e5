"""List the images of a CSV file with the columns path and label, and optionally split."""

import csv
import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reslab.data.formats.class_folders import SPLIT_OF_FOLDER, LabeledFiles
from reslab.data.image_datasets import SPLIT_TITLES
from reslab.spec.errors import invalid, nearest, unknown_name

_COLUMNS = ("path", "label", "split")


@dataclass(frozen=True)
class CsvRow:
    """One row: an image, its class name, and its split ("train" if the file has no such column)."""

    line: int
    path: Path
    label: str
    split: str


def is_csv(path: Path) -> bool:
    """Return True if a path is a file whose name ends in .csv or .tsv."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def read_csv_rows(csv_path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not empty, the header first.

    Cells are separated by comma, semicolon or tab: the first of them that occurs in the header.
    Raises ValueError if the text is not UTF-8 or a quote is not closed.
    """
    try:
        text = csv_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"{csv_path} in UTF-8", str(error), next_step="save it as UTF-8") from None
    header_line = text.partition("\n")[0]
    # Spreadsheets write semicolons in languages whose decimal point is a comma.
    delimiter = next((separator for separator in ",;\t" if separator in header_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{csv_path}:{reader.line_num}: not valid CSV ({error})") from None


def list_csv(csv_path: Path) -> dict[str, LabeledFiles]:
    """Return the files of each split with their labels; classes are the labels in lexicographic order (10 before 2).

    Paths are relative to the CSV file's folder. Raises ValueError with the line number of every mistake, and if there
    are no training images, fewer than two classes, or a label that no training image has.
    """
    rows = list(_parse_rows(csv_path))
    _check_unique_paths(csv_path, rows)
    by_split = {split: [row for row in rows if row.split == split] for split in SPLIT_TITLES}
    if not by_split["train"]:
        got = f"only {', '.join(sorted({row.split for row in rows}))}" if rows else "no rows"
        raise invalid(f"rows of the split train in {csv_path}", got)
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        got = f"a single class, {classes[0]!r}"
        raise invalid(f"at least 2 labels in {csv_path}", got, next_step="add a second class")
    _check_train_labels(csv_path, rows, {row.label for row in by_split["train"]})
    label_of = {name: label for label, name in enumerate(classes)}
    files_by_split = {}
    for split, split_rows in by_split.items():
        if split_rows:
            labels = tuple(label_of[row.label] for row in split_rows)
            files_by_split[split] = LabeledFiles(csv_path, classes, tuple(row.path for row in split_rows), labels)
    return files_by_split


def list_csv_paths(csv_path: Path) -> list[Path]:
    """Return the files in the column `path`, relative to the CSV file's folder; other columns are ignored.

    Raises ValueError if there is no such column or it is empty.
    """
    rows = read_csv_rows(csv_path)
    header = next(rows, (1, []))[1]
    names = [name.strip().lower() for name in header]
    if "path" not in names:
        got, next_step = ",".join(header) or "an empty file", "rename the column of the paths to path"
        raise invalid(f"a header with the column path in {csv_path}", got, next_step=next_step)
    column = names.index("path")
    cells = [cells[column].strip() for _, cells in rows if len(cells) > column]
    paths = [csv_path.parent / cell for cell in cells if cell]
    if not paths:
        raise invalid(f"paths in {csv_path}", "none below the header")
    return paths


def _parse_rows(csv_path: Path) -> Iterator[CsvRow]:
    rows = read_csv_rows(csv_path)
    columns = _parse_header(csv_path, next(rows, (1, []))[1])
    for line, cells in rows:
        yield _parse_row(csv_path, line, cells, columns)


def _parse_header(csv_path: Path, header: list[str]) -> dict[str, int]:
    names = [name.strip().lower() for name in header]
    missing = [name for name in ("path", "label") if name not in names]
    if missing:
        matches = nearest(missing[0], names, 1)
        required = f"a header with the columns path,label (optionally split) in {csv_path}"
        next_step = f"rename {matches[0]} to {missing[0]}" if matches else f"add the column {missing[0]}"
        raise invalid(required, ",".join(header) or "an empty file", next_step=next_step)
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _parse_row(csv_path: Path, line: int, cells: list[str], columns: Mapping[str, int]) -> CsvRow:
    values = {name: cells[index].strip() if index < len(cells) else "" for name, index in columns.items()}
    for name, value in values.items():
        if not value:
            raise invalid(f"a {name} in line {line} of {csv_path}", ",".join(cells))
    split = values.get("split", "train")
    if split.lower() not in SPLIT_OF_FOLDER:
        raise unknown_name(f"split in line {line} of {csv_path}", split, SPLIT_OF_FOLDER)
    path = Path(os.path.normpath(csv_path.parent / values["path"]))
    return CsvRow(line, path, values["label"], SPLIT_OF_FOLDER[split.lower()])


def _check_unique_paths(csv_path: Path, rows: list[CsvRow]) -> None:
    seen: dict[Path, CsvRow] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            lines = f"line {first.line} ({first.label}, {first.split}) and line {row.line} ({row.label}, {row.split})"
            raise invalid(
                f"every image once in {csv_path}", f"{row.path} in {lines}", next_step="keep one of the lines"
            )


def _check_train_labels(csv_path: Path, rows: list[CsvRow], train_labels: set[str]) -> None:
    for row in rows:
        if row.label not in train_labels:
            matches = nearest(row.label, train_labels, 1)
            required = f"{SPLIT_TITLES[row.split]} labels that training images have too, in {csv_path}"
            got = f"{row.label!r} in line {row.line}"
            raise invalid(required, got, matches[0] if matches else "", "rename it, or add training images of it")
