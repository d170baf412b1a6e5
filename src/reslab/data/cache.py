"""Files of the cache folder, which can all be made again: decoded images, hashes and scans of a dataset's files.

Hashes and scans are kept until a file changes.
"""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reslab.data.decode import decode_image
from reslab.data.decode_limits import limits_key
from reslab.data.formats.file_listing import relative_name
from reslab.runtime.files import atomic_path, cache_dir

MIN_SECONDS_TO_CACHE = 0.5
_DECODED_FORMAT = "3"
_SCANS_FORMAT = "3"

MAX_HASHED_BYTES = 32 << 30
"""Files with more bytes in all count by samples: reading ImageNet's 140 GB would take an hour."""

SAMPLED_BYTES = 1 << 30
"""How much is read of such files in all, but at least two blocks of each."""

_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 12, 1 << 20
_MIN_BLOCKS, _TYPICAL_BLOCKS = 2, 16
_HASHES_FORMAT = "1"
_NUM_DIGITS = 16


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


def decode_cached(name: str, paths: list[Path], decode: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the images and labels of `decode()`, or of the cache for unchanged files (`file_state`).

    They are cached only if decoding takes longer than `MIN_SECONDS_TO_CACHE`.
    """
    cache_path = cache_dir() / "decoded" / f"{name}-{_files_digest(paths)}.npz"
    try:
        with cache_path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not cached yet, or damaged: decode
    start_seconds = time.perf_counter()
    images, labels = decode()
    if time.perf_counter() - start_seconds > MIN_SECONDS_TO_CACHE:
        arrays = {"images": images.numpy(), "labels": labels.numpy()}
        write_cached(cache_path, lambda file: np.savez(file, **arrays))
    return images, labels


def _files_digest(paths: list[Path]) -> str:
    digest = hashlib.sha256(_DECODED_FORMAT.encode())
    for path in paths:
        digest.update(os.fsencode(f"{path.resolve()}:{file_state(path.stat())}\n"))
    return digest.hexdigest()[:24]


def file_state(stat: os.stat_result) -> list[int]:
    """Return size, modification time, change time and inode of a file, of which one differs once it was replaced.

    Size and modification time alone do not tell: archives and `cp -p` give a file the time of another.
    """
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


@dataclass(frozen=True)
class BlockSample:
    """The sample of a file: `num_blocks` blocks of `block_bytes`, evenly spaced, the first and the last included."""

    num_blocks: int
    block_bytes: int

    @property
    def prefix(self) -> str:
        """The beginning of the digest of a sampled file, so that it equals no digest of a whole file."""
        return f"{self.num_blocks}x{self.block_bytes}:"

    def digest(self, path: Path, num_bytes: int) -> str:
        """Return the prefix and the first 16 hex digits of the SHA-256 of the file's size and its blocks."""
        sha = hashlib.sha256(f"{num_bytes}:".encode())
        with path.open("rb", buffering=0) as file:
            for block in range(self.num_blocks):
                file.seek((num_bytes - self.block_bytes) * block // (self.num_blocks - 1))
                sha.update(file.read(self.block_bytes))
        return self.prefix + sha.hexdigest()[:_NUM_DIGITS]


def content_digest(content: bytes | memoryview) -> str:
    """Return the first 16 hex digits of the SHA-256 of an image's bytes."""
    return hashlib.sha256(content).hexdigest()[:_NUM_DIGITS]


def is_sampled(digest: str) -> bool:
    """Return True if `file_digests` made this digest from a part of the file."""
    return ":" in digest


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Return `content_digest` of every file, read in threads.

    If the files have more than `MAX_HASHED_BYTES` in all, those larger than their share of `SAMPLED_BYTES` count by
    their size and evenly spaced blocks, and their digests say so (`is_sampled`): a change between the blocks that keeps
    the size is not noticed. A file is read again only when its `file_state` differs from the cached one.
    """
    stats = [path.stat() for path in paths]
    sample = _choose_sample([stat.st_size for stat in stats])
    states = [file_state(stat) for stat in stats]
    keys = [os.fspath(path) for path in paths]
    # One cache file a folder of class folders: splits of one dataset share it.
    root = os.path.commonpath(keys) if len(keys) > 1 else os.path.dirname(keys[0]) if keys else ""
    cache_path = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json"
    cache = read_json(cache_path)
    cached = cache.get("files", {}) if cache.get("format") == _HASHES_FORMAT else {}

    def digest(index: int) -> str:
        row, num_bytes = cached.get(keys[index]), stats[index].st_size
        applied = sample if sample and num_bytes > sample.num_blocks * sample.block_bytes else None
        if row and row[:4] == states[index] and _is_made_by(str(row[4]), applied):
            return str(row[4])
        return applied.digest(paths[index], num_bytes) if applied else _whole_digest(paths[index])

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, range(len(paths))))
    rows = {key: [*state, value] for key, state, value in zip(keys, states, digests, strict=True)}
    if any(cached.get(key) != row for key, row in rows.items()):
        write_json(cache_path, {"format": _HASHES_FORMAT, "files": {**cached, **rows}})
    return digests


def _choose_sample(sizes: Sequence[int]) -> BlockSample | None:
    """Return how files of these sizes are sampled; None if they are few enough bytes to be read whole."""
    if sum(sizes) <= MAX_HASHED_BYTES:
        return None
    share = SAMPLED_BYTES // len(sizes)
    block_bytes = min(max(share // _TYPICAL_BLOCKS, _MIN_BLOCK_BYTES), _MAX_BLOCK_BYTES)
    return BlockSample(max(share // block_bytes, _MIN_BLOCKS), block_bytes)


def _is_made_by(digest: str, sample: BlockSample | None) -> bool:
    return digest.startswith(sample.prefix) if sample else not is_sampled(digest)


def _whole_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_NUM_DIGITS]


class ScannedFile(NamedTuple):
    """A decoded file: size in bytes, height and width of the image or why it cannot be read, warning."""

    num_bytes: int
    height: int
    width: int
    error: str
    warning: str


def scan_images(location: Path, root: Path, paths: Sequence[Path]) -> dict[str, ScannedFile]:
    """Decode every image to its end and return the results by name.

    140 photographs of 500x375 take about half a second on two cores, from the cache a few milliseconds.
    """
    rows = scan_files("scans", location, root, paths, _scan_image)
    return {name: ScannedFile(*row) for name, row in rows.items()}


def _scan_image(path: Path) -> list[Any]:
    try:
        image = decode_image(path, collect_warning=True)
    except ValueError as error:
        return [0, 0, str(error).removeprefix(f"{path}: "), ""]
    height, width = image.pixels.shape[1:]
    return [height, width, "", image.warning]


def scan_files(
    kind: str, location: Path, root: Path, paths: Sequence[Path], scan: Callable[[Path], list[Any]]
) -> dict[str, list[Any]]:
    """Return [number of bytes, *scan(path)] of every file by its name, relative to `root`.

    The cache keeps the results of a kind and a location, values of JSON; a file is scanned again when its `file_state`
    changes. A file that does not exist has -1 bytes.
    """
    digest = hashlib.sha256(os.fsencode(location.resolve())).hexdigest()[:24]
    cache_path = cache_dir() / kind / f"{digest}.json"
    cache = read_json(cache_path)
    state = {"format": _SCANS_FORMAT, "limits": limits_key()}
    cached_rows = cache.get("files", {}) if {key: cache.get(key) for key in state} == state else {}
    names = [relative_name(root, path) for path in paths]
    with ThreadPoolExecutor() as pool:
        scanned = list(pool.map(lambda path, name: _scan_file(path, cached_rows.get(name), scan), paths, names))
    rows = dict(zip(names, scanned, strict=True))
    if rows != cached_rows:
        write_json(cache_path, {**state, "root": str(root.resolve()), "files": rows})
    return {name: [row[0], *row[len(_NO_FILE) :]] for name, row in rows.items()}


_NO_FILE = [-1, 0, 0, 0]  # the state of a broken link, which decoding reports


def _scan_file(path: Path, cached_row: list[Any] | None, scan: Callable[[Path], list[Any]]) -> list[Any]:
    try:
        state = file_state(path.stat())
    except OSError:
        state = _NO_FILE
    if cached_row and cached_row[: len(state)] == state:
        return cached_row
    return [*state, *scan(path)]
