"""Image files with masks as a dataset for segmentation: two folders, PASCAL VOC's layout, or a CSV file of pairs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.data.cache import ScannedFile, scan_files, scan_images
from reslab.data.dataset import IMAGENET_MEAN, IMAGENET_STD, DatasetListing, DatasetSplits
from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.class_folders import SPLIT_OF_FOLDER
from reslab.data.formats.csv_table import USUAL_COLUMNS, is_csv, read_csv_rows
from reslab.data.formats.file_listing import relative_name
from reslab.data.formats.mask_classes import (
    MaskClasses,
    MaskMapping,
    ScannedMask,
    count_classes,
    find_mask_classes,
    record_mask_values,
)
from reslab.data.formats.mask_pairs import LAYOUTS, MaskPairs, check_paired, find_layout, iter_images, list_mask_pairs
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.image_formats import is_image_name
from reslab.data.mask_colors import format_color, pack_colors, unpack_colors
from reslab.data.masks import VOID, MaskEncoding, MaskValues, StoredMask, read_stored_mask
from reslab.data.splits import SplitOptions, apply_split, collect_skipped
from reslab.data.target_datasets import MaskFiles, MaskImageDataset
from reslab.spec.errors import invalid, unknown_name
from reslab.spec.preprocess import Preprocess

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


TASK = "segmentation"
EVAL_SIDE = 256
_MAX_VALUES = 1024


def is_mask_folder(path: Path) -> bool:
    """Return True for a folder of images with masks."""
    return find_layout(path) is not None


def open_mask_folder(root: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images of a folder with their masks.

    Raises ValueError for images without a mask and masks without an image, classes that cannot be made out, and
    files that cannot be read, masks of another size than their image or with a number of no class unless these may be
    skipped.
    """
    root = root.resolve()
    layout = find_layout(root)
    assert layout is not None, root
    pairs = list_mask_pairs(root, layout)
    check_paired(pairs)
    folders = sorted({relative_name(root, mask.parent) for _, mask in pairs.all_pairs})
    shown = ", ".join(f"{folder}/" for folder in folders[:3])
    return _open_pairs(root, pairs, options, (f"the images have masks in {shown}: the task is {TASK}",))


def open_mask_csv(csv_path: Path, options: SplitOptions) -> DatasetSplits:
    """Open the images that a CSV file lists with their masks. Raises ValueError as `open_mask_folder` does."""
    csv_path = csv_path.resolve()
    columns = options.columns or (options.record or {}).get("columns")
    message = f"{csv_path.name} lists images with masks: the task is {TASK}"
    data = _open_pairs(csv_path, list_csv_pairs(csv_path, columns), options, (message,))
    return replace(data, split_record={**data.split_record, "columns": dict(columns)}) if columns else data


def _open_pairs(location: Path, pairs: MaskPairs, options: SplitOptions, messages: tuple[str, ...]) -> DatasetSplits:
    root = pairs.root
    if "train" not in pairs.splits:
        raise invalid(f"training images with masks in {location}", f"only {', '.join(pairs.splits) or 'none'}")
    images, masks = _scan(location, pairs)
    classes = _recorded_classes(options.record) or find_mask_classes(
        root, pairs.layout, masks.values(), options.mask_values
    )
    bad = _find_bad_pairs(pairs, images, masks, classes.encoding)
    skipped = collect_skipped(root, bad, options)
    skipped_names = {name for name, _ in skipped}
    kept = {
        split: [pair for pair in split_pairs if relative_name(root, pair[0]) not in skipped_names]
        for split, split_pairs in pairs.splits.items()
    }
    splits, record = apply_split(
        location, {split: _to_dataset(split_pairs, root, classes.encoding) for split, split_pairs in kept.items()},
        classes.names, options,
    )  # fmt: skip
    record = {**record, "classes": list(classes.names), "mask_encoding": classes.encoding.to_dict()}
    if options.mask_values is not None:
        record["mask_values"] = record_mask_values(options.mask_values)
    if skipped:
        record["skipped_files"] = [list(pair) for pair in skipped]
    kept_masks = {
        name: masks[name] for name in (relative_name(root, mask) for pairs in kept.values() for _, mask in pairs)
    }
    sizes = [(file.height, file.width) for file in images.values() if not file.error]
    return DatasetSplits(
        name=location.stem if location.is_file() else location.name,
        source=f"images with masks in {location}",
        classes=classes.names,
        preprocess=Preprocess(3, default_mask_transform(sizes), IMAGENET_MEAN, IMAGENET_STD),
        splits=splits,
        split_record=record,
        skipped_files=skipped,
        decode_warnings=tuple((name, file.warning) for name, file in images.items() if file.warning),
        location=str(location),
        messages=(*messages, *classes.messages, *pairs.messages, *_void_messages(kept_masks, classes.encoding)),
        task=TASK,
    )


def _recorded_classes(record: Mapping[str, Any] | None) -> MaskClasses | None:
    if not record or "mask_encoding" not in record:
        return None
    return MaskClasses(tuple(record["classes"]), MaskEncoding.from_dict(record["mask_encoding"]))


def default_mask_transform(sizes: Iterable[tuple[int, int]]) -> str:
    """Return the evaluation transform for images of these (height, width): large ones are resized, whole."""
    largest = max((min(size) for size in sizes), default=0)
    return f"resize({EVAL_SIDE})" if largest > EVAL_SIDE else ""


def _to_dataset(pairs: Sequence[tuple[Path, Path]], root: Path, encoding: MaskEncoding) -> MaskImageDataset:
    labels = torch.zeros(len(pairs), dtype=torch.int64)
    images = FileImageDataset(tuple(image for image, _ in pairs), labels, 3, root)
    return MaskImageDataset(images, MaskFiles(tuple(mask for _, mask in pairs), encoding, root))


def _scan(location: Path, pairs: MaskPairs) -> tuple[dict[str, ScannedFile], dict[str, ScannedMask]]:
    """Return what reading every image and every mask once found, by the names of the images and of the masks."""
    images = scan_images(location, pairs.root, [image for image, _ in pairs.all_pairs])
    rows = scan_files("mask-scans", location, pairs.root, [mask for _, mask in pairs.all_pairs], _scan_mask)
    return images, {name: ScannedMask(*row[1:]) for name, row in rows.items()}


def _scan_mask(path: Path) -> list[Any]:
    try:
        stored = read_stored_mask(path, check_complete=True)
    except ValueError as error:
        return [0, 0, str(error).removeprefix(f"{path}: "), {}, {}]
    counts = _count_values(stored)
    if len(counts) > _MAX_VALUES:
        required = f"at most {_MAX_VALUES:,} different values in a mask"
        reason = str(invalid(required, f"{len(counts):,}", next_step="is it a photograph, or was it smoothed?"))
        return [stored.height, stored.width, reason, {}, {}]
    palette = {}
    if stored.palette is not None:
        # A file may have a shorter palette than the numbers it stores.
        used = [value for value in counts if int(value) < len(stored.palette)]
        palette = {value: format_color(tuple(stored.palette[int(value)].tolist())) for value in used}
    return [stored.height, stored.width, "", counts, palette]


def _count_values(stored: StoredMask) -> dict[str, int]:
    """Return the number of pixels of each number (`7`) or color (`#ff8000`)."""
    if stored.values.ndim == 3:
        packed, counts = np.unique(pack_colors(stored.values), return_counts=True)
        return dict(zip(map(format_color, unpack_colors(packed)), counts.tolist(), strict=True))
    if stored.values.dtype == np.uint8:
        histogram = np.bincount(stored.values.reshape(-1), minlength=256)
        return {str(number): int(histogram[number]) for number in histogram.nonzero()[0].tolist()}
    numbers, counts = np.unique(stored.values, return_counts=True)
    return {str(number): count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}


def _find_bad_pairs(
    pairs: MaskPairs, images: Mapping[str, ScannedFile], masks: Mapping[str, ScannedMask], encoding: MaskEncoding
) -> dict[str, str]:
    """Return why an image cannot be used, by its name: itself, its mask, their sizes, or a number of no class."""
    bad = {}
    for image_path, mask_path in pairs.all_pairs:
        name, mask_name = (relative_name(pairs.root, path) for path in (image_path, mask_path))
        image, mask = images[name], masks[mask_name]
        if image.error:
            bad[name] = image.error
        elif reason := _mask_error(image, mask, encoding):
            bad[name] = f"mask {mask_name}: {reason}"
    return bad


def _mask_error(image: ScannedFile, mask: ScannedMask, encoding: MaskEncoding) -> str:
    if mask.error:
        return mask.error
    if (mask.height, mask.width) != (image.height, image.width):
        is_turned = (mask.width, mask.height) == (image.height, image.width)
        next_step = "EXIF may rotate the image: export the mask of the rotated one" if is_turned else ""
        required, got = f"the size of the image, {image.height}x{image.width}", f"{mask.height}x{mask.width}"
        return str(invalid(required, got, next_step=next_step or "export the mask at that size, without smoothing"))
    try:
        count_classes(mask, encoding)
    except ValueError as error:
        return str(error)
    return ""


def _void_messages(masks: Mapping[str, ScannedMask], encoding: MaskEncoding) -> tuple[str, ...]:
    void = [name for name, mask in masks.items() if count_classes(mask, encoding).keys() == {VOID}]
    if not void:
        return ()
    noun = "1 mask is" if len(void) == 1 else f"{len(void):,} masks are"
    return (f"{noun} void throughout, so nothing is learned from the image ({', '.join(void[:3])})",)


def list_mask_folder(root: Path, mask_values: MaskValues | MaskMapping | None = None) -> DatasetListing:
    """List the images of a folder with their masks, also if training would refuse them."""
    layout = find_layout(root)
    assert layout is not None, root
    return _list_pairs(root, MaskPairs(root, layout, {}), lambda: list_mask_pairs(root, layout), mask_values)


def list_mask_csv(
    csv_path: Path, columns: ColumnNames | None = None, mask_values: MaskValues | MaskMapping | None = None
) -> DatasetListing:
    """List the images of a CSV file with their masks. Raises ValueError as `list_csv_pairs` does."""
    pairs = list_csv_pairs(csv_path, columns)
    return _list_pairs(csv_path, pairs, lambda: pairs, mask_values)


def _list_pairs(
    location: Path, pairs: MaskPairs, list_pairs: Callable[[], MaskPairs], mask_values: MaskValues | MaskMapping | None
) -> DatasetListing:
    """Return the listing of pairs; the error of listing them or their classes is its `layout_error`."""
    layout_error = ""
    classes = MaskClasses((), MaskEncoding((0,)))
    try:
        pairs = list_pairs()
        classes = find_mask_classes(pairs.root, pairs.layout, _scan(location, pairs)[1].values(), mask_values)
        check_paired(pairs)
    except ValueError as error:
        layout_error = str(error)
    splits: dict[str, ImageDataset] = {}
    if classes.names:  # without them no mask can be read
        splits = {split: _to_dataset(part, pairs.root, classes.encoding) for split, part in pairs.splits.items()}
    name = location.stem if location.is_file() else location.name
    messages = (*classes.messages, *pairs.messages)
    return DatasetListing(
        name, str(location), classes.names, splits, layout_error=layout_error, messages=messages, task=TASK
    )


def list_images_with_masks(root: Path) -> list[Path]:
    """Return the images of a folder of images with masks, for prediction."""
    return list(iter_images(root))


def list_csv_images(csv_path: Path) -> list[Path]:
    """Return the images of a CSV file of images with masks, for prediction."""
    return [image for image, _ in list_csv_pairs(csv_path).all_pairs]
