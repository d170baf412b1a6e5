"""YOLO's text files: `data.yaml` with the classes, and for `images/.../NAME.jpg` the boxes in `labels/.../NAME.txt`.

A line is `class cx cy width height`, the class from 0 and the others as shares of the image's width and height. A line
with more numbers is a polygon, `class x1 y1 x2 y2 x3 y3 ...`, of which the box is the smallest around it. Where
data.yaml has a `kpt_shape`, the further numbers are keypoints instead, which are not read.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reslab.data.dataset_names import SPLIT_TITLES
from reslab.data.formats.box_listing import AnnotatedImage, AnnotatedObject, BoxListing
from reslab.data.formats.class_folders import find_image_files
from reslab.data.formats.file_listing import read_list
from reslab.data.segments import Polygons
from reslab.runtime.extras import require_extra
from reslab.spec.errors import invalid, unknown_name

MAX_YAML_BYTES = 1 << 20
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_YAML_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def is_yolo(path: Path) -> bool:
    """Return True for a data.yaml, or a folder with one, whose text has `names:` and `train:`."""
    yaml_path = _find_yaml(path)
    if yaml_path is None or yaml_path.stat().st_size > MAX_YAML_BYTES:
        return False
    lines = yaml_path.read_text("utf-8", errors="replace").splitlines()
    keys = {line.partition(":")[0].strip(" '\"") for line in lines if not line.startswith((" ", "\t", "#"))}
    return {"names", "train"} <= keys


def read_yolo(path: Path) -> BoxListing:
    """Return the annotated images that a data.yaml names. An image without a text file has no objects.

    Raises ValueError for a data.yaml that is not valid or names what does not exist; MissingExtraError without PyYAML.
    """
    yaml_path = _find_yaml(path)
    assert yaml_path is not None, path
    content = _load_yaml(yaml_path)
    classes, num_keypoint_values = _read_names(yaml_path, content), _count_keypoint_values(yaml_path, content)
    root = _data_root(yaml_path, content)
    splits = {}
    for split, keys in _YAML_KEYS.items():
        value = next((content[key] for key in keys if content.get(key)), None)
        if value is None:
            continue
        texts = value if isinstance(value, list) else [value]
        paths = [path for text in texts for path in _list_images(yaml_path, root, split, text)]
        if split == "test" and not any(os.path.isfile(_label_path(image)) for image in paths):
            continue
        splits[split] = [_read_image(image, classes, num_keypoint_values) for image in paths]
        if paths and not any(os.path.isfile(_label_path(image)) for image in paths):
            required = f"text files of {SPLIT_TITLES[split]} boxes such as {_label_path(paths[0])}"
            raise invalid(required, "none", next_step="put them into labels/ beside images/")
    return BoxListing(root, splits, classes)


def _find_yaml(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") else None
    return next((path / name for name in _YAML_NAMES if (path / name).is_file()), None)


def _load_yaml(path: Path) -> Mapping[str, Any]:
    require_extra("yaml", f"reading {path.name}")
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(content, dict):
        raise invalid(f"keys names and train in {path}", f"a {type(content).__name__}")
    return content


def _read_names(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the classes: a list, or a dictionary from 0 up without gaps."""
    names = content.get("names")
    if isinstance(names, dict):
        numbers = list(range(len(names)))
        if sorted(names, key=str) != sorted(numbers, key=str):
            raise invalid(f"names numbered from 0 to {len(names) - 1} in {path}", ", ".join(map(str, names))[:80])
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not names:
        raise invalid(f"a list of names in {path}", repr(names))
    texts = tuple(str(name) for name in names)
    if len(set(texts)) < len(texts):
        twice = next(name for name in texts if texts.count(name) > 1)
        raise invalid(f"every name once in {path}", f"{twice} again")
    if "nc" in content and content["nc"] != len(texts):
        raise invalid(f"nc: {len(texts)} for the {len(texts)} names in {path}", content["nc"], str(len(texts)))
    return texts


def _count_keypoint_values(path: Path, content: Mapping[str, Any]) -> int:
    """Return how many numbers of keypoints follow each box; 0 without a `kpt_shape`."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    if not is_shape or shape[1] not in (2, 3):
        raise invalid(f"kpt_shape: [number of keypoints, 2 or 3] in {path}", repr(shape), "[17, 3]")
    return int(shape[0] * shape[1])


def _data_root(yaml_path: Path, content: Mapping[str, Any]) -> Path:
    """Return the folder that paths are relative to: `path` if it exists, else the folder of data.yaml."""
    folder = yaml_path.parent.resolve()
    named = folder / str(content.get("path") or ".")
    return named.resolve() if named.is_dir() else folder


def _list_images(yaml_path: Path, root: Path, split: str, text: Any) -> list[Path]:
    """Return the images of a folder, or of a text file that lists them, one a line."""
    name = str(text)
    # Exports name ../train/images for a folder beside data.yaml.
    candidates = (root / name, yaml_path.parent.resolve() / name, root / name.removeprefix("../"))
    listing = next((path for path in candidates if os.path.exists(path)), None)
    if listing is None:
        raise invalid(f"the {SPLIT_TITLES[split]} images that {yaml_path} names", f"{root / name}, no such folder")
    if listing.is_dir():
        images = find_image_files(listing.resolve())
    else:
        lines = read_list(listing)
        folders = [listing.parent if line.startswith("./") else root for line in lines]
        images = [(folder / line).resolve() for folder, line in zip(folders, lines, strict=True)]
    if not images:
        raise invalid(f"images in {listing}", "none")
    return images


def _label_path(image: Path) -> Path:
    """Return the text file of an image: its path with the last folder `images` as `labels`."""
    parts = list(image.parts)
    places = [index for index, part in enumerate(parts[:-1]) if part.lower() == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_image(image: Path, classes: Sequence[str], num_keypoint_values: int) -> AnnotatedImage:
    source = _label_path(image)
    if not os.path.isfile(source):
        return AnnotatedImage(image, (), source)
    try:
        lines = source.read_text("utf-8-sig").splitlines()
        objects = [
            _read_line(line.split(), f"line {number}", classes, num_keypoint_values)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    except ValueError as error:
        return AnnotatedImage(image, (), source, error=str(error))
    return AnnotatedImage(image, tuple(objects), source, has_shares=True)


def _read_line(
    cells: Sequence[str], location: str, classes: Sequence[str], num_keypoint_values: int
) -> AnnotatedObject:
    if num_keypoint_values:
        if len(cells) not in (5, 5 + num_keypoint_values):
            required = f"class, cx, cy, width, height and {num_keypoint_values} numbers of keypoints in {location}"
            raise invalid(required, f"{len(cells)} numbers")
        cells = cells[:5]
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        raise invalid(f"numbers in {location}", " ".join(cells)[:60]) from None
    if len(values) < 5 or len(values) == 6 or len(values) % 2 == 0:
        raise invalid(
            f"class, cx, cy, width and height, or class and a polygon, in {location}", f"{len(values)} numbers"
        )
    if not values[0].is_integer() or not 0 <= values[0] < len(classes):
        raise unknown_name(f"class in {location}", cells[0], map(str, range(len(classes))), f"there are {len(classes)}")
    if any(abs(value) > 2 for value in values[1:] if math.isfinite(value)):
        got = " ".join(cells[1:])[:60]
        raise invalid(f"shares of the image's width and height, from 0 to 1, in {location}", got)
    category = classes[int(values[0])]
    if len(values) == 5:
        cx, cy, width, height = values[1:]
        corners = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        return AnnotatedObject(corners, category, location)
    points = np.array(values[1:], np.float64).reshape(-1, 2)
    box = (*points.min(0).tolist(), *points.max(0).tolist())
    return AnnotatedObject(box, category, location, segment=Polygons((points.reshape(-1),)))
