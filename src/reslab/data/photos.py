"""A folder of class folders as a data set."""

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from reslab.data.dataset import Data
from reslab.data.folders import ClassFiles, find_splits, list_classes, same_classes
from reslab.data.images import FileImages, Images
from reslab.data.scan import Scanned, scan
from reslab.data.split import carve, carve_again, check_fraction
from reslab.spec.errors import refuse
from reslab.spec.preprocess import Preprocess

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL_PIXELS = 64
VAL_FRACTION = 0.2


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
    classes = same_classes(listed)
    scanned = scan(root, [path for files in listed.values() for path in files.paths])
    skipped = _skipped(root, scanned, skip_bad_images, split_record)
    splits: Mapping[str, Images] = {
        split: _readable(root, files, {name for name, _ in skipped}) for split, files in listed.items()
    }
    parts, record = _divided(root, splits, classes, val_fraction, split_seed, split_record)
    if skipped:
        record = {**record, "skipped": [list(pair) for pair in skipped]}
    preprocess = Preprocess(3, _words(scanned), IMAGENET_MEAN, IMAGENET_STD)
    return Data(
        root.name, f"pictures in {root}", classes, preprocess, parts, record, skipped=skipped, location=str(root)
    )


def _skipped(
    root: Path, scanned: list[Scanned], skip_bad_images: bool, record: Mapping[str, Any] | None
) -> tuple[tuple[str, str], ...]:
    """(path, reason) of the files to leave out; an error where there are more than was agreed to."""
    recorded: dict[str, str] = dict((record or {}).get("skipped", ()))
    bad = {found.path.relative_to(root).as_posix(): found.error for found in scanned if found.error}
    agreed = {name: bad.get(name, reason) for name, reason in recorded.items()}
    if not skip_bad_images and (new := {name: reason for name, reason in bad.items() if name not in agreed}):
        lines = "".join(f"\n  {root / name}: {reason}" for name, reason in new.items())
        what = "picture that" if len(new) == 1 else "pictures that"
        raise ValueError(
            f"{len(new)} {what} cannot be read in {root} (repair or remove, or skip with --skip-bad-images):{lines}"
        )
    return tuple(sorted({**agreed, **bad}.items()))


def _readable(root: Path, files: ClassFiles, bad: set[str]) -> FileImages:
    pairs = zip(files.paths, files.labels, strict=True)
    kept = [(path, label) for path, label in pairs if path.relative_to(root).as_posix() not in bad]
    labels = torch.tensor([label for _, label in kept], dtype=torch.int64)
    gone = [name for label, name in enumerate(files.classes) if not (labels == label).any()]
    if gone:
        raise refuse(
            f"a readable picture in every class folder of {files.folder}",
            f"none in {', '.join(f'{name}/' for name in gone)}",
        )
    return FileImages(tuple(path for path, _ in kept), labels, 3, root)


def _divided(
    root: Path,
    splits: Mapping[str, Images],
    classes: tuple[str, ...],
    val_fraction: float | None,
    split_seed: int,
    record: Mapping[str, Any] | None,
) -> tuple[dict[str, Images], dict[str, Any]]:
    if record is not None and record.get("how") == "stratified":
        if "val" in splits:
            raise refuse(
                f"the undivided folder {root} of the recorded split", "a folder with a validation part of its own"
            )
        again = carve_again(splits["train"], record)
        return {**again, **{name: splits[name] for name in splits if name != "train"}}, dict(record)
    if val_fraction is not None and "val" in splits:
        raise refuse(
            f"one validation set for {root}",
            "a validation folder and a fraction",
            next_step="leave --val-fraction away",
        )
    if len(splits) > 1 and val_fraction is None:
        return dict(splits), {"how": "given"}
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    parts, made = carve(splits["train"], fraction, split_seed, classes)
    return {**parts, **{name: splits[name] for name in splits if name != "train"}}, made


def _words(scanned: list[Scanned]) -> str:
    """Photographs as ImageNet's are evaluated; pictures that are all small at their own size, 224 would only blur."""
    sizes = {(found.height, found.width) for found in scanned if not found.error}
    sides = [min(size) for size in sizes]
    if not sides or max(sides) >= SMALL_PIXELS:
        return "resize(256) center-crop(224)"
    if len(sizes) == 1:
        return ""
    side = int(median(sides))
    return f"resize({side}) center-crop({side})"
