"""Hash the content of image files; the cache keeps the hashes until a file changes."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reslab.data.cache import read_json, write_json
from reslab.runtime.files import cache_dir

MAX_HASHED_BYTES = 32 << 30
"""Files with more bytes in all count by samples: reading ImageNet's 140 GB would take an hour."""

SAMPLED_BYTES = 1 << 30
"""How much is read of such files in all, but at least two blocks of each."""

_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 12, 1 << 20
_MIN_BLOCKS, _TYPICAL_BLOCKS = 2, 16
_CACHE_FORMAT = "1"
_NUM_DIGITS = 16


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
    the size is not noticed. A file is read again only when its size, modification time, change time or inode differs
    from the cached ones.
    """
    stats = [path.stat() for path in paths]
    sample = _choose_sample([stat.st_size for stat in stats])
    states = [[stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for stat in stats]
    keys = [os.fspath(path) for path in paths]
    # One cache file a folder of class folders: splits of one dataset share it.
    root = os.path.commonpath(keys) if len(keys) > 1 else os.path.dirname(keys[0]) if keys else ""
    cache_path = cache_dir() / "hashes" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:24]}.json"
    cache = read_json(cache_path)
    cached = cache.get("files", {}) if cache.get("format") == _CACHE_FORMAT else {}

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
        write_json(cache_path, {"format": _CACHE_FORMAT, "files": {**cached, **rows}})
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
