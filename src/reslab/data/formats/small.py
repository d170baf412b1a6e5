"""MNIST's file format, idx, and the data sets kept in it.

The handwritten digits that scikit-learn bundles: 1,797 grey pictures of 8x8, ten classes.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from reslab.data.dataset_info import DatasetInfo, ReadResult, download, download_dir, search_dirs
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.splits import split_off
from reslab.spec.errors import invalid

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: Path) -> np.ndarray:
    """The array in an idx file, gzipped or not: two zeros, 8 (uint8), the rank, the lengths big-endian, the bytes.

    Raises ValueError naming the file where it is not that or is cut short.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: cut short or not gzip ({error}); fetch it again") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise invalid(
            f"{path} as an idx file of bytes (it starts 00 00 08)",
            f"it starts {content[:4].hex(' ') or 'nowhere (0 bytes)'}",
        )
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">u4", rank, 4).tolist())
    num_bytes = int(np.prod(shape))
    if len(content) - 4 - 4 * rank != num_bytes:
        got = f"{len(content) - 4 - 4 * rank} (cut short or damaged)"
        raise invalid(f"{path} with {num_bytes} bytes of data", got, next_step="fetch it again")
    return np.frombuffer(content, np.uint8, num_bytes, 4 + 4 * rank).reshape(shape).copy()


def read_mnist(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """MNIST or a data set in its four files, found or downloaded; `entry.layout` is torchvision's class name."""
    folders = [
        candidate
        for directory in search_dirs(info, data_dir)
        for candidate in (directory, directory / info.layout / "raw", directory / "raw")
    ]
    raw_dir = next((folder for folder in folders if _has_all_files(folder)), None)
    if raw_dir is None:
        directory = download_dir(info, data_dir)
        expected = ", ".join(f"{name}[.gz]" for pair in _MNIST_FILES.values() for name in pair)
        download(
            info, lambda root: _download_mnist(info.layout, root), directory, search_dirs(info, data_dir), expected
        )
        raw_dir = directory / info.layout / "raw"
    return ReadResult({split: _read_split(raw_dir, *names) for split, names in _MNIST_FILES.items()}, str(raw_dir))


def _download_mnist(torchvision_name: str, root: str) -> None:
    import torchvision.datasets

    getattr(torchvision.datasets, torchvision_name)(root, download=True)


def _find_file(folder: Path, name: str) -> Path | None:
    # Some copies write a dot for the last dash but one: train-images.idx3-ubyte.
    spellings = (name, name.replace("-idx", ".idx"))
    return next(
        (path for spelling in spellings for suffix in ("", ".gz") if (path := folder / (spelling + suffix)).is_file()),
        None,
    )


def _has_all_files(folder: Path) -> bool:
    return all(_find_file(folder, name) for pair in _MNIST_FILES.values() for name in pair)


def _read_split(folder: Path, images_name: str, labels_name: str) -> TensorImageDataset:
    images_path, labels_path = _find_file(folder, images_name), _find_file(folder, labels_name)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise invalid(
            f"as many pictures in {images_path} as labels in {labels_path}", f"shapes {images.shape} and {labels.shape}"
        )
    return TensorImageDataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))


TEST_FRACTION = 0.2
TEST_SEED = 0


def read_digits(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Pixels v of 0..16 as round(255 v / 16); one fixed stratified split, 1,438 train and 359 test, in the record."""
    from sklearn.datasets import load_digits  # takes a second, which no other data set should pay

    digits = load_digits()
    pixels = np.round(digits.images * 255 / 16).astype(np.uint8)
    dataset = TensorImageDataset(torch.from_numpy(pixels)[:, None], torch.from_numpy(digits.target.astype(np.int64)))
    splits, record = split_off(dataset, TEST_FRACTION, TEST_SEED, info.classes, into="test")
    return ReadResult(splits, "scikit-learn", split_record=record)
