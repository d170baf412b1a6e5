"""Files of the cache folder: downloads, decoded images, what is known about files; all of it can be made again."""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from reslab.data.image_datasets import TensorImageDataset
from reslab.runtime.files import atomic_path, cache_dir


def write_cached(path: Path, write: Callable[[IO[bytes]], Any]) -> bool:
    """Write a file of the cache atomically; return False if it cannot be written (disk full, read-only home).

    Only time depends on the cache, so a cache that cannot be written is not an error.
    """
    try:
        with atomic_path(path) as temp_path, temp_path.open("wb") as file:
            write(file)
    except OSError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of the cache; empty if there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> bool:
    """Write an object to a JSON file of the cache, as `write_cached` does."""
    return write_cached(path, lambda file: file.write(json.dumps(value).encode()))


MIN_SECONDS_TO_CACHE = 0.5
_CACHE_FORMAT = "2"


def decode_cached(name: str, paths: list[Path], decode: Callable[[], TensorImageDataset]) -> TensorImageDataset:
    """Return the images and labels of `decode()`, or of the cache for files of the same sizes and times.

    They are cached only if decoding takes longer than `MIN_SECONDS_TO_CACHE`. The names of images are dropped.
    """
    cache_path = cache_dir() / "decoded" / f"{name}-{_files_digest(paths)}.npz"
    try:
        with cache_path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return TensorImageDataset(torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not cached yet, or damaged: decode
    start_seconds = time.perf_counter()
    decoded = decode()
    if time.perf_counter() - start_seconds > MIN_SECONDS_TO_CACHE:
        arrays = {"images": decoded.images.numpy(), "labels": decoded.labels.numpy()}
        write_cached(cache_path, lambda file: np.savez(file, **arrays))
    return TensorImageDataset(decoded.images, decoded.labels)


def _files_digest(paths: list[Path]) -> str:
    digest = hashlib.sha256(_CACHE_FORMAT.encode())
    for path in paths:
        stat = path.stat()
        digest.update(os.fsencode(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}\n"))
    return digest.hexdigest()[:24]
