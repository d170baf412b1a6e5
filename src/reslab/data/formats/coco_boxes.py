"""COCO's JSON: `annotations/instances_SPLIT.json` with folders of images, or `SPLIT/_annotations.coco.json`.

A box is [x, y, width, height] from the upper left corner, so that (x, y, x + width, y + height) is the convention of
`reslab.data.boxes`. Categories in the order of their ids, which may have gaps, have the labels 1, 2, ...
"""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.box_listing import AnnotatedImage, AnnotatedObject, BoxListing
from reslab.data.formats.class_folders import SPLIT_OF_FOLDER, split_of_folder, subfolders
from reslab.data.segments import Polygons, RunLengths, Segment
from reslab.spec.errors import invalid, unknown_name

MAX_JSON_BYTES = 1 << 30
"""The size of a file of annotations beyond which it is refused; that of COCO 2017's training images is 448 MB.

Reading takes about eight times the size in memory.
"""
_EXPORT_NAME = "_annotations.coco.json"
_MAX_INTEGER = 1 << 53
_LISTS = ("images", "annotations", "categories")
Record = Mapping[str, Any]


def is_coco_folder(path: Path) -> bool:
    """Return True for a folder with files of annotations under COCO's names."""
    return path.is_dir() and bool(_find_files(path))


def read_coco(root: Path) -> BoxListing:
    """Return the annotated images of a folder.

    Raises ValueError for a file that is not COCO's JSON or too large, two files of one split, and splits whose
    categories differ.
    """
    splits: dict[str, list[AnnotatedImage]] = {}
    first: tuple[Path, dict[int, str]] | None = None
    sources: dict[str, Path] = {}
    for path, split in _find_files(root):
        if split in sources:
            got = f"{sources[split].relative_to(root)} and {path.relative_to(root)}"
            raise invalid(f"one file of {SPLIT_TITLES[split]} annotations in {root}", got, next_step="keep one")
        sources[split] = path
        content = _load_json(path)
        categories = _read_categories(path, content["categories"])
        if first is not None and categories != first[1]:
            differing = sorted(set(categories.items()) ^ set(first[1].items()))[:3]
            raise invalid(f"the categories of {first[0]} in {path}", f"others: {differing}")
        first = first or (path, categories)
        splits[split] = _read_images(root, path, split, content, categories)
    assert first is not None, root
    ordered = {split: splits[split] for split in SPLIT_TITLES if split in splits}
    return BoxListing(root, ordered, tuple(first[1].values()), tuple(first[1]))


def read_coco_file(path: Path) -> BoxListing:
    """Return the annotated images of one file, with their stated sizes; the files of the images need not be there.

    Raises ValueError for a file that is not COCO's JSON or too large, and an image without a height and width.
    """
    content = _load_json(path)
    categories = _read_categories(path, content["categories"])
    split = _split_of_file(path.stem) or split_of_folder(path.parent.name) or "test"
    root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    images = _read_images(root, path, split, content, categories)
    without = [image for image in images if image.size is None]
    if without:
        got = f"{len(without):,} of {len(images):,} without, the first {without[0].path.name}"
        raise invalid(f"a height and width of each image in {path}", got, next_step="name the folder of the images")
    return BoxListing(root, {split: images}, tuple(categories.values()), tuple(categories))


def _find_files(root: Path) -> list[tuple[Path, str]]:
    """Return the files of annotations with their splits."""
    exported = [(folder / _EXPORT_NAME, split_of_folder(folder.name)) for folder in subfolders(root)]
    files = [(path, split) for path, split in exported if split and path.is_file()]
    if (root / _EXPORT_NAME).is_file():
        files.append((root / _EXPORT_NAME, "train"))
    folder = next((one for one in subfolders(root) if one.name.lower() == "annotations"), None)
    if folder is not None:
        paths = sorted(folder.glob("*.json"))
        named = [path for path in paths if path.name.startswith("instances_")]
        # Other folders have JSON files of other formats beside their images.
        named = named or [path for path in paths if _split_of_file(path.stem)]
        files += [(path, _split_of_file(path.stem) or "train") for path in named]
    return files


def _split_of_file(stem: str) -> str | None:
    """Return the split that a part of a name stands for: `instances_train2017` is train."""
    parts = re.findall(r"[a-z]+", stem.lower())
    return next((SPLIT_OF_FOLDER[part] for part in parts if part in SPLIT_OF_FOLDER), None)


def _load_json(path: Path) -> Mapping[str, Any]:
    num_bytes = path.stat().st_size
    if num_bytes > MAX_JSON_BYTES:
        required = f"annotations of at most {MAX_JSON_BYTES >> 20:,} MiB, as they are read into memory as a whole"
        raise invalid(required, f"{path} of {num_bytes >> 20:,} MiB", next_step="divide it, or leave out segmentations")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    missing = [key for key in _LISTS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise invalid(f"the lists {', '.join(_LISTS)} in {path}", f"no list {missing[0]}")
    for key in _LISTS:
        bad = next((entry for entry in content[key] if not isinstance(entry, dict)), None)
        if bad is not None:
            raise invalid(f"objects in the list {key} of {path}", str(bad)[:60])
    return dict(content)


def _read_categories(path: Path, records: Sequence[Record]) -> dict[int, str]:
    """Return the names of the categories by rising id."""
    names: dict[int, str] = {}
    for record in records:
        number: Any = record.get("id")
        name: Any = record.get("name")
        if not _is_id(number) or not isinstance(name, str) or not name:
            raise invalid(f"an id and a name of each category in {path}", f"{dict(record)}")
        if number in names or name in names.values():
            raise invalid(f"every category once in {path}", f"{name} of id {number} again")
        names[int(number)] = name
    return dict(sorted(names.items()))


def _read_images(
    root: Path, path: Path, split: str, content: Mapping[str, Any], categories: Mapping[int, str]
) -> list[AnnotatedImage]:
    by_image = _objects_by_image(path, content, categories)
    folders = _image_folders(root, path, split)
    images, seen = [], set()
    for record in content["images"]:
        number, name = record.get("id"), record.get("file_name")
        if not _is_id(number) or not isinstance(name, str) or not name:
            raise invalid(f"an id and a file_name of each image in {path}", f"{dict(record)}"[:120])
        if number in seen:
            raise invalid(f"every image id once in {path}", f"{number} again, of {name}")
        seen.add(number)
        height, width = record.get("height"), record.get("width")
        size = (int(height), int(width)) if _is_id(height) and _is_id(width) and height and width else None
        # Most images lie in the folder of the last one: it is tried first.
        folder_of_image = next((folder for folder in folders if os.path.isfile(folder / name)), None)
        if folder_of_image is not None and folder_of_image is not folders[0]:
            folders = [folder_of_image, *(folder for folder in folders if folder is not folder_of_image)]
        image_path = ((folder_of_image or folders[0]) / name).absolute()
        objects, error = by_image.pop(number, ((), ""))
        images.append(AnnotatedImage(image_path, tuple(objects), path, number, size, error))
    if by_image:
        (number, (objects, _)) = next(iter(by_image.items()))
        location = objects[0].location if objects else "an annotation"
        raise invalid(f"images with the image_id of each annotation in {path}", f"{location} of image {number}, none")
    return images


def _image_folders(root: Path, path: Path, split: str) -> list[Path]:
    """Return the folders where the images of a file may lie, the likely ones first."""
    if path.name == _EXPORT_NAME:
        return [path.parent]
    suffix = path.stem.partition("_")[2] or path.stem
    names = [suffix, split, *(name for name, of_split in SPLIT_OF_FOLDER.items() if of_split == split)]
    folders = [parent / name for parent in (root, root / "images") for name in names]
    candidates = [*folders, root / "images", root]
    return [folder for folder in candidates if folder.is_dir()] or [root]


def _objects_by_image(
    path: Path, content: Mapping[str, Any], categories: Mapping[int, str]
) -> dict[int, tuple[list[AnnotatedObject], str]]:
    """Return the objects of each image id, and the first error in them."""
    objects: defaultdict[int, list[AnnotatedObject]] = defaultdict(list)
    errors: dict[int, str] = {}
    seen = set()
    for index, record in enumerate(content["annotations"]):
        number, image_id = record.get("id", f"number {index}"), record.get("image_id")
        if not _is_id(image_id):
            raise invalid(f"an image_id of annotation {number} in {path}", repr(image_id))
        if not isinstance(number, int | str):
            raise invalid(f"a number as the id of each annotation in {path}", repr(number)[:60])
        if number in seen:
            raise invalid(f"every annotation id once in {path}", f"{number} again")
        seen.add(number)
        try:
            objects[image_id].append(_read_object(record, f"annotation {number}", categories))
        except ValueError as error:
            objects[image_id] += []
            errors.setdefault(image_id, str(error))
    return {image_id: (of_image, errors.get(image_id, "")) for image_id, of_image in objects.items()}


def _read_object(record: Record, location: str, categories: Mapping[int, str]) -> AnnotatedObject:
    box: Any = record.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise invalid(f"a bbox of 4 numbers in {location}", repr(box))
    number: Any = record.get("category_id")
    if not _is_id(number) or number not in categories:
        raise unknown_name(f"category_id of {location}", str(number), map(str, categories))
    area: Any = record.get("area")
    is_area = _is_number(area) and math.isfinite(area) and area >= 0
    x, y, width, height = map(float, box)
    return AnnotatedObject(
        (x, y, x + width, y + height),
        categories[number],
        location,
        crowd=bool(record.get("iscrowd", 0)),
        difficult=False,
        area=float(area) if is_area else None,
        segment=_read_segment(record.get("segmentation"), location),
    )


def _read_segment(value: Any, location: str) -> Segment | None:
    """Return a segmentation, to be decoded on demand; None without one."""
    if not value:
        return None
    if isinstance(value, dict):
        size: Any = value.get("size")
        counts: Any = value.get("counts")
        is_size = isinstance(size, list) and len(size) == 2 and all(map(_is_id, size))
        if is_size and isinstance(counts, str) and counts.isascii():
            return RunLengths(counts.encode(), *size)
        if is_size and isinstance(counts, list) and all(map(_is_id, counts)):
            return RunLengths(tuple(counts), *size)
    elif isinstance(value, list):
        polygons = [polygon for part in value if (polygon := _to_polygon(part)) is not None]
        if len(polygons) == len(value):
            return Polygons(tuple(polygons))
    required = f"polygons of at least 3 points, or size and counts, as the segmentation of {location}"
    raise invalid(required, f"{value!r}"[:60])


def _to_polygon(value: Any) -> np.ndarray | None:
    """Return the corners of a polygon (x1, y1, x2, y2, ...); None unless they are 3 or more, of finite numbers."""
    if not isinstance(value, list) or len(value) < 6 or len(value) % 2:
        return None
    try:
        points = np.array(value)
    except ValueError:  # lists of several lengths
        return None
    is_valid = points.ndim == 1 and points.dtype.kind in "if" and bool(np.isfinite(points).all())
    return points.astype(np.float64) if is_valid else None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _MAX_INTEGER


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_id(value)
