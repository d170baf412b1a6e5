"""CIFAR-10 and CIFAR-100 from torchvision's folder, binary files, class folders or shards; two classes as cifar2."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reslab.data.cache import decode_cached
from reslab.data.dataset_info import DatasetInfo, ReadResult, download_with_torchvision, search_dirs
from reslab.data.formats.class_folders import check_same_classes, list_labeled_files, subfolders
from reslab.data.image_datasets import FileImageDataset, TensorImageDataset, decode_all
from reslab.data.webdataset.tar import read_shards
from reslab.spec.errors import invalid


@dataclass(frozen=True)
class CifarLayout:
    """The published names of folders and files, and the position of the label in a record.

    `label_key` is the label's key in a pickled batch; in a binary record the label is the last of `label_bytes`.
    """

    num_classes: int
    python_folder: str
    python_files: dict[str, tuple[str, ...]]
    label_key: str
    binary_folder: str
    binary_files: dict[str, tuple[str, ...]]
    label_bytes: int
    torchvision_name: str
    archive: str


CIFAR10_LAYOUT = CifarLayout(
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
CIFAR100_LAYOUT = CifarLayout(
    num_classes=100,
    python_folder="cifar-100-python",
    python_files={"train": ("train",), "test": ("test",)},
    label_key="fine_labels",
    binary_folder="cifar-100-binary",
    binary_files={"train": ("train.bin",), "test": ("test.bin",)},
    label_bytes=2,  # the coarse label, then the fine one
    torchvision_name="CIFAR100",
    archive="cifar-100-python.tar.gz",
)


def read_cifar(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read CIFAR, 3x32x32, from the first folder that has it, or download it; labels are in the published order.

    Class names come from `classes.txt` (one a line, in label order) if it is beside the files.
    Raises ValueError if files are missing or damaged, or nothing is found and the download fails.
    """
    for directory in search_dirs(info, data_dir):
        for read in (_read_python, _read_binary, _read_tar_shards, _read_class_folders):
            result = read(info, directory)
            if result is not None:
                return result
    layout: CifarLayout = info.layout
    alternatives = "train/CLASS/ and test/CLASS/, or train-*.tar and test-*.tar"
    expected = f"{layout.archive}, {layout.python_folder}/, {layout.binary_folder}/, {alternatives}"
    directory = download_with_torchvision(info, layout.torchvision_name, data_dir, expected)
    result = _read_python(info, directory)
    assert result is not None, directory
    return result


SplitReader = Callable[[CifarLayout, list[Path]], TensorImageDataset]


def _find_complete_folder(directory: Path, subfolder: str, files_by_split: dict[str, tuple[str, ...]]) -> Path | None:
    """Return the folder that has all files, `directory/subfolder` or `directory`; None if it has none of them.

    Raises ValueError if it has only some of them.
    """
    names = [name for split in files_by_split.values() for name in split]
    for folder in (directory / subfolder, directory):
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(names):
            required, got = f"{', '.join(names)} in {folder}", f"{', '.join(missing)} missing"
            raise invalid(required, got, next_step="unpack the archive again")
    return None


def _read_python(info: DatasetInfo, directory: Path) -> ReadResult | None:
    layout: CifarLayout = info.layout
    return _read_batches(directory, layout, layout.python_folder, layout.python_files, _read_python_split)


def _read_batches(
    directory: Path,
    layout: CifarLayout,
    subfolder: str,
    files_by_split: dict[str, tuple[str, ...]],
    read_split: SplitReader,
) -> ReadResult | None:
    """Read the splits of a layout with many images a file; None if the directory does not have it."""
    folder = _find_complete_folder(directory, subfolder, files_by_split)
    if folder is None:
        return None
    splits = {split: read_split(layout, [folder / name for name in names]) for split, names in files_by_split.items()}
    return ReadResult(splits, str(folder), _read_class_names(folder))


def _read_python_split(layout: CifarLayout, paths: list[Path]) -> TensorImageDataset:
    batches = [_unpickle(path) for path in paths]
    pixels = np.concatenate([np.asarray(batch["data"], dtype=np.uint8) for batch in batches])
    labels = np.concatenate([np.asarray(batch[layout.label_key], dtype=np.int64) for batch in batches])
    return TensorImageDataset(torch.from_numpy(pixels.reshape(-1, 3, 32, 32)), torch.from_numpy(labels))


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of numpy arrays and plain values only: a pickle can name any function to run."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "encode"}
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it would run {module}.{name}")


def _unpickle(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, ImportError, IndexError, KeyError) as error:
        raise ValueError(f"{path}: truncated or not a CIFAR batch ({error}); unpack the archive again") from error
    if not isinstance(batch, dict) or "data" not in batch:
        raise invalid(f"{path} as a CIFAR batch, a dictionary with 'data'", f"a {type(batch).__name__}")
    return batch


def _read_binary(info: DatasetInfo, directory: Path) -> ReadResult | None:
    layout: CifarLayout = info.layout
    return _read_batches(directory, layout, layout.binary_folder, layout.binary_files, _read_binary_split)


def _read_binary_split(layout: CifarLayout, paths: list[Path]) -> TensorImageDataset:
    num_bytes = layout.label_bytes + 3 * 32 * 32
    for path in paths:
        if path.stat().st_size % num_bytes or path.stat().st_size == 0:
            got = f"{path.stat().st_size} bytes (truncated?)"
            raise invalid(f"{path} in records of {num_bytes} bytes", got, next_step="unpack the archive again")
    records = np.concatenate([np.fromfile(path, np.uint8).reshape(-1, num_bytes) for path in paths])
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    pixels = np.ascontiguousarray(records[:, layout.label_bytes :]).reshape(-1, 3, 32, 32)
    return TensorImageDataset(torch.from_numpy(pixels), torch.from_numpy(labels))


def _read_tar_shards(info: DatasetInfo, directory: Path) -> ReadResult | None:
    shards = {split: sorted(directory.glob(f"{split}-*.tar")) for split in ("train", "test")}
    if not any(shards.values()):
        return None
    for split, paths in shards.items():
        if not paths:
            got = "only shards of the other split"
            raise invalid(f"{split}-*.tar in {directory}", got, next_step="add the missing shards")
    splits = {split: _decode_shards(info.name, split, paths) for split, paths in shards.items()}
    return ReadResult(splits, str(directory), _read_class_names(directory))


def _decode_shards(name: str, split: str, paths: list[Path]) -> TensorImageDataset:
    return _from_cache(f"{name}-{split}", paths, lambda: read_shards(paths))


def _read_class_folders(info: DatasetInfo, directory: Path) -> ReadResult | None:
    folders = {split: directory / split for split in ("train", "test")}
    if not all(subfolders(folder) for folder in folders.values()):
        return None
    files_by_split = {split: list_labeled_files(folder) for split, folder in folders.items()}
    classes = check_same_classes(files_by_split)
    num_classes = info.layout.num_classes
    if len(classes) != num_classes:
        got = f"{len(classes)}: {', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}"
        required = f"the {num_classes} class folders of {info.name} in {directory}"
        raise invalid(required, got, next_step=f"for a dataset of your own: --data {directory}")
    splits = {split: _decode_files(info.name, split, files.to_dataset(None)) for split, files in files_by_split.items()}
    return ReadResult(splits, str(directory), classes)


def _decode_files(name: str, split: str, dataset: FileImageDataset) -> TensorImageDataset:
    return _from_cache(f"{name}-{split}", list(dataset.paths), lambda: decode_all(dataset))


def _from_cache(name: str, paths: list[Path], decode: Callable[[], TensorImageDataset]) -> TensorImageDataset:
    """Return `decode()`, or the same images and labels of the cache; names of images are dropped."""

    def arrays() -> tuple[Tensor, Tensor]:
        decoded = decode()
        return decoded.images, decoded.labels

    return TensorImageDataset(*decode_cached(name, paths, arrays))


def _read_class_names(folder: Path) -> tuple[str, ...]:
    file = folder / "classes.txt"
    return tuple(line.strip() for line in file.read_text().splitlines() if line.strip()) if file.is_file() else ()


_CIFAR2_LABELS = (0, 2)  # airplane and bird in the published order


def read_cifar2(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read CIFAR-10 and keep two classes, relabeled 0 and 1: 10,000 training and 2,000 test images, order unchanged.

    The book uses the 2,000 as its validation set; here they are the test split, so that no weights are selected on it.
    """
    result = read_cifar(replace(info, name="cifar10"), data_dir)
    has_names = set(info.classes) <= set(result.classes)
    labels = tuple(result.classes.index(name) for name in info.classes) if has_names else _CIFAR2_LABELS
    splits = {
        split: _select_classes(dataset, labels)
        for split, dataset in result.splits.items()
        if isinstance(dataset, TensorImageDataset)
    }
    return ReadResult(splits, result.location)


def _select_classes(dataset: TensorImageDataset, labels: tuple[int, ...]) -> TensorImageDataset:
    new_labels = torch.full((int(dataset.labels.max()) + 1,), -1, dtype=torch.int64)
    for new_label, old_label in enumerate(labels):
        new_labels[old_label] = new_label
    indices = (new_labels[dataset.labels] >= 0).nonzero().flatten()
    return TensorImageDataset(dataset.images[indices], new_labels[dataset.labels[indices]])
