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
from reslab.data.decode import read_picture
from reslab.data.image_datasets import TensorImages
from reslab.data.webdataset.tar import stack_pictures

WORTH_KEEPING_SECONDS = 0.5
_FORMAT = "1"


def decoded_once(name: str, files: list[Path], decode: Callable[[], TensorImages]) -> TensorImages:
    """What `decode()` makes of the files; from the cache where that holds it for files of the same sizes and times.

    It is kept there only when decoding took longer than `WORTH_KEEPING_SECONDS`; names of samples are not kept.
    """
    kept = cache_dir() / "decoded" / f"{name}-{_state_of(files)}.npz"
    try:
        with kept.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return TensorImages(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    start_seconds = time.perf_counter()
    found = decode()
    if time.perf_counter() - start_seconds > WORTH_KEEPING_SECONDS:
        arrays = {"images": found.images.numpy(), "labels": found.labels.numpy()}
        write_cached(kept, lambda file: np.savez(file, **arrays))
    return TensorImages(found.images, found.labels)


def _state_of(files: list[Path]) -> str:
    found = hashlib.sha256(_FORMAT.encode())
    for path in files:
        stat = path.stat()
        found.update(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return found.hexdigest()[:24]


def read_files(paths: list[Path], labels: list[int], channels: int) -> TensorImages:
    """Picture files of one size as one tensor, decoded in threads (Pillow lets go of the lock for JPEG and PNG)."""
    with ThreadPoolExecutor() as pool:
        pictures = list(pool.map(lambda path: read_picture(path, channels).numpy(), paths))
    return TensorImages(
        stack_pictures(pictures, [str(path) for path in paths]), torch.tensor(labels, dtype=torch.int64)
    )
