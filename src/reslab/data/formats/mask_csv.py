"""A CSV file that lists images with the files of their masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reslab.data.formats.class_folders import SPLIT_OF_FOLDER
from reslab.data.formats.csv_table import USUAL_COLUMNS, is_csv, read_csv_rows
from reslab.data.formats.mask_pairs import LAYOUTS, MaskPairs
from reslab.data.image_datasets import SPLIT_TITLES
from reslab.data.image_formats import is_image_name
from reslab.spec.errors import invalid, unknown_name

MASK_COLUMNS = ("mask", "mask_path", "mask_file", "mask_filename", "masks", "segmentation", "annotation", "label")
"""The names of a column of masks, in any case, the preferred ones first. It is the column of the role "label"."""
ColumnNames = Mapping[str, str | Sequence[str]]


def is_mask_csv(path: Path) -> bool:
    """Return True for a CSV file with two columns of image files: one called as masks usually are, or no labels."""
    if not is_csv(path):
        return False
    rows = read_csv_rows(path)
    try:
        (_, header), (_, first) = next(rows), next(rows)
    except (StopIteration, ValueError):
        return False
    names = [cell.strip().lower() for cell in header]
    files = {name for name, cell in zip(names, first, strict=False) if is_image_name(Path(cell.strip()).name)}
    has_labels = any(name in USUAL_COLUMNS["label"] for name in names)
    return len(files) >= 2 and (not has_labels or any(name in files for name in MASK_COLUMNS))


def list_csv_pairs(csv_path: Path, columns: ColumnNames | None = None) -> MaskPairs:
    """Return the images of a CSV file with their masks, by split; paths are relative to the file's folder.

    `columns` names the columns of image, label (the mask) and split where they are not called as usual.
    Raises ValueError with the line of a missing cell, an unknown split, and a file that is listed twice.
    """
    rows = list(read_csv_rows(csv_path))
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    indices = _find_columns(csv_path, header, columns or {})
    splits: dict[str, list[tuple[Path, Path]]] = {}
    seen: dict[Path, int] = {}
    for line, cells in rows[1:]:
        values = {role: cells[index].strip() if index < len(cells) else "" for role, index in indices.items()}
        missing = next((role for role, value in values.items() if not value), None)
        if missing:
            noun = {"image": "an image", "label": "a mask"}.get(missing, f"a {missing}")
            raise invalid(f"{noun} in line {line} of {csv_path}", ",".join(cells))
        split = values.get("split", "train").lower()
        if split not in SPLIT_OF_FOLDER:
            raise unknown_name(f"split in line {line} of {csv_path}", split, SPLIT_OF_FOLDER)
        image, mask = (_resolve(csv_path.parent, values[role]) for role in ("image", "label"))
        for path in (image, mask):
            if path in seen:
                raise invalid(f"every file once in {csv_path}", f"{path} in lines {seen[path]} and {line}")
            seen[path] = line
        splits.setdefault(SPLIT_OF_FOLDER[split], []).append((image, mask))
    ordered = {split: splits[split] for split in SPLIT_TITLES if split in splits}
    return MaskPairs(csv_path.parent, LAYOUTS[-1], ordered)


def _find_columns(csv_path: Path, header: list[str], names: ColumnNames) -> dict[str, int]:
    lower = [cell.lower() for cell in header]
    usual = {**USUAL_COLUMNS, "label": MASK_COLUMNS}
    indices = {}
    for role, candidates in usual.items():
        given = names.get(role)
        if given is not None:
            if str(given).lower() not in lower:
                raise unknown_name(f"column in {csv_path}", str(given), header, "the first line has the names")
            indices[role] = lower.index(str(given).lower())
            continue
        index = next((lower.index(name) for name in candidates if name in lower), None)
        if index is not None:
            indices[role] = index
    for role, noun in (("image", "images"), ("label", "masks")):
        if role not in indices:
            next_step = f"name the column with --{role}-column NAME, or rename it to {usual[role][0]}"
            raise invalid(f"a column of {noun} in {csv_path}", ",".join(header) or "an empty file", "", next_step)
    return indices


def _resolve(root: Path, text: str) -> Path:
    """Return the path that a cell names, relative to a folder; Windows' backslashes separate folders."""
    path = root / text
    return path if path.exists() else root / text.replace("\\", "/")
