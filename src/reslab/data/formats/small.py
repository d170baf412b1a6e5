"""MNIST's file format, idx, and the data sets kept in it.

The handwritten digits that scikit-learn bundles: 1,797 grey pictures of 8x8, ten classes.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from reslab.data.dataset_info import Entry, Found, download, download_dir, places
from reslab.data.image_datasets import TensorImages
from reslab.data.splits import carve
from reslab.spec.errors import invalid

_FILES = {
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


def read_mnist_like(entry: Entry, data_dir: Path | None) -> Found:
    """MNIST or a data set in its four files, found or downloaded; `entry.layout` is torchvision's class name."""
    folders = [
        inner for place in places(entry, data_dir) for inner in (place, place / entry.layout / "raw", place / "raw")
    ]
    found = next((folder for folder in folders if _complete(folder)), None)
    if found is None:
        place = download_dir(entry, data_dir)
        wanted = ", ".join(f"{name}[.gz]" for pair in _FILES.values() for name in pair)
        download(entry, lambda root: _fetch(entry.layout, root), place, places(entry, data_dir), wanted)
        found = place / entry.layout / "raw"
    return Found({split: _read_split(found, *names) for split, names in _FILES.items()}, str(found))


def _fetch(torchvision_name: str, root: str) -> None:
    import torchvision.datasets

    getattr(torchvision.datasets, torchvision_name)(root, download=True)


def _file(folder: Path, name: str) -> Path | None:
    # Some copies write a dot for the last dash but one: train-images.idx3-ubyte.
    spellings = (name, name.replace("-idx", ".idx"))
    return next(
        (path for spelling in spellings for end in ("", ".gz") if (path := folder / (spelling + end)).is_file()), None
    )


def _complete(folder: Path) -> bool:
    return all(_file(folder, name) for pair in _FILES.values() for name in pair)


def _read_split(folder: Path, images_name: str, labels_name: str) -> TensorImages:
    images_path, labels_path = _file(folder, images_name), _file(folder, labels_name)
    assert images_path is not None
    assert labels_path is not None
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise invalid(
            f"as many pictures in {images_path} as labels in {labels_path}", f"shapes {images.shape} and {labels.shape}"
        )
    return TensorImages(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))


TEST_FRACTION = 0.2
TEST_SEED = 0


def read_digits(entry: Entry, data_dir: Path | None) -> Found:
    """Pixels v of 0..16 as round(255 v / 16); one fixed stratified split, 1,438 train and 359 test, in the record."""
    from sklearn.datasets import load_digits  # takes a second, which no other data set should pay

    bundled = load_digits()
    pixels = np.round(bundled.images * 255 / 16).astype(np.uint8)
    images = TensorImages(torch.from_numpy(pixels)[:, None], torch.from_numpy(bundled.target.astype(np.int64)))
    splits, record = carve(images, TEST_FRACTION, TEST_SEED, entry.classes, into="test")
    return Found(splits, "scikit-learn", split_record=record)
