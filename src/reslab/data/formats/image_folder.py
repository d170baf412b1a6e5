"""Picture files as a data set: a folder of class folders, or whatever else lists files with their classes."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.data.cache import cache_dir, read_json, write_json
from reslab.data.dataset import DatasetSplits
from reslab.data.decode import check_image
from reslab.data.formats.class_folders import (
    LabeledFiles,
    check_same_classes,
    find_split_folders,
    list_labeled_files,
    relative_name,
)
from reslab.data.formats.class_names import readable_class_names
from reslab.data.image_datasets import FileImageDataset, ImageDataset
from reslab.data.splits import apply_split, check_fraction, collect_skipped, default_eval_transform
from reslab.spec.errors import invalid
from reslab.spec.preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_image_folder(
    root: Path,
    val_fraction: float | None = None,
    split_seed: int = 0,
    skip_bad_images: bool = False,
    split_record: Mapping[str, Any] | None = None,
) -> DatasetSplits:
    """The pictures of a folder: train/ with val/ and test/ as they are, or one folder split by `val_fraction` (0.2).

    A `split_record` of an earlier opening gives the same splits again, and leaves out what that one left out.
    Raises ValueError for every fault of the folders (see `folders`), and, listing the paths, for files that cannot be
    read unless `skip_bad_images`.
    """
    root = root.resolve()
    if val_fraction is not None:
        check_fraction(val_fraction)
    files_by_split = {split: list_labeled_files(folder) for split, folder in find_split_folders(root).items()}
    check_same_classes(files_by_split)
    return open_image_files(root, root, files_by_split, val_fraction, split_seed, skip_bad_images, split_record)


def open_image_files(
    opened_path: Path,
    root: Path,
    files_by_split: Mapping[str, LabeledFiles],
    val_fraction: float | None,
    split_seed: int,
    skip_bad_images: bool,
    split_record: Mapping[str, Any] | None,
) -> DatasetSplits:
    """Listed files, of the same classes in every split, as `open_folder` says; names are relative to `root`.

    `place` is what was opened: the folder, or the table that lists the files.
    """
    scanned = scan_image_files(root, [path for files in files_by_split.values() for path in files.paths], opened_path)
    unreadable = {relative_name(root, file.path): file.error for file in scanned if file.error}
    skipped = collect_skipped(root, unreadable, skip_bad_images, split_record)
    splits: Mapping[str, ImageDataset] = {
        split: _readable_files(root, files, {name for name, _ in skipped}) for split, files in files_by_split.items()
    }
    classes = readable_class_names(files_by_split["train"].classes)
    final_splits, record = apply_split(opened_path, splits, classes, val_fraction, split_seed, split_record)
    if skipped:
        record = {**record, "skipped_files": [list(pair) for pair in skipped]}
    eval_transform = default_eval_transform((file.height, file.width) for file in scanned if not file.error)
    preprocess = Preprocess(3, eval_transform, IMAGENET_MEAN, IMAGENET_STD)
    name, source = opened_path.stem if opened_path.is_file() else opened_path.name, f"pictures in {opened_path}"
    return DatasetSplits(
        name, source, classes, preprocess, final_splits, record, skipped_files=skipped, location=str(opened_path)
    )


def _readable_files(root: Path, files: LabeledFiles, skipped_names: set[str]) -> FileImageDataset:
    pairs = zip(files.paths, files.labels, strict=True)
    kept = [(path, label) for path, label in pairs if relative_name(root, path) not in skipped_names]
    empty_labels = set(files.labels) - {label for _, label in kept}
    if empty_labels:
        raise invalid(
            f"a readable picture in every class folder of {files.folder}",
            f"none in {', '.join(f'{files.classes[label]}/' for label in sorted(empty_labels))}",
        )
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    return FileImageDataset(tuple(path for path, _ in kept), labels, 3, root)


_FORMAT = "1"


@dataclass(frozen=True)
class ScannedFile:
    """What a look at a file told: its height and width in pixels, or why it cannot be read."""

    path: Path
    height: int = 0
    width: int = 0
    error: str = ""


def scan_image_files(root: Path, paths: Sequence[Path], cache_owner: Path | None = None) -> list[ScannedFile]:
    """Every file decoded to its end, in threads; results are kept in the cache by (path, size, modification time).

    `what` names the memory, where that is not the folder itself but a table in it.

    140 photographs of 500x375 take about half a second on two cores, a second look a few milliseconds.
    """
    cache_path = (
        cache_dir() / "scans" / f"{hashlib.sha256(str((cache_owner or root).resolve()).encode()).hexdigest()[:24]}.json"
    )
    cache = read_json(cache_path)
    cached_files = cache.get("files", {}) if cache.get("format") == _FORMAT else {}
    with ThreadPoolExecutor() as pool:
        states = list(pool.map(_file_state, paths))
        entries = list(
            pool.map(
                lambda path, state: _scan_file(path, state, cached_files.get(relative_name(root, path))), paths, states
            )
        )
    files = {relative_name(root, path): entry for path, entry in zip(paths, entries, strict=True)}
    if files != cached_files:
        write_json(cache_path, {"format": _FORMAT, "root": str(root.resolve()), "files": files})
    return [_to_scanned_file(path, entry) for path, entry in zip(paths, entries, strict=True)]


def _to_scanned_file(path: Path, entry: list[int | str]) -> ScannedFile:
    _, _, height, width, error = entry
    return ScannedFile(path, int(height), int(width), str(error))


def _file_state(path: Path) -> list[int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; looking at it tells
        return [-1, 0]
    return [stat.st_size, stat.st_mtime_ns]


def _scan_file(path: Path, state: list[int], cached: list[int | str] | None) -> list[int | str]:
    """[bytes, modification time, height, width, error] of a file, as known or found out now."""
    if cached and cached[:2] == state:
        return cached
    try:
        height, width = check_image(path)
    except ValueError as error:
        return [*state, 0, 0, str(error).removeprefix(f"{path}: ")]
    return [*state, height, width, ""]
