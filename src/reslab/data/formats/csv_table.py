"""List the images of a CSV file: a column of paths, one or several of labels, and optionally one of splits."""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.class_folders import SPLIT_OF_FOLDER, LabeledFiles
from reslab.data.formats.label_text import (
    LabelTexts,
    ParsedLabels,
    are_binary,
    are_numbers,
    may_be_numbers,
    parse_labels,
)
from reslab.data.image_formats import IMAGE_EXTENSIONS, is_image_name
from reslab.data.targets import TARGET_RULES
from reslab.spec.errors import invalid, nearest, unknown_name
from reslab.spec.task import DEFAULT_TASK, find_task

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
ColumnNames = Mapping[str, str | Sequence[str]]
"""The names of columns by role: "image", "label" (one, or several as a list or separated by commas) and "split"."""
SEPARATORS = ",;\t|"
_NUM_SAMPLE_LINES = 50
_PATH_AND_LABEL = re.compile(rf"(.*?(?:{'|'.join(map(re.escape, IMAGE_EXTENSIONS))}))(?:\s+(.*))?", re.IGNORECASE)


@dataclass(frozen=True)
class CsvRow:
    """One row: an image, its labels as text, its split ("train" if the file has no such column), and its line."""

    source: Path
    line: int
    path: Path
    labels: tuple[str, ...]
    split: str
    text: str


@dataclass(frozen=True)
class CsvTable:
    """The rows of a CSV file below its header (if any): (line number, cells), and the index of each column.

    `columns` has the columns of image and split, `label_columns` those of the labels with their names.
    """

    path: Path
    columns: Mapping[str, int]
    label_columns: Mapping[int, str]
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
    if csv_path.suffix.lower() == ".txt" and not _has_separators(text):
        yield from _split_at_blanks(text)
        return
    stream = io.StringIO(text, newline="")
    reader = csv.reader(stream, delimiter=find_separator(text), strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"{csv_path}:{reader.line_num}: not valid CSV ({error})") from None


def _has_separators(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()][:_NUM_SAMPLE_LINES]
    return any(all(separator in line for line in lines) for separator in SEPARATORS)


def _split_at_blanks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number, path and label of lines without separators: the path ends with its extension, or a blank."""
    for number, line in enumerate(text.splitlines(), 1):
        match = _PATH_AND_LABEL.fullmatch(line.strip()) or re.fullmatch(r"(\S+)(?:\s+(.*))?", line.strip())
        if match:
            yield number, [match[1], match[2] or ""]


def list_csv(
    csv_path: Path, columns: ColumnNames | None = None, task: str | None = None
) -> tuple[dict[str, LabeledFiles], tuple[str, ...]]:
    """Return the files of each split with their labels, and messages; classes are in lexicographic order (10 before 2).

    `columns` names the columns of image, label and split where they differ from `USUAL_COLUMNS`; of labels there may be
    several, which are then the classes or the numbers of the task. The task is inferred where none is given
    (`infer_task`). Paths are relative to the CSV file's folder, and may have backslashes.
    Raises ValueError with the line number of every mistake, and if there are no training images, fewer than two classes
    of classification, or a label that no training image has.
    """
    table, rows = read_labeled_rows(csv_path, columns, task)
    files_by_split, messages = label_rows(csv_path, tuple(table.label_columns.values()), rows, task)
    return files_by_split, (*table.messages, *messages)


def read_labeled_rows(
    csv_path: Path, columns: ColumnNames | None, task: str | None, root: Path | None = None
) -> tuple[CsvTable, list[CsvRow]]:
    """Read a CSV file of images and labels; paths are relative to `root`, by default the file's folder."""
    table = read_table(csv_path, columns, required=("image", "label"), task=task)
    return table, [_parse_row(csv_path, line, cells, table, root or csv_path.parent) for line, cells in table.rows]


def label_rows(
    location: Path, columns: tuple[str, ...], rows: Sequence[CsvRow], task: str | None
) -> tuple[dict[str, LabeledFiles], tuple[str, ...]]:
    """Return the files of each split with their labels, which are in these columns, and messages."""
    _check_unique_paths(location, rows)
    if not any(row.split == "train" for row in rows):
        got = f"only {', '.join(sorted({row.split for row in rows}))}" if rows else "no rows"
        raise invalid(f"rows of the split train in {location}", got)
    texts = LabelTexts(
        columns,
        [row.labels for row in rows],
        location=lambda i: f"line {rows[i].line} of {rows[i].source}",
        row=lambda i: rows[i].text,
    )
    parsed = parse_labels(texts, task)
    target_kind = find_task(parsed.task).target
    if len(parsed.names) < TARGET_RULES[target_kind].min_outputs:
        got = f"a single class, {parsed.names[0]!r}"
        raise invalid(f"at least 2 labels in {location}", got, next_step="add a second class")
    _check_train_labels(location, rows, parsed)
    _check_any_exists(location, [row.path for row in rows])
    files_by_split = {}
    for split in SPLIT_TITLES:
        chosen = [i for i, row in enumerate(rows) if row.split == split]
        if chosen:
            paths, labels = tuple(rows[i].path for i in chosen), tuple(parsed.labels[i] for i in chosen)
            files_by_split[split] = LabeledFiles(location, parsed.names, paths, labels, parsed.task, parsed.task_reason)
    return files_by_split, parsed.messages


def list_csv_paths(csv_path: Path) -> list[Path]:
    """Return the files in the column of images, relative to the CSV file's folder; other columns are ignored.

    Raises ValueError if there is no such column or it is empty.
    """
    table = read_table(csv_path, None, required=("image",))
    column = table.columns["image"]
    cells = [cells[column].strip() for _, cells in table.rows if len(cells) > column]
    paths = [resolve_path(csv_path.parent, cell) for cell in cells if cell]
    if not paths:
        raise invalid(f"paths in {csv_path}", "none below the header")
    return paths


def read_table(csv_path: Path, names: ColumnNames | None, required: Sequence[str], task: str | None = None) -> CsvTable:
    """Read a CSV file and find its columns: by the given names, the usual names, or by their content.

    Without a column of labels, several columns of 0 and 1 are those of classes; and if the task is not classification,
    the only other column is the label. A file without a header has the path of an image in its first line.
    Raises ValueError if a named or required column is missing.
    """
    rows = list(read_csv_rows(csv_path))
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    columns = _find_columns(csv_path, header, names or {})
    label_columns = columns.pop("label", ())
    roles = {role: indices[0] for role, indices in columns.items()}
    if not label_columns and "label" in required and "image" in roles:
        label_columns = _label_columns_by_content(rows[1:], len(header), set(roles.values()), task)
    present = {*roles, *(["label"] if label_columns else [])}
    if set(required) <= present:
        return CsvTable(csv_path, roles, {index: header[index] for index in label_columns}, rows[1:])
    if not names and rows and (positions := _columns_without_header([cells for _, cells in rows], required, task)):
        described = ", ".join(
            f"column {', '.join(str(index + 1) for index in indices)} is the {role}"
            for role, indices in positions.items()
        )
        labels = {index: f"column {index + 1}" for index in positions.pop("label", ())}
        roles = {role: indices[0] for role, indices in positions.items()}
        return CsvTable(csv_path, roles, labels, rows, (f"no header in {csv_path.name}: {described}",))
    missing = next(role for role in required if role not in present)
    raise _missing_column(csv_path, rows, missing, {*roles.values(), *label_columns})


def _find_columns(csv_path: Path, header: list[str], names: ColumnNames) -> dict[str, tuple[int, ...]]:
    """Return the columns of each role by the given names, else by the usual ones."""
    columns = _named_columns(csv_path, header, names)
    lower = [cell.lower() for cell in header]
    for role, usual in USUAL_COLUMNS.items():
        taken = {index for indices in columns.values() for index in indices}
        index = next((lower.index(name) for name in usual if name in lower and lower.index(name) not in taken), None)
        if role not in columns and index is not None:
            columns[role] = (index,)
    return columns


def _named_columns(csv_path: Path, header: list[str], names: ColumnNames) -> dict[str, tuple[int, ...]]:
    columns = {}
    for role, given in names.items():
        if role not in USUAL_COLUMNS:
            raise unknown_name("role of a column", role, USUAL_COLUMNS)
        # A name may contain a comma; several names are separated by commas.
        is_one = isinstance(given, str) and (role != "label" or _column_index(header, given) is not None)
        parts = [given] if is_one else given.split(",") if isinstance(given, str) else given
        indices = []
        for part in map(str, parts):
            index = _column_index(header, part.strip())
            if index is None:
                raise unknown_name(f"column in {csv_path}", part.strip(), header, "the first line has the names")
            if index in indices:
                raise invalid(f"each column once as {role}", f"{part.strip()} twice")
            indices.append(index)
        if not indices:
            raise invalid(f"a column of {role}s in {csv_path}", "none")
        columns[role] = tuple(indices)
    return columns


def _column_index(header: list[str], name: str) -> int | None:
    """Return the column of a name, exactly so or else in any case; None if there is none."""
    lower = [cell.lower() for cell in header]
    if name in header:
        return header.index(name)
    return lower.index(name.lower()) if name.lower() in lower else None


def _label_columns_by_content(
    rows: Sequence[tuple[int, list[str]]], num_columns: int, taken: set[int], task: str | None
) -> tuple[int, ...]:
    """Return the columns that can only be the labels; none if that is in doubt."""
    free = [index for index in range(num_columns) if index not in taken]
    cells = {index: [row[index] if index < len(row) else "" for _, row in rows] for index in free}
    binary = tuple(index for index in free if rows and are_binary(cells[index]))
    if len(binary) > 1 and len(binary) == len(free):
        return binary
    return tuple(free) if task not in (None, DEFAULT_TASK) and len(free) == 1 else ()


def _columns_without_header(
    rows: Sequence[list[str]], required: Sequence[str], task: str | None
) -> dict[str, tuple[int, ...]]:
    """Return the columns of a first row that is not a header, as it has an image's path; empty if it has none.

    The label is the next cell, or the one before the path; with a task other than classification, all further columns
    that hold numbers. A further cell with a split's name is the split.
    """
    cells = rows[0]
    image = next((index for index, cell in enumerate(cells) if is_image_name(Path(cell.strip()).name)), None)
    if image is None:
        return {}
    others = [index for index in (*range(image + 1, len(cells)), *range(image - 1, -1, -1)) if cells[index].strip()]
    split = next((index for index in others if cells[index].strip().lower() in SPLIT_OF_FOLDER), None)
    labels = [index for index in others if index != split]
    if task in (None, DEFAULT_TASK) or not all(are_numbers([cells[index]]) for index in labels):
        labels = labels[:1]
    columns = {"image": (image,), "label": tuple(sorted(labels)), "split": () if split is None else (split,)}
    present = {role: indices for role, indices in columns.items() if indices}
    return present if set(required) <= set(present) else {}


def _missing_column(
    csv_path: Path, rows: Sequence[tuple[int, list[str]]], role: str, taken: Collection[int]
) -> ValueError:
    usual = USUAL_COLUMNS[role]
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    free = [index for index in range(len(header)) if index not in taken]
    names = [header[index] for index in free]
    suggestion = next(
        (match for name in usual for match in nearest(name, names, 1)), names[0] if len(names) == 1 else ""
    )
    numeric = [header[index] for index in free if _holds_numbers(rows[1:], index)]
    if role == "label" and len(numeric) > 1 and (not suggestion or suggestion in numeric):
        suggestion = ",".join(numeric[:5])
    next_step = f"name the column with --{role}-column {suggestion or 'NAME'}, or rename it to {usual[0]}"
    required = f"a column of {role}s in {csv_path} ({', '.join(usual)})"
    return invalid(required, ",".join(header) or "an empty file", nearest=suggestion, next_step=next_step)


def _holds_numbers(rows: Sequence[tuple[int, list[str]]], index: int) -> bool:
    return may_be_numbers([_cell(cells, index) for _, cells in rows])


def resolve_path(root: Path, text: str) -> Path:
    """Return the path that a cell names, relative to a folder; Windows' backslashes separate folders."""
    path = root / text
    if "\\" in text and os.sep == "/" and not path.exists():
        path = root / text.replace("\\", "/")
    return Path(os.path.normpath(path))


def _parse_row(csv_path: Path, line: int, cells: list[str], table: CsvTable, root: Path) -> CsvRow:
    text = ",".join(cells)
    values = {name: _cell(cells, index) for name, index in table.columns.items()}
    for name, value in values.items():
        if not value:
            noun = "an image" if name == "image" else f"a {name}"
            raise invalid(f"{noun} in line {line} of {csv_path}", text)
    split = values.get("split", "train")
    if split.lower() not in SPLIT_OF_FOLDER:
        raise unknown_name(f"split in line {line} of {csv_path}", split, SPLIT_OF_FOLDER)
    labels = tuple(_cell(cells, index) for index in table.label_columns)
    path = resolve_path(root, values["image"])
    return CsvRow(csv_path, line, path, labels, SPLIT_OF_FOLDER[split.lower()], text)


def _cell(cells: Sequence[str], index: int) -> str:
    return cells[index].strip() if index < len(cells) else ""


def _check_unique_paths(location: Path, rows: Sequence[CsvRow]) -> None:
    seen: dict[Path, CsvRow] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is not row:
            lines = " and ".join(f"line {one.line} ({', '.join([*one.labels, one.split])})" for one in (first, row))
            raise invalid(
                f"every image once in {location}", f"{row.path} in {lines}", next_step="keep one of the lines"
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


def _check_train_labels(location: Path, rows: Sequence[CsvRow], parsed: ParsedLabels) -> None:
    """Raise ValueError for a class that only images of another split have, where labels are written as names."""
    known = {name for row, names in zip(rows, parsed.shown, strict=False) if row.split == "train" for name in names}
    for row, names in zip(rows, parsed.shown, strict=False):
        for name in names:
            if name not in known:
                matches = nearest(name, known, 1)
                required = f"{SPLIT_TITLES[row.split]} labels that training images have too, in {location}"
                next_step = "rename it, or add training images of it"
                if are_numbers(parsed.names):
                    next_step += "; for amounts, set --task regression"
                raise invalid(required, f"{name!r} in line {row.line}", matches[0] if matches else "", next_step)
