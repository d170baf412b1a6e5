"""Picture files as a data set: a folder of class folders, or whatever else lists files with their classes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reslab.data.cache import scan
from reslab.data.dataset import Data
from reslab.data.formats.class_folders import ClassFiles, find_splits, list_classes, name_in, same_classes
from reslab.data.formats.class_names import readable
from reslab.data.image_datasets import FileImages, Images
from reslab.data.splits import check_fraction, divided, evaluation_words, left_out
from reslab.spec.errors import refuse
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
        raise refuse(
            f"a readable picture in every class folder of {files.folder}",
            f"none in {', '.join(f'{files.classes[label]}/' for label in sorted(gone))}",
        )
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    return FileImages(tuple(path for path, _ in kept), labels, 3, root)
