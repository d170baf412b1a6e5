"""A CSV file of boxes, one a row: image, xmin, ymin, xmax, ymax, label, and optionally split.

Coordinates are taken as they are, in the convention of `reslab.data.boxes`. A row with empty cells for box and label
lists an image without objects.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.box_listing import AnnotatedImage, AnnotatedObject, BoxListing
from reslab.data.formats.class_folders import SPLIT_OF_FOLDER
from reslab.data.formats.csv_table import USUAL_COLUMNS, is_csv, read_csv_rows
from reslab.spec.errors import invalid, unknown_name

CORNER_COLUMNS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
)
"""The names of the columns of a box, in any case."""
SIDE_COLUMNS = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
"""The names of columns with the upper left corner and the sides of a box."""
_IMAGE_COLUMNS = (*USUAL_COLUMNS["image"], "image_id", "image_name")
_LABEL_COLUMNS = (*USUAL_COLUMNS["label"], "category_name", "object", "name")
ColumnNames = Mapping[str, str | Sequence[str]]


def is_box_csv(path: Path) -> bool:
    """Return True for a CSV file with four columns called as those of a box."""
    if not is_csv(path):
        return False
    try:
        _, header = next(read_csv_rows(path))
    except (StopIteration, ValueError):
        return False
    return _find_box([cell.strip().lower() for cell in header]) is not None


def read_box_csv(csv_path: Path, columns: ColumnNames | None = None) -> BoxListing:
    """Return the images of a CSV file with their boxes; paths are relative to the file's folder.

    `columns` names the columns of image, label and split where they are not called as usual. Raises ValueError with the
    line of a missing cell, a box that is not 4 numbers, an unknown split, and an image of two splits.
    """
    rows = list(read_csv_rows(csv_path))
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    box_columns = _find_box(header)
    if box_columns is None:
        required = f"columns {', '.join(CORNER_COLUMNS[0])} in {csv_path}"
        raise invalid(required, ",".join(header) or "an empty file", ",".join(CORNER_COLUMNS[0]))
    roles = _find_roles(csv_path, header, columns or {})
    objects: dict[str, list[AnnotatedObject]] = {}
    splits: dict[str, tuple[str, int]] = {}
    for line, cells in rows[1:]:
        padded = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
        name = padded[roles["image"]]
        if not name:
            raise invalid(f"an image in line {line} of {csv_path}", ",".join(cells))
        split = _read_split(padded[roles["split"]] if "split" in roles else "train", line, csv_path)
        first_split, first_line = splits.setdefault(name, (split, line))
        if first_split != split:
            got = f"{name} in {first_split} (line {first_line}) and {split} (line {line})"
            raise invalid(f"every image in one split in {csv_path}", got)
        objects.setdefault(name, [])
        values = [padded[index] for index in box_columns[0]]
        label = padded[roles["label"]]
        if any(values) or label:
            objects[name].append(_read_object(values, label, line, csv_path, box_columns[1]))
    images: dict[str, list[AnnotatedImage]] = {}
    for name, of_image in objects.items():
        path = _resolve(csv_path.parent, name)
        images.setdefault(splits[name][0], []).append(AnnotatedImage(path, tuple(of_image), csv_path))
    ordered = {split: images[split] for split in SPLIT_TITLES if split in images}
    return BoxListing(csv_path.parent, ordered)


def _find_box(header: Sequence[str]) -> tuple[list[int], bool] | None:
    """Return the columns of a box, and whether the last two are its sides."""
    for names in (*CORNER_COLUMNS, *SIDE_COLUMNS):
        if all(name in header for name in names):
            return [header.index(name) for name in names], names in SIDE_COLUMNS
    return None


def _find_roles(csv_path: Path, header: Sequence[str], names: ColumnNames) -> dict[str, int]:
    label = names.get("label")
    if label is not None and (not isinstance(label, str) or "," in label):
        next_step = "for numbers or several classes of an image, add --task regression or --task multi-label"
        raise invalid(f"one column of labels for the boxes in {csv_path}", label, next_step=next_step)
    usual = {"image": _IMAGE_COLUMNS, "label": _LABEL_COLUMNS, "split": USUAL_COLUMNS["split"]}
    roles = {}
    for role, candidates in usual.items():
        given = names.get(role)
        if given is not None and str(given).lower() not in header:
            raise unknown_name(f"column in {csv_path}", str(given), header, "the first line has the names")
        names_to_try = candidates if given is None else (str(given).lower(),)
        index = next((header.index(name) for name in names_to_try if name in header), None)
        if index is not None:
            roles[role] = index
        elif role != "split":
            next_step = f"name the column with --{role}-column NAME, or rename it to {candidates[0]}"
            raise invalid(f"a column of {role}s in {csv_path}", ",".join(header), "", next_step)
    return roles


def _read_split(text: str, line: int, csv_path: Path) -> str:
    if text.lower() not in SPLIT_OF_FOLDER:
        raise unknown_name(f"split in line {line} of {csv_path}", text, SPLIT_OF_FOLDER)
    return SPLIT_OF_FOLDER[text.lower()]


def _read_object(
    values: Sequence[str], label: str, line: int, csv_path: Path, has_sides: bool
) -> AnnotatedObject:  # fmt: skip
    location = f"line {line}"
    try:
        x1, y1, x2, y2 = map(float, values)
    except ValueError:
        raise invalid(f"4 numbers as the box in {location} of {csv_path}", ",".join(values)) from None
    if not label:
        raise invalid(f"a label in {location} of {csv_path}", "none")
    return AnnotatedObject((x1, y1, x1 + x2, y1 + y2) if has_sides else (x1, y1, x2, y2), label, location)


def _resolve(root: Path, text: str) -> Path:
    """Return the path that a cell names, relative to a folder; Windows' backslashes separate folders."""
    path = root / text
    return path if os.path.exists(path) else root / text.replace("\\", "/")
