"""What lies at a path, faults and all: the splits as far as they can be made out, and what is wrong with the layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reslab.data.formats.class_folders import (
    SPLIT_FOLDERS,
    ClassFiles,
    check_folder,
    find_splits,
    list_classes,
    loose_pictures,
    pictures_in,
    same_classes,
    subfolders,
)
from reslab.data.formats.csv_table import list_table
from reslab.data.image_datasets import FileImages, Images
from reslab.data.registry import DATA_SETS, open_data
from reslab.data.shard_images import ShardImages
from reslab.data.shard_index import index_shard
from reslab.data.webdataset.dataset import find_shards, shard_classes
from reslab.spec.errors import unknown


@dataclass(frozen=True, eq=False)
class Inventory:
    """The pictures of a path by split; `loose` are those without a class, `fault` why training would refuse it."""

    name: str
    location: str
    classes: tuple[str, ...]
    splits: Mapping[str, Images]
    loose: Mapping[str, FileImages]
    fault: str = ""


def take_inventory(name_or_path: str | Path, data_dir: Path | None = None) -> Inventory:
    """The pictures of a named data set, a folder, a CSV file or shards, without looking at any.

    Raises ValueError where there is nothing there, or a CSV file or a shard cannot be read as one.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text.lower() in DATA_SETS:
        data = open_data(text, data_dir)
        return Inventory(data.name, data.location, data.classes, data.splits, {})
    path = Path(text).expanduser()
    if not path.exists() and "/" not in text:
        raise unknown("data set, folder or file", text, DATA_SETS, "`reslab data check PATH` takes a path")
    path = path.resolve()
    if path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        return _of_table(path)
    return _of_shards(path) if find_shards(path) else _of_folder(path)


def _of_table(path: Path) -> Inventory:
    listed = list_table(path)
    return Inventory(path.stem, str(path), listed["train"].classes, _images(listed, path.parent), {})


def _of_shards(path: Path) -> Inventory:
    root = path.parent if path.is_file() else path
    found = {split: [s for shard in shards for s in index_shard(shard)] for split, shards in find_shards(path).items()}
    classes = shard_classes(root, {split: [s.label for s in samples] for split, samples in found.items()})
    place_of = {name: label for label, name in enumerate(classes)}
    splits = {}
    for split, samples in found.items():
        labels = [place_of[s.label] if s.label in place_of else int(s.label) for s in samples]
        spots = tuple(sample.spot for sample in samples)
        splits[split] = ShardImages(spots, torch.tensor(labels, dtype=torch.int64), 3, root)
    return Inventory(path.stem if path.is_file() else path.name, str(path), classes, splits, {})


def _of_folder(root: Path) -> Inventory:
    check_folder(root)
    folders = _split_folders(root)
    found = {split: {path.name: pictures_in(path) for path in subfolders(folder)} for split, folder in folders.items()}
    classes = tuple(sorted({name for files in found.values() for name in files}))
    listed = {}
    for split, files in found.items():
        pairs = [(path, classes.index(name)) for name, inside in files.items() for path in inside]
        paths, labels = tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
        listed[split] = ClassFiles(folders[split], classes, paths, labels)
    loose = {split: found_loose for split, folder in folders.items() if (found_loose := loose_pictures(folder))}
    return Inventory(
        root.name,
        str(root),
        classes,
        {split: images for split, images in _images(listed, root).items() if len(images)},
        {split: FileImages(tuple(p), torch.zeros(len(p), dtype=torch.int64), 3, root) for split, p in loose.items()},
        _fault(lambda: same_classes({split: list_classes(folder) for split, folder in find_splits(root).items()})),
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """train/, val/ and test/ where train/ is there, in whatever state; else the folder itself."""
    found = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in SPLIT_FOLDERS.items()
    }
    known = {split: folder for split, folder in found.items() if folder is not None}
    # A class may be called train: its pictures then lie in it directly, and its neighbours are no splits.
    others = {path.name for path in subfolders(root)} - {folder.name for folder in known.values()}
    if "train" not in known or (others and not subfolders(known["train"])):
        return {"train": root}
    return known


def _fault(strict: Callable[[], object]) -> str:
    try:
        strict()
    except ValueError as error:
        return str(error)
    return ""


def _images(listed: Mapping[str, ClassFiles], root: Path) -> dict[str, Images]:
    return {
        split: FileImages(files.paths, torch.tensor(files.labels, dtype=torch.int64), 3, root)
        for split, files in listed.items()
    }
