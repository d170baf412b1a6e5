"""Hash the content of image files; the cache keeps the hashes until a file changes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reslab.data.cache import read_json, write_json
from reslab.runtime.files import cache_dir

MAX_HASHED_BYTES = 32 << 30
"""Datasets with more bytes in files count by names and sizes alone: reading ImageNet's 140 GB would take an hour."""
_CACHE_FORMAT = "1"


def content_digest(content: bytes | memoryview) -> str:
    """Return the first 16 hex digits of the SHA-256 of an image's bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Return `content_digest` of every file, read in threads; empty strings beyond `MAX_HASHED_BYTES` in all.

    A file is read again only when its size, modification time, change time or inode differs from the cached ones.
    """
    stats = [path.stat() for path in paths]
    if sum(stat.st_size for stat in stats) > MAX_HASHED_BYTES:
        return [""] * len(paths)
    states = [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]
    keys = [os.fspath(path) for path in paths]
    # One cache file a folder of class folders: splits of one dataset share it.
    root = os.path.commonpath(keys) if len(keys) > 1 else os.path.dirname(keys[0]) if keys else ""
    cache_path = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json"
    cache = read_json(cache_path)
    cached = cache.get("files", {}) if cache.get("format") == _CACHE_FORMAT else {}

    def digest(index: int) -> str:
        row = cached.get(keys[index])
        if row and row[:4] == states[index]:
            return str(row[4])
        return content_digest(paths[index].read_bytes())

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, range(len(paths))))
    rows = {key: [*state, value] for key, state, value in zip(keys, states, digests, strict=True)}
    if any(cached.get(key) != row for key, row in rows.items()):
        write_json(cache_path, {"format": _CACHE_FORMAT, "files": {**cached, **rows}})
    return digests
