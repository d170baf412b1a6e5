"""List the images of a CSV file: a column of paths, one of labels, and optionally one of splits."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.data.formats.class_folders import SPLIT_OF_FOLDER, LabeledFiles
from reslab.data.image_datasets import SPLIT_TITLES
from reslab.data.image_formats import is_image_name
from reslab.spec.errors import invalid, nearest, unknown_name

USUAL_COLUMNS = {
    "image": (
        "path",
        "filename",
        "file",
        "image",
        "img",
        "filepath",
        "file_path",
        "file_name",
        "image_path",
        "img_path",
    ),
    "label": ("label", "class", "category", "class_name", "target"),
    "split": ("split", "subset", "partition"),
}
"""The column names that are recognized, in any case, the preferred ones first."""
SEPARATORS = ",;\t|"
_NUM_SAMPLE_LINES = 50


@dataclass(frozen=True)
class CsvRow:
    """One row: an image, its class name, and its split ("train" if the file has no such column)."""

    line: int
    path: Path
    label: str
    split: str


@dataclass(frozen=True)
class CsvTable:
    """The rows of a CSV file below its header (if any): (line number, cells), and the index of each column."""

    path: Path
    columns: Mapping[str, int]
    rows: Sequence[tuple[int, list[str]]]
    messages: tuple[str, ...] = ()


def is_csv(path: Path) -> bool:
    """Return True if a path is a file whose name ends in .csv or .tsv."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def find_separator(text: str) -> str:
    """Return the separator of a CSV text: comma, semicolon, tab or |.

    It is the one that occurs outside of quotes in every one of the first lines, equally often if there is such a one,
    and the most frequent of those. Spreadsheets write semicolons where the decimal point is a comma.
    """
    lines, counts, in_quotes = [], Counter[str](), False
    for character in text:
        if character == '"':
            in_quotes = not in_quotes
        elif character == "\n" and not in_quotes:
            lines.append(counts)
            counts = Counter()
            if len(lines) == _NUM_SAMPLE_LINES:
                break
        elif character in SEPARATORS and not in_quotes:
            counts[character] += 1
    lines = [line for line in (*lines, counts) if line]
    if not lines:
        return SEPARATORS[0]
    common = [separator for separator in SEPARATORS if all(line[separator] for line in lines)] or list(SEPARATORS)
    regular = [separator for separator in common if len({line[separator] for line in lines}) == 1]
    return max(regular or common, key=lambda separator: sum(line[separator] for line in lines))


def read_csv_rows(csv_path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not empty, the header first; blanks after separators are dropped.

    Raises ValueError if the text is not UTF-8 (or UTF-16 with its mark) or a quote is not closed.
    """
    content = csv_path.read_bytes()
    is_utf_16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise invalid(f"{csv_path} in UTF-8", str(error), next_step="save it as UTF-8") from None
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=find_separator(text), strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{csv_path}:{reader.line_num}: not valid CSV ({error})") from None


def list_csv(
    csv_path: Path, columns: Mapping[str, str] | None = None
) -> tuple[dict[str, LabeledFiles], tuple[str, ...]]:
    """Return the files of each split with their labels, and messages; classes are in lexicographic order (10 before 2).

    `columns` names the columns of image, label and split where they differ from `USUAL_COLUMNS`. Paths are relative to
    the CSV file's folder, and may have backslashes. Raises ValueError with the line number of every mistake, and if
    there are no training images, fewer than two classes, or a label that no training image has.
    """
    table = read_table(csv_path, columns, required=("image", "label"))
    rows = [_parse_row(csv_path, line, cells, table.columns) for line, cells in table.rows]
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
    _check_any_exists(csv_path, [row.path for row in rows])
    label_of = {name: label for label, name in enumerate(classes)}
    files_by_split = {}
    for split, split_rows in by_split.items():
        if split_rows:
            labels = tuple(label_of[row.label] for row in split_rows)
            files_by_split[split] = LabeledFiles(csv_path, classes, tuple(row.path for row in split_rows), labels)
    return files_by_split, table.messages


def list_csv_paths(csv_path: Path) -> list[Path]:
    """Return the files in the column of images, relative to the CSV file's folder; other columns are ignored.

    Raises ValueError if there is no such column or it is empty.
    """
    table = read_table(csv_path, None, required=("image",))
    column = table.columns["image"]
    cells = [cells[column].strip() for _, cells in table.rows if len(cells) > column]
    paths = [resolve_path(csv_path, cell) for cell in cells if cell]
    if not paths:
        raise invalid(f"paths in {csv_path}", "none below the header")
    return paths


def read_table(csv_path: Path, names: Mapping[str, str] | None, required: Sequence[str]) -> CsvTable:
    """Read a CSV file and find its columns: by the given names, the usual names, or without a header by their content.

    Raises ValueError if a named or required column is missing.
    """
    rows = list(read_csv_rows(csv_path))
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    columns = _named_columns(csv_path, rows[0][1] if rows else [], names or {})
    for role, usual in USUAL_COLUMNS.items():
        taken = set(columns.values())
        free = (header.index(name) for name in usual if name in header)
        index = next((index for index in free if index not in taken), None)
        if role not in columns and index is not None:
            columns[role] = index
    missing = [role for role in required if role not in columns]
    if not missing:
        return CsvTable(csv_path, columns, rows[1:])
    if not names and rows and (positions := _columns_without_header(rows[0][1], required)):
        described = ", ".join(f"column {index + 1} is the {role}" for role, index in positions.items())
        return CsvTable(csv_path, positions, rows, (f"{csv_path.name} has no header: {described}",))
    raise _missing_column(csv_path, header, missing[0], columns)


def _named_columns(csv_path: Path, header: list[str], names: Mapping[str, str]) -> dict[str, int]:
    for role in names:
        if role not in USUAL_COLUMNS:
            raise unknown_name("role of a column", role, USUAL_COLUMNS)
    stripped = [cell.strip() for cell in header]
    lower = [cell.lower() for cell in stripped]
    columns = {}
    for role, name in names.items():
        if name in stripped:
            columns[role] = stripped.index(name)
        elif name.lower() in lower:
            columns[role] = lower.index(name.lower())
        else:
            raise unknown_name(f"column in {csv_path}", name, stripped, "the first line has the names")
    return columns


def _columns_without_header(cells: list[str], required: Sequence[str]) -> dict[str, int]:
    """Return the columns of a first row that is not a header, as it has an image's path; empty if it has none.

    The label is the next cell, or the one before the path; a further cell with a split's name is the split.
    """
    image = next((index for index, cell in enumerate(cells) if is_image_name(Path(cell.strip()).name)), None)
    if image is None:
        return {}
    others = [index for index in (*range(image + 1, len(cells)), *range(image - 1, -1, -1)) if cells[index].strip()]
    split = next((index for index in others if cells[index].strip().lower() in SPLIT_OF_FOLDER), None)
    label = next((index for index in others if index != split), None)
    columns = {"image": image, "label": label, "split": split}
    found = {role: index for role, index in columns.items() if index is not None}
    return found if set(required) <= set(found) else {}


def _missing_column(csv_path: Path, header: list[str], role: str, columns: Mapping[str, int]) -> ValueError:
    usual = USUAL_COLUMNS[role]
    free = [name for index, name in enumerate(header) if index not in columns.values()]
    guess = next((match for name in usual for match in nearest(name, free, 1)), free[0] if len(free) == 1 else "")
    next_step = f"name the column with --{role}-column {guess or 'NAME'}, or rename it to {usual[0]}"
    required = f"a column of {role}s in {csv_path} ({', '.join(usual)})"
    return invalid(required, ",".join(header) or "an empty file", nearest=guess, next_step=next_step)


def resolve_path(csv_path: Path, text: str) -> Path:
    """Return the path that a cell names, relative to the CSV file's folder; Windows' backslashes separate folders."""
    path = csv_path.parent / text
    if "\\" in text and os.sep == "/" and not path.exists():
        path = csv_path.parent / text.replace("\\", "/")
    return Path(os.path.normpath(path))


def _parse_row(csv_path: Path, line: int, cells: list[str], columns: Mapping[str, int]) -> CsvRow:
    values = {name: cells[index].strip() if index < len(cells) else "" for name, index in columns.items()}
    for name, value in values.items():
        if not value:
            noun = "an image" if name == "image" else f"a {name}"
            raise invalid(f"{noun} in line {line} of {csv_path}", ",".join(cells))
    split = values.get("split", "train")
    if split.lower() not in SPLIT_OF_FOLDER:
        raise unknown_name(f"split in line {line} of {csv_path}", split, SPLIT_OF_FOLDER)
    return CsvRow(line, resolve_path(csv_path, values["image"]), values["label"], SPLIT_OF_FOLDER[split.lower()])


def _check_unique_paths(csv_path: Path, rows: list[CsvRow]) -> None:
    seen: dict[Path, CsvRow] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            lines = f"line {first.line} ({first.label}, {first.split}) and line {row.line} ({row.label}, {row.split})"
            raise invalid(
                f"every image once in {csv_path}", f"{row.path} in {lines}", next_step="keep one of the lines"
            )


def _check_any_exists(csv_path: Path, paths: Sequence[Path]) -> None:
    """Raise ValueError if none of the files exists: then the folder is wrong, not a file."""
    if any(path.exists() for path in paths):
        return
    from_here = [path.relative_to(csv_path.parent) for path in paths if path.is_relative_to(csv_path.parent)]
    next_step = "write paths that are relative to the CSV file's folder, or whole ones"
    if from_here and all(path.exists() for path in from_here):
        next_step = f"they exist relative to the current folder: move the CSV file to {Path.cwd()}"
    required = f"image files, as {csv_path} names them relative to {csv_path.parent}"
    raise invalid(required, f"no such file as {paths[0]}, nor any of the {len(paths):,}", next_step=next_step)


def _check_train_labels(csv_path: Path, rows: list[CsvRow], train_labels: set[str]) -> None:
    for row in rows:
        if row.label not in train_labels:
            matches = nearest(row.label, train_labels, 1)
            required = f"{SPLIT_TITLES[row.split]} labels that training images have too, in {csv_path}"
            got = f"{row.label!r} in line {row.line}"
            raise invalid(required, got, matches[0] if matches else "", "rename it, or add training images of it")
