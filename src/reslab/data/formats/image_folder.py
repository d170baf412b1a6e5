"""Picture files as a data set: a folder of class folders, or whatever else lists files with their classes."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.data.cache import cache_dir, read_json, write_json
from reslab.data.dataset import Data
from reslab.data.decode import check_picture
from reslab.data.formats.class_folders import ClassFiles, find_splits, list_classes, name_in, same_classes
from reslab.data.formats.class_names import readable
from reslab.data.image_datasets import FileImages, Images
from reslab.data.splits import check_fraction, divided, evaluation_words, left_out
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_folder(
    root: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> Data:
    """The pictures of a folder: train/ with val/ and test/ as they are, or one folder split by `val_fraction` (0.2).

    A `split_record` of an earlier opening gives the same splits again, and leaves out what that one left out.
    Raises ValueError for every fault of the folders (see `folders`), and, listing the paths, for files that cannot be
    read unless `skip_bad_images`.
    """
    root = root.resolve()
    if val_fraction is not None:
        check_fraction(val_fraction)
    listed = {split: list_classes(folder) for split, folder in find_splits(root).items()}
    same_classes(listed)
    return open_listed(root, root, listed, val_fraction, split_seed, skip_bad_images, split_record)


def open_listed(
    place: Path,
    root: Path,
    listed: Mapping[str, ClassFiles],
    val_fraction: float | None,
    split_seed: int,
    skip_bad_images: bool,
    split_record: Mapping[str, Any] | None,
) -> Data:
    """Listed files, of the same classes in every split, as `open_folder` says; names are relative to `root`.

    `place` is what was opened: the folder, or the table that lists the files.
    """
    scanned = scan(root, [path for files in listed.values() for path in files.paths], place)
    bad = {name_in(root, found.path): found.error for found in scanned if found.error}
    skipped = left_out(root, bad, skip_bad_images, split_record)
    splits: Mapping[str, Images] = {
        split: _readable(root, files, {name for name, _ in skipped}) for split, files in listed.items()
    }
    classes = readable(listed["train"].classes)
    parts, record = divided(place, splits, classes, val_fraction, split_seed, split_record)
    if skipped:
        record = {**record, "skipped": [list(pair) for pair in skipped]}
    words = evaluation_words((found.height, found.width) for found in scanned if not found.error)
    preprocess = Preprocess(3, words, IMAGENET_MEAN, IMAGENET_STD)
    name, source = place.stem if place.is_file() else place.name, f"pictures in {place}"
    return Data(name, source, classes, preprocess, parts, record, skipped=skipped, location=str(place))


def _readable(root: Path, files: ClassFiles, bad: set[str]) -> FileImages:
    pairs = zip(files.paths, files.labels, strict=True)
    kept = [(path, label) for path, label in pairs if name_in(root, path) not in bad]
    gone = set(files.labels) - {label for _, label in kept}
    if gone:
        raise invalid(
            f"a readable picture in every class folder of {files.folder}",
            f"none in {', '.join(f'{files.classes[label]}/' for label in sorted(gone))}",
        )
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    return FileImages(tuple(path for path, _ in kept), labels, 3, root)


_FORMAT = "1"


@dataclass(frozen=True)
class Scanned:
    """What a look at a file told: its height and width in pixels, or why it cannot be read."""

    path: Path
    height: int = 0
    width: int = 0
    error: str = ""


def scan(root: Path, paths: Sequence[Path], what: Path | None = None) -> list[Scanned]:
    """Every file decoded to its end, in threads; results are kept in the cache by (path, size, modification time).

    `what` names the memory, where that is not the folder itself but a table in it.

    140 photographs of 500x375 take about half a second on two cores, a second look a few milliseconds.
    """
    memory = cache_dir() / "scans" / f"{hashlib.sha256(str((what or root).resolve()).encode()).hexdigest()[:24]}.json"
    remembered = read_json(memory)
    known = remembered.get("files", {}) if remembered.get("format") == _FORMAT else {}
    with ThreadPoolExecutor() as pool:
        states = list(pool.map(_state, paths))
        entries = list(pool.map(lambda path, state: _look(path, state, known.get(name_in(root, path))), paths, states))
    files = {name_in(root, path): entry for path, entry in zip(paths, entries, strict=True)}
    if files != known:
        write_json(memory, {"format": _FORMAT, "root": str(root.resolve()), "files": files})
    return [_scanned(path, entry) for path, entry in zip(paths, entries, strict=True)]


def _scanned(path: Path, entry: list[int | str]) -> Scanned:
    _, _, height, width, error = entry
    return Scanned(path, int(height), int(width), str(error))


def _state(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; looking at it tells
        return [-1, 0]
    return [stat.st_size, stat.st_mtime_ns]


def _look(path: Path, state: list[int], known: list[int | str] | None) -> list[int | str]:
    """[bytes, modification time, height, width, error] of a file, as known or found out now."""
    if known and known[:2] == state:
        return known
    try:
        height, width = check_picture(path)
    except ValueError as error:
        return [*state, 0, 0, str(error).removeprefix(f"{path}: ")]
    return [*state, height, width, ""]
