"""Decoding a small-picture data set once: the tensors are kept in the cache while the files stay the same."""

import hashlib
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from reslab.data.cache import cache_dir, write_cached
from reslab.data.decode import read_image
from reslab.data.image_datasets import TensorImageDataset
from reslab.data.webdataset.tar import stack_images

MIN_SECONDS_TO_CACHE = 0.5
_FORMAT = "1"


def decode_cached(name: str, paths: list[Path], decode: Callable[[], TensorImageDataset]) -> TensorImageDataset:
    """What `decode()` makes of the files; from the cache where that holds it for files of the same sizes and times.

    It is kept there only when decoding took longer than `WORTH_KEEPING_SECONDS`; names of samples are not kept.
    """
    cache_path = cache_dir() / "decoded" / f"{name}-{_files_digest(paths)}.npz"
    try:
        with cache_path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return TensorImageDataset(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    start_seconds = time.perf_counter()
    decoded = decode()
    if time.perf_counter() - start_seconds > MIN_SECONDS_TO_CACHE:
        arrays = {"images": decoded.images.numpy(), "labels": decoded.labels.numpy()}
        write_cached(cache_path, lambda file: np.savez(file, **arrays))
    return TensorImageDataset(decoded.images, decoded.labels)


def _files_digest(paths: list[Path]) -> str:
    digest = hashlib.sha256(_FORMAT.encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]


def read_image_files(paths: list[Path], labels: list[int], channels: int) -> TensorImageDataset:
    """Picture files of one size as one tensor, decoded in threads (Pillow lets go of the lock for JPEG and PNG)."""
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda path: read_image(path, channels).numpy(), paths))
    return TensorImageDataset(
        stack_images(images, [str(path) for path in paths]), torch.tensor(labels, dtype=torch.int64)
    )
