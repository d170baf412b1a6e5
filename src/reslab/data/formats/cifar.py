"""CIFAR-10 and CIFAR-100 in the four forms they come in: torchvision's folder, binary files, class folders, shards.

CIFAR-10's airplanes and birds: the two-class data set of the book's chapters 7 and 8.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reslab.data.dataset_info import Entry, Found, download, download_dir, places
from reslab.data.decoded_cache import decoded_once, read_files
from reslab.data.formats.class_folders import list_classes, same_classes, subfolders
from reslab.data.image_datasets import TensorImages
from reslab.data.webdataset.tar import read_shards
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class CifarFiles:
    """The published names of folders and files, where a label stands in a record, torchvision's class and archive."""

    num_classes: int
    python_folder: str
    python_files: dict[str, tuple[str, ...]]
    label_key: str
    binary_folder: str
    binary_files: dict[str, tuple[str, ...]]
    label_bytes: int
    torchvision_name: str
    archive: str


CIFAR10_FILES = CifarFiles(
    num_classes=10,
    python_folder="cifar-10-batches-py",
    python_files={"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)},
    label_key="labels",
    binary_folder="cifar-10-batches-bin",
    binary_files={"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)},
    label_bytes=1,
    torchvision_name="CIFAR10",
    archive="cifar-10-python.tar.gz",
)
CIFAR100_FILES = CifarFiles(
    num_classes=100,
    python_folder="cifar-100-python",
    python_files={"train": ("train",), "test": ("test",)},
    label_key="fine_labels",
    binary_folder="cifar-100-binary",
    binary_files={"train": ("train.bin",), "test": ("test.bin",)},
    label_bytes=2,  # coarse, then fine
    torchvision_name="CIFAR100",
    archive="cifar-100-python.tar.gz",
)


def read_cifar(entry: Entry, data_dir: Path | None) -> Found:
    """The form that the first place holds, or torchvision's after a download; 3x32x32, labels in published order.

    Class names come from `classes.txt` (one a line, in label order) where it stands beside the files.
    Raises ValueError where a form is incomplete or broken, or nothing is found and the download fails.
    """
    looked = places(entry, data_dir)
    for place in looked:
        for read in (_python, _binary, _shards, _class_folders):
            found = read(entry, place)
            if found is not None:
                return found
    place = download_dir(entry, data_dir)
    files: CifarFiles = entry.layout
    forms = "train/CLASS/ and test/CLASS/, or train-*.tar and test-*.tar"
    wanted = f"{files.archive}, {files.python_folder}/, {files.binary_folder}/, {forms}"
    download(entry, lambda root: _fetch(files.torchvision_name, root), place, looked, wanted)
    found = _python(entry, place)
    assert found is not None, place
    return found


def _fetch(torchvision_name: str, root: str) -> None:
    import torchvision.datasets

    getattr(torchvision.datasets, torchvision_name)(root, download=True)


Reader = Callable[[CifarFiles, list[Path]], TensorImages]


def _complete_in(place: Path, inner: str, files: dict[str, tuple[str, ...]]) -> Path | None:
    """The folder, `place/inner` or `place`, that holds the files; None where none is there, an error where some are."""
    names = [name for split in files.values() for name in split]
    for folder in (place / inner, place):
        gone = [name for name in names if not (folder / name).is_file()]
        if not gone:
            return folder
        if len(gone) < len(names):
            raise invalid(
                f"{', '.join(names)} in {folder}", f"{', '.join(gone)} missing", next_step="unpack the archive again"
            )
    return None


def _python(entry: Entry, place: Path) -> Found | None:
    files: CifarFiles = entry.layout
    return _batches(place, files, files.python_folder, files.python_files, _python_split)


def _batches(
    place: Path, files: CifarFiles, inner: str, names_of: dict[str, tuple[str, ...]], read: Reader
) -> Found | None:
    """The splits of a layout that keeps several pictures a file, each split's files read by `read`."""
    folder = _complete_in(place, inner, names_of)
    if folder is None:
        return None
    splits = {split: read(files, [folder / name for name in names]) for split, names in names_of.items()}
    return Found(splits, str(folder), _named_classes(folder))


def _python_split(files: CifarFiles, paths: list[Path]) -> TensorImages:
    batches = [_unpickled(path) for path in paths]
    pixels = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
    labels = np.concatenate([np.asarray(batch[files.label_key], dtype=np.int64) for batch in batches])
    return TensorImages(torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels))


class _ArraysOnly(pickle.Unpickler):
    """A reader of pickles that builds numpy arrays and plain values, and runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def _unpickled(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: cut short or not a CIFAR batch ({error}); unpack the archive again") from error
    if not isinstance(found, dict) or "data" not in found:
        raise invalid(f"{path} as a CIFAR batch, a dictionary with 'data'", f"a {type(found).__name__}")
    return found


def _binary(entry: Entry, place: Path) -> Found | None:
    files: CifarFiles = entry.layout
    return _batches(place, files, files.binary_folder, files.binary_files, _binary_split)


def _binary_split(files: CifarFiles, paths: list[Path]) -> TensorImages:
    num_bytes = files.label_bytes + 3 * 32 * 32
    for path in paths:
        if path.stat().st_size % num_bytes or path.stat().st_size == 0:
            raise invalid(
                f"{path} in records of {num_bytes} bytes",
                f"{path.stat().st_size} bytes (cut short?)",
                next_step="unpack it again",
            )
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, num_bytes) for path in paths])
    labels = records[:, files.label_bytes - 1].astype(np.int64)
    pixels = np.ascontiguousarray(records[:, files.label_bytes :]).reshape(-1, 3, 32, 32)
    return TensorImages(torch.from_numpy(pixels), torch.from_numpy(labels))


def _shards(entry: Entry, place: Path) -> Found | None:
    shards = {split: sorted(place.glob(f"{split}-*.tar")) for split in ("train", "test")}
    if not any(shards.values()):
        return None
    for split, paths in shards.items():
        if not paths:
            raise invalid(
                f"{split}-*.tar in {place}", "only shards of the other split", next_step="add the missing shards"
            )
    splits = {split: _decoded_shards(entry.name, split, paths) for split, paths in shards.items()}
    return Found(splits, str(place), _named_classes(place))


def _decoded_shards(name: str, split: str, paths: list[Path]) -> TensorImages:
    return decoded_once(f"{name}-{split}", paths, lambda: read_shards(paths))


def _class_folders(entry: Entry, place: Path) -> Found | None:
    folders = {split: place / split for split in ("train", "test")}
    if not all(subfolders(folder) for folder in folders.values()):
        return None
    listed = {split: list_classes(folder) for split, folder in folders.items()}
    classes = same_classes(listed)
    num_classes = entry.layout.num_classes
    if len(classes) != num_classes:
        got = f"{len(classes)}: {', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}"
        raise invalid(
            f"the {num_classes} class folders of {entry.name} in {place}",
            got,
            next_step=f"for any pictures: --data {place}",
        )
    splits = {split: _decoded_files(entry, split, files.paths, files.labels) for split, files in listed.items()}
    return Found(splits, str(place), classes)


def _decoded_files(entry: Entry, split: str, paths: tuple[Path, ...], labels: tuple[int, ...]) -> TensorImages:
    return decoded_once(
        f"{entry.name}-{split}", list(paths), lambda: read_files(list(paths), list(labels), entry.channels)
    )


def _named_classes(folder: Path) -> tuple[str, ...]:
    file = folder / "classes.txt"
    return tuple(line.strip() for line in file.read_text().splitlines() if line.strip()) if file.is_file() else ()


CIFAR10 = "cifar10"
PUBLISHED_LABELS = (0, 2)  # airplane and bird in CIFAR-10's own order


def read_cifar2(entry: Entry, data_dir: Path | None) -> Found:
    """CIFAR-10 as it is found, its two classes relabelled 0 and 1: 10,000 train, 2,000 test, in CIFAR-10's order.

    The book calls the 2,000 its validation set; here they are the test split, so that no weights are chosen on them.
    """
    found = read_cifar(replace(entry, name=CIFAR10), data_dir)
    labels = _labels(entry.classes, found.classes)
    splits = {split: _two(images, labels) for split, images in found.splits.items() if isinstance(images, TensorImages)}
    return Found(splits, found.location)


def _labels(wanted: tuple[str, ...], classes: tuple[str, ...]) -> tuple[int, ...]:
    """Where the two classes stand among those that the place names, else among the published ones."""
    return tuple(classes.index(name) for name in wanted) if set(wanted) <= set(classes) else PUBLISHED_LABELS


def _two(images: TensorImages, labels: tuple[int, ...]) -> TensorImages:
    new = torch.full((int(images.labels.max()) + 1,), -1, dtype=torch.int64)
    for label, old in enumerate(labels):
        new[old] = label
    chosen = (new[images.labels] >= 0).nonzero().flatten()
    return TensorImages(images.images[chosen], new[images.labels[chosen]])
