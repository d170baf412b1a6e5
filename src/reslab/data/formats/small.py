"""Small datasets: MNIST and its kin in idx files, and the handwritten digits that scikit-learn bundles."""

import gzip
import importlib.util
import zlib
from pathlib import Path

import numpy as np
import torch

from reslab.data.dataset_info import DatasetInfo, ReadResult, download_with_torchvision, search_dirs
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.splits import split_off
from reslab.spec.errors import invalid

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_DIGITS_TEST_FRACTION = 0.2
_DIGITS_TEST_SEED = 0


def read_idx(path: Path) -> np.ndarray:
    """Return the array in an idx file, gzipped or not: two zeros, 8 (uint8), rank, big-endian lengths, bytes.

    Raises ValueError naming the file if it is not idx or is truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or not gzip ({error}); download it again") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        got = f"it starts with {content[:4].hex(' ')}" if content else "an empty file"
        raise invalid(f"{path} as an idx file of bytes (it starts with 00 00 08)", got)
    rank = content[3]
    shape = tuple(np.frombuffer(content, ">u4", rank, 4).tolist())
    num_bytes = int(np.prod(shape))
    if len(content) - 4 - 4 * rank != num_bytes:
        got = f"{len(content) - 4 - 4 * rank} (truncated or damaged)"
        raise invalid(f"{path} with {num_bytes} bytes of data", got, next_step="download it again")
    return np.frombuffer(content, np.uint8, num_bytes, 4 + 4 * rank).reshape(shape).copy()


def read_mnist(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read MNIST or a dataset in the same four files, found or downloaded; `info.layout` is torchvision's class."""
    folders = [
        candidate
        for directory in search_dirs(info, data_dir)
        for candidate in (directory, directory / info.layout / "raw", directory / "raw")
    ]
    raw_dir = next((folder for folder in folders if _has_all_files(folder)), None)
    if raw_dir is None:
        expected = ", ".join(f"{name}[.gz]" for pair in _MNIST_FILES.values() for name in pair)
        raw_dir = download_with_torchvision(info, info.layout, data_dir, expected) / info.layout / "raw"
    return ReadResult({split: _read_split(raw_dir, *names) for split, names in _MNIST_FILES.items()}, str(raw_dir))


def _find_file(folder: Path, name: str) -> Path | None:
    # Some copies have a dot for a dash: train-images.idx3-ubyte.
    candidates = (folder / (base + suffix) for base in (name, name.replace("-idx", ".idx")) for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _has_all_files(folder: Path) -> bool:
    return all(_find_file(folder, name) for pair in _MNIST_FILES.values() for name in pair)


def _read_split(folder: Path, images_name: str, labels_name: str) -> TensorImageDataset:
    images_path, labels_path = _find_file(folder, images_name), _find_file(folder, labels_name)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        required = f"as many images in {images_path} as labels in {labels_path}"
        raise invalid(required, f"shapes {images.shape} and {labels.shape}")
    return TensorImageDataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))


def read_digits(info: DatasetInfo, data_dir: Path | None) -> ReadResult:
    """Read the digits, 8x8: pixels v of 0..16 become round(255 v / 16); a fixed stratified test split of 359 images."""
    table = read_digits_table()
    pixels = np.round(table[:, :-1].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    dataset = TensorImageDataset(torch.from_numpy(pixels)[:, None], torch.from_numpy(table[:, -1].astype(np.int64)))
    splits, record = split_off(dataset, _DIGITS_TEST_FRACTION, _DIGITS_TEST_SEED, info.classes, into="test")
    return ReadResult(splits, "scikit-learn", split_record=record)


def read_digits_table() -> np.ndarray:
    """Return one row an image: 64 pixels of 0..16, then the class.

    scikit-learn's file is read without importing scikit-learn, which takes two seconds; where the file is not at its
    place, scikit-learn knows where it is.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
